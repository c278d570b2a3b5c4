//! The session with a guest: output of its command flows to [`Output`], its events to the machine's owner.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aegis_guest_link::{Events, GuestLink, GuestStream, LinkError, Resume};
use aegis_guest_protocol::messages::{
    Event as GuestEvent, EventNote, Exec, ExitStatus, Process, WORKLOAD_ERR, WORKLOAD_IO, code,
};
use aegis_guest_protocol::rpc::RpcError;
use aegis_lifecycle::idle_policy::Lease;
use aegis_vmm::{Endpoint, Machine};
use tokio::sync::{oneshot, watch};

use crate::clock::now_ms;
use crate::output::{Output, OutputStream};
use crate::reporter::{MachineEvent, Reporter};

/// The first version of the protocol in which words of commands are of any bytes.
const ANY_WORDS: u32 = 9;
/// How long a guest may take to answer what is said first before it is asked again over new pipes, and how long then.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
const SECOND_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a guest that is up may take to greet and to answer, each time that it is asked.
const REOPEN_TIMEOUTS: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(23)];

/// A session with a guest.
#[derive(Debug)]
pub struct Session {
    link: GuestLink,
    /// The version of the protocol that both ends speak.
    version: u32,
    stdin: GuestStream,
    stderr: GuestStream,
    execs: Mutex<HashMap<u64, oneshot::Sender<ExitStatus>>>,
    next_exec: AtomicU64,
    /// Whether the guest has said goodbye.
    goodbye: watch::Sender<bool>,
    /// How the command's two output streams fare.
    taken: watch::Sender<Taken>,
}

/// How far the command's output has been taken.
#[derive(Debug, Default, Clone, Copy)]
struct Taken {
    /// Streams taken to their end.
    ended: u8,
    /// Whether one broke off before.
    broken: bool,
}

/// A process started by `exec`.
#[derive(Debug)]
pub struct GuestProcess {
    /// Its number.
    pub exec_id: u64,
    /// Its standard input and output; shared, because both directions are served at once.
    pub io: Arc<GuestStream>,
    /// Its standard error.
    pub err: GuestStream,
    /// How it ended, once it has.
    pub exited: oneshot::Receiver<ExitStatus>,
}

/// A session that ended sooner was brief, and so many of them in a row are no accident.
const SHORT_SESSION: Duration = Duration::from_secs(1);
const MOST_SHORT_SESSIONS: u32 = 16;

/// How many sessions in a row were brief: a guest that breaks the protocol each time would be asked for ever.
#[derive(Debug, Default)]
pub struct ShortSessions(u32);

impl ShortSessions {
    /// Waits for the end of a session.
    pub async fn note(&mut self, session: impl Future<Output = ()>) {
        let began = Instant::now();
        session.await;
        self.0 = if began.elapsed() < SHORT_SESSION { self.0 + 1 } else { 0 };
    }

    /// Whether another one would be no better.
    pub fn is_hopeless(&self) -> bool {
        self.0 >= MOST_SHORT_SESSIONS
    }
}

/// Whoever waits for an exec learns that nobody will ever tell, when a conversation is over or given up: a machine that goes to
/// disk says no word of it.
struct EndPendingExecs<'s>(&'s Session);

impl Drop for EndPendingExecs<'_> {
    fn drop(&mut self) {
        self.0.execs().clear();
    }
}

impl Session {
    /// Connects to the guest of `machine`. Waits while it boots. A guest that has not heard what was said is asked once more.
    pub async fn open(
        machine: &dyn Machine,
        resume: Resume,
    ) -> Result<(Arc<Session>, Events, bool), LinkError> {
        match Session::connect(machine, resume, FIRST_TIMEOUT).await {
            Err(LinkError::Timeout(what)) => {
                tracing::warn!(what, "a guest does not answer, and is asked again");
                let again = Session::connect(machine, Resume { returning: true, ..resume }, SECOND_TIMEOUT);
                tokio::time::timeout(SECOND_TIMEOUT, again).await.unwrap_or(Err(LinkError::Timeout(what)))
            }
            other => other,
        }
    }

