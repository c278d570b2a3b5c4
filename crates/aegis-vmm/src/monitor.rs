//! What the monitors of all backends have in common: a process, a console, and what is heard of their end.

use std::fs::File;
use std::sync::Arc;

use crate::process::Process;
use crate::{Console, End, stderr_log};

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
}

impl Monitor {
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
