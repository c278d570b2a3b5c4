//! A process's streams on our own: what `run` and `exec` share.

use std::io::{self, Read};

use aegis_api::stream::{Exit, Frame};
use aegis_client::{ProcessReader, ProcessWriter};
use bytes::Bytes;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use crate::failure::Failure;
use crate::output::{pass_on, say};
use crate::terminal;

/// How much of standard input is read at once, bytes.
const INPUT_CHUNK: usize = 64 << 10;
/// How many chunks of standard input wait.
const INPUT_QUEUE: usize = 4;

/// How a stream of frames ended.
#[derive(Debug)]
pub enum End {
    /// The process ended.
    Exit(Exit),
    /// Aegis failed.
    Failed(Failure),
    /// Whoever read our output has gone.
    ReaderGone,
    /// The daemon has gone.
    DaemonGone,
}

/// Copies a process's output to ours until it ends. Counts what was passed on, per stream.
///
/// # Errors
/// If our output cannot be written.
pub async fn copy_output(reader: &mut ProcessReader, passed: &mut [u64; 2]) -> Result<End, Failure> {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    loop {
        let there = match reader.next().await? {
            None => return Ok(End::DaemonGone),
            Some(Frame::Stdout(bytes)) => {
                let there = pass_on(&mut out, &bytes)?;
                passed[0] += bytes.len() as u64;
                there
            }
            Some(Frame::Stderr(bytes)) => {
                let there = pass_on(&mut err, &bytes)?;
                passed[1] += bytes.len() as u64;
                there
            }
            Some(Frame::Exit(exit)) => return Ok(End::Exit(exit)),
            Some(Frame::Error(error)) => return Ok(End::Failed(error.into())),
            Some(Frame::Notice(text)) => {
                say(&text);
                true
            }
            Some(_) => true,
        };
        if !there {
            return Ok(End::ReaderGone);
        }
    }
}

/// Standard input, read by a thread of its own: a terminal cannot be read in any other way.
#[derive(Debug)]
pub struct Input {
    chunks: mpsc::Receiver<Bytes>,
}

impl Input {
    /// Starts reading.
    #[must_use]
    pub fn start() -> Input {
        let (sender, chunks) = mpsc::channel(INPUT_QUEUE);
        // Ends with standard input, or with the program.
        let started = std::thread::Builder::new().spawn(move || {
            let mut stdin = io::stdin().lock();
            let mut buffer = vec![0; INPUT_CHUNK];
            while let Ok(count @ 1..) = stdin.read(&mut buffer) {
                let chunk = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                if sender.blocking_send(chunk).is_err() {
                    return;
                }
            }
        });
        if let Err(error) = started {
            say(&format!("standard input is not read: {error}"));
        }
        Input { chunks }
    }
}

/// What to send to a process besides its input.
#[derive(Debug)]
pub struct Control {
    frames: mpsc::Receiver<Frame>,
}

impl Control {
    /// A way to send frames to a process from elsewhere.
    #[must_use]
    pub fn channel() -> (mpsc::Sender<Frame>, Control) {
        let (sender, frames) = mpsc::channel(8);
        (sender, Control { frames })
    }
}

/// Sends input, changes of the terminal's size, and other frames to a process, until the connection breaks.
pub async fn send_input(
    writer: &mut ProcessWriter,
    mut input: Option<&mut Input>,
    tty: bool,
    control: &mut Control,
) {
    let mut resized = if tty { signal(SignalKind::window_change()).ok() } else { None };
    loop {
        let chunk = async {
            match &mut input {
                Some(input) => input.chunks.recv().await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            chunk = chunk => if let Some(bytes) = chunk { Frame::Stdin(bytes) } else {
                input = None;
                Frame::StdinEnd
            },
            Some(frame) = control.frames.recv() => frame,
            () = changed(&mut resized) => Frame::Resize(terminal::size()),
        };
        if writer.send(&frame).await.is_err() {
            // The other direction tells why.
            return std::future::pending().await;
        }
    }
}

async fn changed(resized: &mut Option<Signal>) {
    match resized {
        Some(resized) => {
            // Ends only with the program.
            let _some = resized.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The signals that end programs, as they come.
#[derive(Debug)]
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupts {
    /// Begins to listen.
    ///
    /// # Errors
    /// The system's.
    pub fn listen() -> Result<Interrupts, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")));
        Ok(Interrupts {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next one's number.
    pub async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
            _ = self.hangup.recv() => 1,
        }
    }
}

/// How long after an interrupt it is said that the command has not ended.
const EXPECTED_END: Duration = Duration::from_secs(2);

/// Says once that a command goes on after an interrupt: nobody would know what else to do.
#[derive(Debug, Default)]
pub struct Reminder {
    at: Option<Instant>,
}

impl Reminder {
    /// The command was told to end.
    pub fn begin(&mut self) {
        self.at = Some(Instant::now() + EXPECTED_END);
    }

    /// Waits until it is to be said, which is once.
    pub async fn due(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Says it.
    pub fn say(&mut self) {
        self.at = None;
        say("the command goes on after the interrupt; a second Ctrl-C ends it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reminder_comes_once_and_some_time_after_the_interrupt() {
        let is_due = async |reminder: &Reminder, within| {
            tokio::time::timeout(Duration::from_secs(within), reminder.due()).await.is_ok()
        };
        let mut reminder = Reminder::default();
        assert!(!is_due(&reminder, 60).await, "nobody has interrupted it");
        reminder.begin();
        assert!(!is_due(&reminder, 1).await);
        assert!(is_due(&reminder, 2).await);
        reminder.say();
        assert!(!is_due(&reminder, 60).await);
    }
}
