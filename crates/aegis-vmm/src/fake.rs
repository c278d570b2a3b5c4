//! A monitor without virtualisation: the guest is an ordinary process that speaks the guest protocol.
//!
//! It isolates nothing and is for tests: they drive instances through every state in milliseconds, with the real
//! harness on the other side of real sockets. It keeps the trait honest: what the layers above need beyond the
//! trait would not work here.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;

use crate::process::{Process, Wall};
use crate::{Capabilities, End, Endpoint, Machine, MachineHandle, MachineSpec, Probe, Vmm, VmmError};

/// Name of this backend.
pub const NAME: &str = "fake";
/// The guest program finds its control and bulk listeners under these descriptor numbers.
pub const GUEST_FDS: [i32; 2] = [10, 11];

/// The fake backend.
#[derive(Debug)]
pub struct Fake {
    guest: PathBuf,
}

impl Fake {
    /// A backend whose guests run the program `guest`.
    #[must_use]
    pub fn new(guest: PathBuf) -> Fake {
        Fake { guest }
    }
}

const SOCKETS: [&str; 2] = ["control.sock", "bulk.sock"];

#[async_trait]
impl Vmm for Fake {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pause: true,
            save: false,
            network: false,
            swaps_disks: false,
            dials_paused: true,
            accelerator: "none".to_owned(),
            accelerator_reason: "nothing is virtualised".to_owned(),
        }
    }

    async fn probe(&self) -> Result<Probe, VmmError> {
        Ok(Probe { version: "fake".to_owned(), executable: self.guest.clone() })
    }

    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let mut fds: Vec<(OwnedFd, i32)> = Vec::new();
        for (name, fd) in SOCKETS.into_iter().zip(GUEST_FDS) {
            let bound = crate::listen(&spec.run_dir.join(name));
            fds.push((bound.map_err(VmmError::io("bind the guest's sockets"))?.into(), fd));
        }
        let console =
            std::fs::File::create(&spec.console_log).map_err(VmmError::io("make the console log"))?;
        let mut command = Command::new(&self.guest);
        command.arg(&spec.name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(console);
        let process = Process::spawn(command, fds, Wall::None).map_err(VmmError::io("start the guest"))?;
        Ok(Arc::new(FakeMachine {
            process,
            run_dir: spec.run_dir.clone(),
            console_log: spec.console_log.clone(),
        }))
    }

    /// A guest here is an ordinary process of a test, which ends it.
    async fn end_strays(&self, _disks: &Path, _known: &[i32]) -> Vec<String> {
        Vec::new()
    }

    async fn recover(&self, handle: &MachineHandle) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        let process = Process::adopt(&handle.process).map_err(VmmError::io("find the guest"))?;
        Ok(process.map(|process| -> Arc<dyn Machine> {
            Arc::new(FakeMachine {
                process,
                run_dir: handle.run_dir.clone(),
                console_log: handle.console_log.clone(),
            })
        }))
    }
}

/// The processes that the guest started: all by its main thread, the only one it has.
fn children(guest: i32) -> Vec<Pid> {
    let list = std::fs::read_to_string(format!("/proc/{guest}/task/{guest}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)).collect()
}

#[derive(Debug)]
struct FakeMachine {
    process: Process,
    run_dir: PathBuf,
    console_log: PathBuf,
}

#[async_trait]
impl Machine for FakeMachine {
    fn handle(&self) -> MachineHandle {
        MachineHandle {
            backend: NAME.to_owned(),
            process: self.process.id().clone(),
            run_dir: self.run_dir.clone(),
            console_log: self.console_log.clone(),
            modules: None,
        }
    }

    async fn dial(&self, endpoint: Endpoint) -> Result<UnixStream, VmmError> {
        let [control, bulk] = SOCKETS;
        let name = match endpoint {
            Endpoint::Control => control,
            Endpoint::Bulk => bulk,
            Endpoint::Files | Endpoint::Network => {
                return Err(VmmError::Refused {
                    action: "connect to the guest",
                    message: "this guest is the host's own process".to_owned(),
                });
            }
        };
        UnixStream::connect(self.run_dir.join(name)).await.map_err(VmmError::io("connect to the guest"))
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.process.signal(Signal::STOP).map_err(VmmError::io("stop the guest"))
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.process.signal(Signal::CONT).map_err(VmmError::io("continue the guest"))
    }

    async fn is_paused(&self) -> Result<bool, VmmError> {
        Ok(self.process.is_stopped())
    }

    /// A machine takes its processes with it when it ends; this guest's are this host's and would stay.
    async fn stop(&self) {
        for child in children(self.process.id().pid) {
            // One that has ended meanwhile needs no end.
            let _gone = kill_process(child, Signal::KILL);
        }
        self.process.kill().await;
    }

    async fn ended(&self) -> End {
        self.process.ended().await
    }
}
