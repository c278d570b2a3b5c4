//! The workload's output: kept until the host has consumed it, sent again after a reconnect.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use aegis_guest_protocol::flow::WINDOW;
use aegis_guest_protocol::frame::{Frame, Kind, MAX_DATA};
use aegis_guest_protocol::replay::{Replay, ReplayError};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::async_fd::Ended;
use crate::port_writer;
use crate::stdio_forwarder::{self, Output};
use crate::streams::{Stream, Streams};

/// One of the workload's output streams over all sessions.
#[derive(Debug)]
pub struct Durable {
    stream: Rc<Stream>,
    replay: RefCell<Replay>,
    ended: Cell<bool>,
    changed: Notify,
}

impl Durable {
    /// An output that goes out on `stream`.
    #[must_use]
    pub fn new(stream: Rc<Stream>) -> Rc<Durable> {
        Rc::new(Durable {
            stream,
            replay: RefCell::default(),
            ended: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// Its stream.
    #[must_use]
    pub fn stream(&self) -> &Rc<Stream> {
        &self.stream
    }

    /// How many bytes it has produced so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.replay.borrow().end()
    }

    /// Whether it has produced nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Goes on in a new session, for a host that holds the first `held` bytes.
    ///
    /// # Errors
    /// [`ReplayError`] if that cannot be; the output stays as it was.
    pub fn resume(&self, streams: &Streams, held: u64) -> Result<(), ReplayError> {
        self.replay.borrow_mut().resume(held)?;
        streams.readopt(&self.stream, held);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Begins anew for a host that knows nothing of what was: that is another one's.
    pub fn restart(&self, streams: &Streams) {
        *self.replay.borrow_mut() = Replay::default();
        streams.restart(&self.stream);
        self.changed.notify_waiters();
    }

    /// Reads the workload's pipe into the store until it ends; waits while the store is full.
    pub async fn fill(self: Rc<Self>, from: Rc<AsyncFd<OwnedFd>>, mut ended: Ended) {
        loop {
            self.when(|output| output.replay.borrow().len() < WINDOW).await;
            match stdio_forwarder::next_output(&from, &mut ended, 64 << 10).await {
                Output::Bytes(bytes) => self.replay.borrow_mut().push(bytes),
                Output::End => break,
            }
            self.changed.notify_waiters();
        }
        self.ended.set(true);
        self.changed.notify_waiters();
    }

    /// Waits until everything it will ever produce is in the store.
    pub async fn finished(&self) {
        self.when(|output| output.ended.get()).await;
    }

    /// Marks an output that never produces anything as ended.
    pub fn end(&self) {
        self.ended.set(true);
        self.changed.notify_waiters();
    }

    /// Sends what the store holds, in this session and the next ones.
    pub async fn drain(self: Rc<Self>, streams: Streams) {
        let mut told_end_in = 0;
        loop {
            self.acknowledge();
            let epoch = self.stream.epoch();
            let most = usize::try_from(self.stream.available()).unwrap_or(MAX_DATA).min(MAX_DATA);
            let part = if most > 0 { self.replay.borrow_mut().take_unsent(most) } else { None };
            if let Some(part) = part {
                self.stream.sent(part.len());
                // A session that ends here is followed by one that resumes at the right byte.
                let _over = streams.outlet().send(epoch, port_writer::data(self.stream.id(), part)).await;
                continue;
            }
            if self.ended.get() && most > 0 && told_end_in != epoch {
                told_end_in = epoch;
                let _over = streams.outlet().send(epoch, Frame::bare(Kind::Eof, self.stream.id())).await;
                continue;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = self.stream.moved() => {}
            }
        }
    }

    fn acknowledge(&self) {
        // Credit beyond what was sent was refused when it arrived.
        if self.replay.borrow_mut().acknowledge(self.stream.acknowledged()).is_ok() {
            self.changed.notify_waiters();
        }
    }

    async fn when(&self, condition: impl Fn(&Durable) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }
}