    /// Connects to a guest that is up, after a session that broke off or was an earlier daemon's. One that stands still with its
    /// machine is waited for. One that does not answer is asked over new pipes: QEMU 7.2 keeps back for good what a guest says to
    /// whoever comes next, if it noticed by a write of the guest's that the last one had gone (`flush_buf` of its
    /// `hw/char/virtio-console.c` throttles a port that it has just closed), and closing a pipe ends that.
    ///
    /// # Errors
    /// [`LinkError`]: the guest is lost.
    pub async fn reopen(
        machine: &dyn Machine,
        resume: Resume,
    ) -> Result<(Arc<Session>, Events, bool), LinkError> {
        let mut patience = REOPEN_TIMEOUTS.iter();
        loop {
            let Some(wait) = patience.next() else { return Err(LinkError::Timeout("the greeting")) };
            let opened = tokio::time::timeout(*wait, Session::connect(machine, resume, *wait)).await;
            match opened.unwrap_or(Err(LinkError::Timeout("the greeting"))) {
                Err(LinkError::Timeout(_)) if machine.is_paused().await.unwrap_or(false) => {
                    patience = REOPEN_TIMEOUTS.iter();
                }
                Err(LinkError::Timeout(what)) => {
                    tracing::warn!(what, "a guest does not answer, and is asked again");
                }
                opened => return opened,
            }
        }
    }

    async fn connect(
        machine: &dyn Machine,
        resume: Resume,
        patience: Duration,
    ) -> Result<(Arc<Session>, Events, bool), LinkError> {
        let dial = async |endpoint| machine.dial(endpoint).await.map_err(std::io::Error::other);
        let control = dial(Endpoint::Control).await?;
        let bulk = dial(Endpoint::Bulk).await?;
        let (link, hello, events) = GuestLink::open(control, bulk, resume, patience).await?;
        let (stdin, stderr) = link
            .workload_stream(WORKLOAD_IO)
            .zip(link.workload_stream(WORKLOAD_ERR))
            .ok_or(LinkError::Closed)?;
        let session = Session {
            link,
            version: hello.version,
            stdin,
            stderr,
            execs: Mutex::default(),
            // Numbers of an earlier daemon must not come again while its processes may live.
            next_exec: AtomicU64::new(u64::try_from(now_ms()).unwrap_or(0) << 20),
            goodbye: watch::Sender::new(false),
            taken: watch::Sender::new(Taken::default()),
        };
        Ok((Arc::new(session), events, hello.workload_started))
    }

    /// The link, for calls.
    #[must_use]
    pub fn link(&self) -> &GuestLink {
        &self.link
    }

