//! The writing end of a port: one task owns it, everyone else queues jobs.
//!
//! A new session cuts off whatever is being written and begins with the greeting; jobs of older sessions are
//! dropped.

use std::os::fd::AsFd;
use std::rc::Rc;

use aegis_guest_protocol::frame::{self, Frame, GUEST_MARKER, HEADER_LEN, Kind, Nonce};
use bytes::{Bytes, BytesMut};
use rustix::fd::OwnedFd;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use crate::virtio_port::{Stage, VirtioPort};

/// How many jobs may wait: enough to keep the port busy, few enough to keep each stream's turn near.
const QUEUE: usize = 32;

/// The session that a job belongs to; counts up.
pub type Epoch = u64;

/// Something to write.
#[derive(Debug)]
enum Job {
    Frame(Frame),
    Splice { stream: u32, pipe: Rc<AsyncFd<OwnedFd>>, len: usize, done: oneshot::Sender<()> },
}

/// A session as the writer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    epoch: Epoch,
    nonce: Nonce,
}

/// A handle to queue frames with.
#[derive(Debug, Clone)]
pub struct PortWriter {
    jobs: mpsc::Sender<(Epoch, Job)>,
    session: Rc<watch::Sender<Option<Session>>>,
}

/// The session has ended, and with it whatever was to be sent in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOver;

impl PortWriter {
    /// Starts the task that owns `port`.
    #[must_use]
    pub fn start(port: VirtioPort) -> PortWriter {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (session, sessions) = watch::channel(None);
        tokio::task::spawn_local(write(port, queue, sessions));
        PortWriter { jobs, session: Rc::new(session) }
    }

    /// Begins a session: the greeting goes out before anything else.
    pub fn begin(&self, nonce: Nonce) -> Epoch {
        let epoch = self.epoch() + 1;
        self.session.send_replace(Some(Session { epoch, nonce }));
        epoch
    }

    /// The current session, 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.session.borrow().map_or(0, |session| session.epoch)
    }

    /// Queues a frame; waits while the queue is full.
    ///
    /// # Errors
    /// [`SessionOver`] if `epoch` is not the current session.
    pub async fn send(&self, epoch: Epoch, frame: Frame) -> Result<(), SessionOver> {
        self.queue(epoch, Job::Frame(frame)).await
    }

    /// Sends `len` bytes, which the pipe must hold, as one data frame. Returns when they are gone.
    ///
    /// # Errors
    /// [`SessionOver`] if the session ended before.
    pub async fn splice(
        &self,
        epoch: Epoch,
        stream: u32,
        pipe: &Rc<AsyncFd<OwnedFd>>,
        len: usize,
    ) -> Result<(), SessionOver> {
        let (done, gone) = oneshot::channel();
        self.queue(epoch, Job::Splice { stream, pipe: Rc::clone(pipe), len, done }).await?;
        gone.await.map_err(|_| SessionOver)
    }

    async fn queue(&self, epoch: Epoch, job: Job) -> Result<(), SessionOver> {
        if epoch != self.epoch() || epoch == 0 {
            return Err(SessionOver);
        }
        self.jobs.send((epoch, job)).await.map_err(|_| SessionOver)
    }
}

async fn write(
    port: VirtioPort,
    mut queue: mpsc::Receiver<(Epoch, Job)>,
    mut sessions: watch::Receiver<Option<Session>>,
) {
    loop {
        let session = *sessions.borrow_and_update();
        tokio::select! {
            biased;
            changed = sessions.changed() => if changed.is_err() { return },
            () = converse(&port, &mut queue, session) => return,
        }
    }
}

/// Writes one session's greeting and jobs; returns only when nobody can queue any more.
async fn converse(port: &VirtioPort, queue: &mut mpsc::Receiver<(Epoch, Job)>, session: Option<Session>) {
    let Some(session) = session else { return std::future::pending().await };
    // An error of the port ends the session, not the harness: the next greeting tries again.
    if port.write_all(&frame::greeting(&GUEST_MARKER, &session.nonce)).await.is_err() {
        return std::future::pending().await;
    }
    // Anew for each session: the end of the last one may have left something in it.
    let Ok(stage) = Stage::new() else { return std::future::pending().await };
    let mut small = BytesMut::new();
    while let Some((epoch, job)) = queue.recv().await {
        if epoch != session.epoch {
            continue;
        }
        if perform(port, job, &stage, &mut small).await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn perform(port: &VirtioPort, job: Job, stage: &Stage, small: &mut BytesMut) -> std::io::Result<()> {
    match job {
        Job::Frame(frame) if frame.payload.len() < 4096 => {
            small.clear();
            frame.encode(small);
            port.write_all(small).await
        }
        Job::Frame(frame) => {
            port.write_all(&frame.header()).await?;
            port.write_all(&frame.payload).await
        }
        Job::Splice { stream, pipe, len, done } => {
            let header: [u8; HEADER_LEN] = frame::header(Kind::Data, stream, len);
            port.write_all(&header).await?;
            port.splice_all(pipe.get_ref().as_fd(), stage, len).await?;
            // The forwarder may have gone with its session.
            let _gone = done.send(());
            Ok(())
        }
    }
}

/// A data frame.
#[must_use]
pub fn data(stream: u32, payload: Bytes) -> Frame {
    Frame { kind: Kind::Data, stream, payload }
}
