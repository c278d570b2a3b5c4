//! Connections from outside to ports of a guest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use aegis_guest_link::{GuestConnection, LinkError};
use aegis_guest_protocol::messages::code;

use aegis_lifecycle::event::{Request, State};
use aegis_lifecycle::idle_policy::User;
use aegis_machines::clock::now_ms;
use aegis_machines::machine_run::MachineRun;
use aegis_machines::network::gateway_process::GatewayHandle;

use crate::error::InstanceError;
use crate::handle::InstanceHandle;
use crate::usage::{MOST_CONNECTIONS, UsageGuard};
use crate::view::View;

/// How long whoever connects waits for an instance to run.
pub(crate) const WAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after an instance woke a port may refuse because its server is not up yet.
pub(crate) const SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Somebody who uses a port of an instance, and counts as a connection until he is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    instance: InstanceHandle,
    usage: UsageGuard,
    /// Whether it has been found awake: then it is not booted again if somebody has it stopped.
    reached: AtomicBool,
    /// The machine that it was connected to.
    machine: Mutex<Option<Weak<MachineRun>>>,
}

impl ConnectionGuard {
    /// The instance as it is now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.instance.view()
    }

    /// Whether it runs at this moment, and nothing is under way that would change that.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.instance.usage().is_awake()
    }

    /// Returns when it runs: resumed or booted, if need be.
    ///
    /// # Errors
    /// If it is disabled, does not come up, or not in time.
    pub async fn wake(&self) -> Result<(), InstanceError> {
        if self.is_awake() {
            self.reached.store(true, Ordering::Relaxed);
            return Ok(());
        }
        // A command of `run` that has ended is not run again; its instance is about to be deleted.
        let request = match self.reached.swap(true, Ordering::Relaxed) {
            _ if self.view().spec.ephemeral => Request::Ensure,
            true => Request::WakeUnlessStopped,
            false => Request::Wake,
        };
        let (from, begun) = (self.view().state, Instant::now());
        let woken = tokio::time::timeout(WAKE_TIMEOUT, self.instance.request(request)).await;
        let woken = woken.unwrap_or(Err(InstanceError::NotReady(WAKE_TIMEOUT.as_secs())));
        match &woken {
            Ok(()) => self.instance.metrics().woken(from, begun.elapsed()),
            Err(_) => self.instance.metrics().not_woken(),
        }
        woken
    }

    /// Returns when the machine that it is connected to runs: resumed, if it stands still, but never booted. In a machine
    /// that somebody has just paused it waits until that goes on.
    ///
    /// # Errors
    /// If the machine is no more, or cannot go on.
    pub async fn go_on(&self) -> Result<(), InstanceError> {
        if self.is_awake() {
            return Ok(());
        }
        let (from, begun) = (self.view().state, Instant::now());
        self.instance.request(Request::ResumeForTraffic).await?;
        if from == State::Paused {
            self.instance.metrics().woken(from, begun.elapsed());
        }
        Ok(())
    }

    /// Returns when the machine that it was connected to is no more.
    pub async fn cut(&self) {
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match machine {
            Some(machine) => self.instance.machine_gone(&machine).await,
            None => std::future::pending().await,
        }
    }

    /// Connects to a port of the guest, waking it if need be. A refusal counts only when the server has had its time.
    ///
    /// # Errors
    /// [`InstanceError::PortRefused`] if nothing listens there; as for [`ConnectionGuard::wake`].
    pub async fn connect(&self, port: u16) -> Result<GuestConnection, InstanceError> {
        let until = tokio::time::Instant::now() + WAKE_TIMEOUT;
        loop {
            self.wake().await?;
            let late = |_| InstanceError::NotReady(WAKE_TIMEOUT.as_secs());
            let session = tokio::time::timeout_at(until, self.instance.next_session()).await.map_err(late)?;
            let Some(session) = session else { continue };
            let machine = self.instance.run().map(|run| Arc::downgrade(&run));
            *self.machine.lock().unwrap_or_else(PoisonError::into_inner) = machine;
            let patience = Duration::from_millis(self.server_timeout_ms());
            let connected = self.unless_paused(session.link().connect(port, patience)).await?;
            match connected {
                Ok(connection) => return Ok(connection),
                Err(LinkError::Guest(error)) if error.code == code::REFUSED => {
                    return Err(InstanceError::PortRefused(port));
                }
                // The machine is ending, or the conversation is taken up anew: whatever comes of it is waited for.
                Err(LinkError::Closed) => {
                    let over = self.instance.session_after(&session);
                    tokio::time::timeout_at(until, over).await.map_err(late)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How long from now a port may refuse because its server is not up yet.
    pub(crate) fn server_timeout_ms(&self) -> u64 {
        let awake_for = u64::try_from(now_ms().saturating_sub(self.view().awake_ms)).unwrap_or(0);
        let most = u64::try_from(SERVER_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        most.saturating_sub(awake_for)
    }

    /// Its gateway, if it has a machine with a network interface.
    pub(crate) fn gateway(&self) -> Option<Arc<GatewayHandle>> {
        self.instance.run()?.gateway()
    }

    /// Completes some work in the guest, waking it as often as somebody pauses it meanwhile.
    async fn unless_paused<T>(&self, work: impl Future<Output = T>) -> Result<T, InstanceError> {
        let mut view = self.instance.watch();
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                paused = view.wait_for(|view| matches!(view.state, State::Paused | State::Hibernated)) => {
                    if paused.is_err() {
                        return Err(InstanceError::Removed);
                    }
                }
            }
            self.wake().await?;
        }
    }

    /// Notes bytes that were carried.
    pub fn carried(&self, to_guest: u64, from_guest: u64) {
        self.usage.carried(to_guest, from_guest);
        self.instance.metrics().carried(to_guest, from_guest);
    }
}

impl InstanceHandle {
    /// Counts in somebody who is about to connect.
    ///
    /// # Errors
    /// If it is disabled or has too many connections.
    pub fn connect_guard(self) -> Result<ConnectionGuard, InstanceError> {
        if !self.view().enabled {
            return Err(InstanceError::Disabled);
        }
        match self.usage().enter(User::Connection) {
            Some(usage) => {
                self.metrics().connected();
                let reached = AtomicBool::new(self.usage().is_awake());
                Ok(ConnectionGuard { instance: self, usage, reached, machine: Mutex::default() })
            }
            None => Err(InstanceError::TooManyConnections(MOST_CONNECTIONS)),
        }
    }
}