    /// The command's standard input.
    #[must_use]
    pub fn stdin(&self) -> &GuestStream {
        &self.stdin
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<ExitStatus>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process beside the command.
    ///
    /// # Errors
    /// The guest's, or the link's; [`code::VERSION`] if the guest is older than words that are no text.
    pub async fn exec(&self, process: Process) -> Result<GuestProcess, LinkError> {
        self.execute(process, false).await
    }

    /// Starts a process beside the command that goes on whoever waits for it, and keeps nothing awake.
    ///
    /// # Errors
    /// As for [`Session::exec`].
    pub async fn exec_detached(&self, process: Process) -> Result<GuestProcess, LinkError> {
        self.execute(process, true).await
    }

    async fn execute(&self, process: Process, detached: bool) -> Result<GuestProcess, LinkError> {
        if self.version < ANY_WORDS && process.command.iter().any(|word| word.to_str().is_none()) {
            let text = "the guest was started by an older version of Aegis, to which words that are no UTF-8 \
                        cannot be passed; restart the instance";
            return Err(LinkError::Guest(RpcError::new(code::VERSION, text)));
        }
        let exec_id = self.next_exec.fetch_add(1, Ordering::Relaxed);
        let (io, err) = (self.link.open_stream(), self.link.open_stream());
        let (tell, exited) = oneshot::channel();
        // Before the call: a quick process ends before its answer is here.
        self.execs().insert(exec_id, tell);
        let call = Exec { exec_id, process, io: io.id(), err: err.id(), detached };
        match self.link.call(&call).await {
            Ok(_started) => Ok(GuestProcess { exec_id, io: Arc::new(io), err, exited }),
            Err(error) => {
                self.execs().remove(&exec_id);
                Err(error)
            }
        }
    }

    /// Waits until the guest has said goodbye or the session is over.
    pub async fn goodbye(&self) {
        let mut goodbye = self.goodbye.subscribe();
        tokio::select! {
            // The sender lives in `self`.
            _ = goodbye.wait_for(|said| *said) => {}
            () = self.link.closed() => {}
        }
    }

    /// Carries output and news until the session is over.
    pub async fn converse(&self, events: Events, reporter: &Reporter) {
        let _ends = EndPendingExecs(self);
        let output = reporter.output();
        tokio::join!(
            self.pump(&self.stdin, OutputStream::Stdout, output),
            self.pump(&self.stderr, OutputStream::Stderr, output),
            self.hear(events, reporter),
        );
    }

    async fn pump(&self, stream: &GuestStream, which: OutputStream, output: &Output) {
        loop {
            match stream.read().await {
                Ok(Some(bytes)) => {
                    let count = bytes.len();
                    output.push(which, bytes).await;
                    // A session that is over needs no credit; the next read tells.
                    let _over = stream.consumed(count).await;
                }
                Ok(None) => return self.taken.send_modify(|taken| taken.ended += 1),
                Err(_) => return self.taken.send_modify(|taken| taken.broken = true),
            }
        }
    }

    fn exec_exited(&self, exec_id: u64, status: ExitStatus) {
        let waiting = self.execs().remove(&exec_id);
        // One of an earlier session has nobody waiting.
        let _gone = waiting.map(|waiting| waiting.send(status));
    }

    /// Hears of execs alone, until the session is over: of a guest that has no command.
    pub async fn attend(&self, mut events: Events) {
        let _ends = EndPendingExecs(self);
        while let Some(EventNote { seq, event }) = events.recv().await {
            match event {
                GuestEvent::ExecExited { exec_id, status } => self.exec_exited(exec_id, status),
                GuestEvent::Goodbye { .. } => drop(self.goodbye.send_replace(true)),
                _ => {}
            }
            // A session that is over needs no acknowledgement.
            let _over = self.link.acknowledge(seq).await;
        }
    }

    async fn hear(&self, mut events: Events, reporter: &Reporter) {
        while let Some(EventNote { seq, event }) = events.recv().await {
            match event {
                GuestEvent::WorkloadExited { status, out_of_memory, .. } => {
                    let mut taken = self.taken.subscribe();
                    let settled = taken.wait_for(|taken| taken.ended >= 2 || taken.broken).await;
                    let whole = settled.is_ok_and(|taken| !taken.broken);
                    if !whole {
                        // Told again in the next session, behind the rest of the output.
                        return;
                    }
                    let (stored, when_stored) = oneshot::channel();
                    reporter.tell(MachineEvent::Exited { status, out_of_memory, stored }).await;
                    if when_stored.await.is_err() {
                        return;
                    }
                }
                GuestEvent::ExecExited { exec_id, status } => self.exec_exited(exec_id, status),
                GuestEvent::Activity { .. } => reporter.tell(MachineEvent::Active).await,
                GuestEvent::KeepAlive { ttl_ms, reason } => {
                    reporter
                        .tell(MachineEvent::Lease(Some(Lease::of_guest(ttl_ms, &reason, now_ms()))))
                        .await;
                }
                GuestEvent::KeepAliveReleased => reporter.tell(MachineEvent::Lease(None)).await,
                GuestEvent::Goodbye { clean } => {
                    tracing::debug!(clean, "guest said goodbye");
                    self.goodbye.send_replace(true);
                    reporter.tell(MachineEvent::Goodbye).await;
                }
            }
            // A session that is over needs no acknowledgement: the next one says how far this one got.
            let _over = self.link.acknowledge(seq).await;
        }
    }
}
