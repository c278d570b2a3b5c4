//! The router before servers of this host, to be measured without a guest: its share and nothing else.
//!
//! `host-router TCP_PORT HTTP_PORT` opens a public port that leads to the first and a name router that leads to the second,
//! prints both numbers, and serves until its standard input ends.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for developers; what fails, fails loudly"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use aegis_router::{
    Backends, InstanceIdentity, InstanceName, Listeners, NameRouter, Protocol, Refusal, Stream, Target,
    Unresolved, Upstream,
};
use async_trait::async_trait;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[derive(Debug)]
struct Host {
    http_port: u16,
}

#[derive(Debug)]
struct VirtioPort(u16);

fn target(port: u16) -> Target {
    Target { instance: "inst-host".into(), name: "host".into(), guest_port: port, protocol: Protocol::Http }
}

impl Backends for Host {
    fn instance_of_port(&self, _public_port: u16) -> Option<InstanceIdentity> {
        None
    }

    fn upstream(&self, target: &Target) -> Result<Arc<dyn Upstream>, Refusal> {
        Ok(Arc::new(VirtioPort(target.guest_port)))
    }

    fn resolve(&self, _wanted: &InstanceName) -> Result<Target, Unresolved> {
        Ok(target(self.http_port))
    }
}

#[async_trait]
impl Upstream for VirtioPort {
    fn is_awake(&self) -> bool {
        true
    }

    fn state(&self) -> &'static str {
        "running"
    }

    async fn wake(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn go_on(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn cut(&self) {
        std::future::pending().await
    }

    async fn connect(&self) -> Result<Stream, Refusal> {
        let connected = TcpStream::connect((LOOPBACK, self.0)).await;
        let stream = connected.map_err(|_| Refusal::PortRefused(self.0))?;
        stream.set_nodelay(true).map_err(|error| Refusal::Failed(error.to_string()))?;
        Ok(Box::new(stream))
    }

    fn passed(&self, _to_guest: u64, _from_guest: u64) {}
}

fn main() {
    let ports: Vec<u16> = std::env::args().skip(1).map(|text| text.parse().expect("a port")).collect();
    let [tcp_port, http_port] = ports.try_into().expect("two ports");
    // As the daemon.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let backends: Arc<dyn Backends> = Arc::new(Host { http_port });
        let listeners = Listeners::new(Arc::clone(&backends));
        let public = listeners.open(LOOPBACK, 0, target(tcp_port)).expect("a public port");
        let names = NameRouter::open(SocketAddr::new(LOOPBACK, 0), backends).expect("a name router");
        println!("{public} {}", names.address().port());
        let mut rest = Vec::new();
        tokio::io::stdin().read_to_end(&mut rest).await.expect("the end of standard input");
    });
}
