//! A server of this host in the place of a guest's.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aegis_router::{Backends, InstanceName, Protocol, Refusal, Stream, Target, Unresolved, Upstream};
use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// One instance, whose ports are this host's.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// Whether it runs.
    pub(crate) awake: AtomicBool,
    /// Lets it wake.
    pub(crate) may_wake: Notify,
    /// How often it was woken.
    pub(crate) wakes: AtomicUsize,
    /// Connections made to it.
    pub(crate) connections: AtomicUsize,
    /// Visits that have not ended.
    pub(crate) visits: AtomicUsize,
    /// Whether its machine is about to end, and hears what is said to it all the same.
    pub(crate) ending: AtomicBool,
    /// How often somebody asked for it to go on.
    pub(crate) asked: AtomicUsize,
    /// Whether its machine is no more.
    pub(crate) stopped: AtomicBool,
    /// Tells its connections that it is no more.
    pub(crate) cut: Notify,
    /// Port of its server.
    pub(crate) port: u16,
}

impl Host {
    pub(crate) fn awake(port: u16) -> Arc<Host> {
        Arc::new(Host { awake: AtomicBool::new(true), port, ..Host::default() })
    }

    pub(crate) fn asleep(port: u16) -> Arc<Host> {
        Arc::new(Host { port, ..Host::default() })
    }

    pub(crate) fn target(&self, protocol: Protocol) -> Target {
        Target { instance: "inst-1".into(), name: "web".into(), guest_port: self.port, protocol }
    }
}

/// The backends with this one instance.
#[derive(Debug, Clone)]
pub(crate) struct Only(pub(crate) Arc<Host>);

impl Backends for Only {
    fn instance_of_port(&self, _public_port: u16) -> Option<aegis_router::InstanceIdentity> {
        None
    }

    fn upstream(&self, target: &Target) -> Result<Arc<dyn Upstream>, Refusal> {
        self.0.visits.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(OnHost { host: Arc::clone(&self.0), port: target.guest_port }))
    }

    fn resolve(&self, wanted: &InstanceName) -> Result<Target, Unresolved> {
        match wanted {
            InstanceName::Handle(name) if name == "web" => Ok(self.0.target(Protocol::Http)),
            InstanceName::Only => Ok(self.0.target(Protocol::Http)),
            _ => Err(Unresolved { message: "no such instance".into(), names: vec!["web".into()] }),
        }
    }
}

#[derive(Debug)]
struct OnHost {
    host: Arc<Host>,
    port: u16,
}

impl Drop for OnHost {
    fn drop(&mut self) {
        self.host.visits.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Upstream for OnHost {
    fn is_awake(&self) -> bool {
        self.host.awake.load(Ordering::SeqCst)
    }

    fn state(&self) -> &'static str {
        if self.is_awake() { "running" } else { "paused" }
    }

    async fn wake(&self) -> Result<(), Refusal> {
        if self.is_awake() {
            return Ok(());
        }
        let woken = tokio::time::timeout(Duration::from_secs(30), self.host.may_wake.notified()).await;
        woken.map_err(|_| Refusal::TimedOut(Duration::from_secs(30)))?;
        self.host.wakes.fetch_add(1, Ordering::SeqCst);
        self.host.awake.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn go_on(&self) -> Result<(), Refusal> {
        self.host.asked.fetch_add(1, Ordering::SeqCst);
        if self.host.ending.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.host.stopped.load(Ordering::SeqCst) {
            return Err(Refusal::Stopped("it is stopped".into()));
        }
        self.wake().await
    }

    async fn cut(&self) {
        self.host.cut.notified().await;
    }

    async fn connect(&self) -> Result<Stream, Refusal> {
        self.wake().await?;
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let stream = TcpStream::connect(address).await.map_err(|_| Refusal::PortRefused(self.port))?;
        self.host.connections.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(stream))
    }

    fn passed(&self, _to_guest: u64, _from_guest: u64) {}
}
