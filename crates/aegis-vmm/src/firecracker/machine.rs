//! A machine of Firecracker's whose process runs, or has just ended.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::configuration::{CreateSnapshot, LoadSnapshot, VmState};
use super::sockets::Sockets;
use super::{api, saved_state};
use crate::monitor::Monitor;
use crate::{End, Endpoint, Machine, MachineHandle, MemoryBuilder, Saved, VmmError};

const PAUSED: VmState = VmState { state: "Paused" };
const RESUMED: VmState = VmState { state: "Resumed" };

/// How long a guest that has gone on may take to close its connections.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to `GET /`, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct InstanceInfo {
    state: String,
}

#[derive(Debug)]
pub(super) struct FirecrackerMachine {
    monitor: Monitor,
    sockets: Sockets,
    handle: MachineHandle,
    /// Whether its guest closes its connections when it goes on: it was saved, or is one that was.
    closes_connections: AtomicBool,
}

impl FirecrackerMachine {
    pub(super) fn new(monitor: Monitor, sockets: Sockets, handle: MachineHandle) -> FirecrackerMachine {
        FirecrackerMachine { monitor, sockets, handle, closes_connections: AtomicBool::new(false) }
    }

    /// Waits until the guest, which has gone on, has closed the connections that it had before. One that does not get there
    /// is found out by whoever speaks to it next.
    async fn connections_closed(&self) {
        if self.closes_connections.swap(false, Ordering::AcqRel) {
            let action = "wait for the guest";
            let met = self.monitor.while_it_lives(action, self.sockets.meet_sentinel());
            let _met = tokio::time::timeout(SENTINEL_TIMEOUT, met).await;
        }
    }

    /// A connection to the sentinel that is open while the machine is saved, which is why the guest knows of it when it goes on.
    async fn sentinel(&self) -> Result<UnixStream, VmmError> {
        // It may stand still, and connections are made by a guest that goes on.
        let action = "save the machine";
        self.set_state(action, RESUMED).await?;
        let met = self.monitor.while_it_lives(action, self.sockets.meet_sentinel());
        let met = tokio::time::timeout(SENTINEL_TIMEOUT, met).await;
        met.map_err(|_| VmmError::io(action)(io::ErrorKind::TimedOut.into()))?
    }

    async fn api(&self, action: &'static str) -> Result<UnixStream, VmmError> {
        self.monitor.while_it_lives(action, self.sockets.api()).await
    }

    async fn set_state(&self, action: &'static str, state: VmState) -> Result<(), VmmError> {
        api::call(self.api(action).await?, action, (Method::PATCH, "/vm"), &state).await
    }

    /// Takes up the state that the process was given.
    pub(super) async fn load(&self, resume: bool) -> Result<(), VmmError> {
        let action = "restore the machine";
        let call = (Method::PUT, "/snapshot/load");
        api::call(self.api(action).await?, action, call, &LoadSnapshot::new(resume)).await?;
        self.closes_connections.store(true, Ordering::Release);
        if resume {
            self.connections_closed().await;
        }
        Ok(())
    }

    fn proceed(&self) -> Result<(), VmmError> {
        self.monitor.proceed().map_err(VmmError::io("continue Firecracker"))
    }
}

#[async_trait]
impl Machine for FirecrackerMachine {
    fn handle(&self) -> MachineHandle {
        self.handle.clone()
    }

    async fn dial(&self, endpoint: Endpoint) -> Result<UnixStream, VmmError> {
        self.monitor.while_it_lives("connect to the machine", self.sockets.dial(endpoint)).await
    }

    async fn take_up(&self) -> Result<(), VmmError> {
        self.load(false).await
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.set_state("pause the machine", PAUSED).await?;
        self.monitor.suspend().map_err(VmmError::io("stop Firecracker"))
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.proceed()?;
        self.set_state("resume the machine", RESUMED).await?;
        self.connections_closed().await;
        Ok(())
    }

    async fn save(&self, memory: MemoryBuilder) -> Result<Saved, VmmError> {
        let action = "save the machine";
        self.proceed()?;
        let sentinel = self.sentinel().await?;
        self.set_state(action, PAUSED).await?;
        let call = (Method::PUT, "/snapshot/create");
        api::call(self.api(action).await?, action, call, &CreateSnapshot::whole()).await?;
        self.closes_connections.store(true, Ordering::Release);
        drop(sentinel);
        let pid = self.monitor.process.id().pid;
        let taken = tokio::task::spawn_blocking(move || saved_state::take(pid, memory)).await;
        let taken = taken.map_err(io::Error::other).and_then(std::convert::identity);
        taken.map_err(VmmError::io("read the machine's state"))
    }

    async fn is_paused(&self) -> Result<bool, VmmError> {
        if self.monitor.is_suspended() {
            return Ok(true);
        }
        let action = "ask for the machine's state";
        let info: InstanceInfo = api::get(self.api(action).await?, action, "/").await?;
        Ok(info.state == PAUSED.state)
    }

    async fn stop(&self) {
        self.monitor.process.kill().await;
    }

    async fn ended(&self) -> End {
        self.monitor.ended().await
    }
}
