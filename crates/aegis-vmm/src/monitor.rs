//! What the monitors of all backends have in common: a process, a console, and what is heard of their end.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use tokio::net::UnixStream;

use crate::process::Process;
use crate::{Console, End, VmmError, stderr_log};

/// How much of what it has said explains an unexpected end, lines.
const LINES: usize = 3;

/// A monitor's process, and what is heard of it.
#[derive(Debug)]
pub(crate) struct Monitor {
    /// The process.
    pub(crate) process: Arc<Process>,
    /// What its guest prints.
    pub(crate) console: Console,
    /// What it says itself, if it was started by this daemon.
    pub(crate) log: Option<Arc<File>>,
    /// Whether its process was told to stop. The kernel takes its time to do that: until then the process looks as if it
    /// ran, takes connections, and answers nothing.
    stopped: AtomicBool,
}

impl Monitor {
    pub(crate) fn new(process: Arc<Process>, console: Console, log: Option<Arc<File>>) -> Monitor {
        Monitor { process, console, log, stopped: AtomicBool::new(false) }
    }

    /// Has the process stand still.
    pub(crate) fn suspend(&self) -> io::Result<()> {
        self.stopped.store(true, Ordering::Release);
        self.process.signal(Signal::STOP)
    }

    /// Lets the process go on. A stop that the kernel has not carried out yet never will be.
    pub(crate) fn proceed(&self) -> io::Result<()> {
        self.process.signal(Signal::CONT)?;
        self.stopped.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether the process stands still, or is about to.
    pub(crate) fn is_suspended(&self) -> bool {
        self.stopped.load(Ordering::Acquire) || self.process.is_stopped()
    }

    /// What `connecting` gives, unless the process ends before.
    pub(crate) async fn while_it_lives(
        &self,
        action: &'static str,
        connecting: impl Future<Output = io::Result<UnixStream>>,
    ) -> Result<UnixStream, VmmError> {
        let gone = || io::Error::new(io::ErrorKind::ConnectionRefused, "it has ended");
        let stream = tokio::select! {
            biased;
            stream = connecting => stream,
            _end = self.process.ended() => Err(gone()),
        };
        stream.map_err(VmmError::io(action))
    }

    /// Waits until the machine is no more.
    pub(crate) async fn ended(&self) -> End {
        let end = tokio::select! {
            biased;
            panic = async { match self.console.panicked().await {
                Some(line) => line,
                None => std::future::pending().await,
            }} => Some(panic),
            end = self.process.ended() => match end {
                // The console's end tells more than the process's.
                End::Exited(0, _) | End::Gone => self.console.panicked().await,
                End::Exited(code, _) => {
                    let words = self.log.as_ref().map(|log| stderr_log::last(log, LINES)).unwrap_or_default();
                    return End::Exited(code, words.join("; "));
                }
                other => return other,
            },
        };
        match end {
            Some(line) => {
                // A panicked guest does not end its machine on every accelerator.
                self.process.kill().await;
                End::Panic(line)
            }
            None => self.process.ended().await,
        }
    }
}
