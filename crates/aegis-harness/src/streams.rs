//! The byte streams on the bulk port: who they belong to, what has arrived, how much may be sent.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use aegis_guest_protocol::flow::{CONNECTION_WINDOW, Receiver, Sender, WINDOW};
use aegis_guest_protocol::frame::{Decoder, Frame, HOST_MARKER, Item, Kind, Nonce};
use bytes::Bytes;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use crate::port_writer::{Epoch, PortWriter};
use crate::virtio_port::VirtioPort;

/// Most streams open at once; the host's attempt to open more is refused.
pub const MOST_STREAMS: usize = 4096;

/// One stream, both directions.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    epoch: Cell<Epoch>,
    sender: RefCell<Sender>,
    receiver: RefCell<Receiver>,
    inbox: RefCell<VecDeque<Bytes>>,
    peer_ended: Cell<bool>,
    reset: Cell<bool>,
    changed: Notify,
    arrived: Notify,
}

impl Stream {
    fn new(id: u32, epoch: Epoch, window: u64) -> Rc<Stream> {
        Rc::new(Stream {
            id,
            epoch: Cell::new(epoch),
            sender: RefCell::new(Sender::with_window(window)),
            receiver: RefCell::new(Receiver::with_window(window)),
            inbox: RefCell::default(),
            peer_ended: Cell::new(false),
            reset: Cell::new(false),
            changed: Notify::new(),
            arrived: Notify::new(),
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The session it belongs to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch.get()
    }

    /// Whether the host wants nothing more of it, or its session is over.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.reset.get()
    }

    /// Waits until the stream is reset.
    pub async fn reset(&self) {
        self.when(|stream| stream.reset.get()).await;
    }

    /// Waits for credit; `None` when the stream is reset.
    pub async fn credit(&self) -> Option<u64> {
        self.when(|stream| stream.reset.get() || stream.sender.borrow().available() > 0).await;
        (!self.reset.get()).then(|| self.sender.borrow().available())
    }

    /// How much may be sent right now.
    #[must_use]
    pub fn available(&self) -> u64 {
        if self.reset.get() { 0 } else { self.sender.borrow().available() }
    }

    /// How many bytes the host is known to have consumed.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.sender.borrow().acked()
    }

    /// Waits until credit, a reset or a new session changes what may be sent.
    pub fn moved(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Notes that data was handed to the port.
    pub fn sent(&self, bytes: usize) {
        self.sender.borrow_mut().sent(bytes as u64);
    }

    /// The next data from the host; `None` at its end or when the stream is reset.
    pub async fn receive(&self) -> Option<Bytes> {
        loop {
            let arrived = self.arrived.notified();
            if let Some(bytes) = self.inbox.borrow_mut().pop_front() {
                return Some(bytes);
            }
            if self.peer_ended.get() || self.reset.get() {
                return None;
            }
            arrived.await;
        }
    }

    /// Notes that received bytes have been dealt with; returns what to announce to the host, if it is time.
    #[must_use]
    pub fn consumed(&self, bytes: usize) -> Option<Frame> {
        let consumed = self.receiver.borrow_mut().consumed(bytes as u64)?;
        Some(Frame::credit(self.id, consumed))
    }

    /// How many bytes have arrived since the stream began.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.receiver.borrow().offset()
    }

    async fn when(&self, condition: impl Fn(&Stream) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }

    fn close(&self) {
        self.reset.set(true);
        self.wake();
    }

    fn wake(&self) {
        self.changed.notify_waiters();
        self.arrived.notify_waiters();
    }
}

/// All streams of the guest.
#[derive(Debug, Clone)]
pub struct Streams {
    table: Rc<RefCell<BTreeMap<u32, Rc<Stream>>>>,
    outlet: PortWriter,
    session: Rc<watch::Sender<Option<Nonce>>>,
}

impl Streams {
    /// Watches the bulk port, and starts the tasks that read and write it.
    ///
    /// # Errors
    /// The system's.
    pub fn start(port: OwnedFd) -> io::Result<Streams> {
        let (reading, writing) = VirtioPort::split(port)?;
        let (session, _) = watch::channel(None);
        let streams =
            Streams { table: Rc::default(), outlet: PortWriter::start(writing), session: Rc::new(session) };
        tokio::task::spawn_local(read(reading, streams.clone()));
        Ok(streams)
    }

    /// The port's writing end.
    #[must_use]
    pub fn outlet(&self) -> &PortWriter {
        &self.outlet
    }

    /// Waits until the host has greeted this port with `nonce`.
    pub async fn joined(&self, nonce: Nonce) {
        let mut session = self.session.subscribe();
        // The sender lives in `self`, so this cannot fail.
        drop(session.wait_for(|current| *current == Some(nonce)).await);
    }

    /// Opens stream `id` in the current session; `None` if it exists already or there are too many.
    #[must_use]
    pub fn open(&self, id: u32) -> Option<Rc<Stream>> {
        self.open_with(id, WINDOW)
    }

    /// The same for a connection to a port.
    #[must_use]
    pub fn open_connection(&self, id: u32) -> Option<Rc<Stream>> {
        self.open_with(id, CONNECTION_WINDOW)
    }

    fn open_with(&self, id: u32, window: u64) -> Option<Rc<Stream>> {
        let mut table = self.table.borrow_mut();
        if table.len() >= MOST_STREAMS || table.contains_key(&id) {
            return None;
        }
        let stream = Stream::new(id, self.outlet.epoch(), window);
        table.insert(id, Rc::clone(&stream));
        Some(stream)
    }

    /// Takes up a stream of the workload again, in the current session, at offsets that both ends know.
    pub fn readopt(&self, stream: &Rc<Stream>, sent: u64) {
        let arrived = stream.receiver.borrow().offset();
        self.adopt(stream, sent, arrived);
    }

    /// Takes up a stream of the workload in the current session, whose host counts from nothing.
    pub fn restart(&self, stream: &Rc<Stream>) {
        self.adopt(stream, 0, 0);
    }

    fn adopt(&self, stream: &Rc<Stream>, sent: u64, arrived: u64) {
        stream.epoch.set(self.outlet.epoch());
        *stream.sender.borrow_mut() = Sender::at(sent);
        *stream.receiver.borrow_mut() = Receiver::at(arrived);
        stream.reset.set(false);
        self.table.borrow_mut().insert(stream.id, Rc::clone(stream));
        stream.wake();
    }

    /// Forgets a stream that has come to its end; whoever still waits for input on it need wait no longer.
    pub fn forget(&self, id: u32) {
        let gone = self.table.borrow_mut().remove(&id);
        if let Some(stream) = gone {
            stream.close();
        }
    }

    fn begin(&self, nonce: Nonce) {
        self.hang_up();
        self.outlet.begin(nonce);
        self.session.send_replace(Some(nonce));
    }

    fn end(&self) {
        self.hang_up();
        self.session.send_replace(None);
    }

    /// Nobody listens to what was begun. What ends a session is the greeting of the next: the host may be about to be heard.
    fn hang_up(&self) {
        let gone = std::mem::take(&mut *self.table.borrow_mut());
        for stream in gone.values() {
            stream.close();
        }
    }

    /// Deals with one frame. What makes no sense resets its stream and touches no other.
    fn accept(&self, frame: Frame) -> Option<Frame> {
        let found = self.table.borrow().get(&frame.stream).cloned();
        let Some(stream) = found else {
            return matches!(frame.kind, Kind::Data).then(|| Frame::bare(Kind::Reset, frame.stream));
        };
        let honest = match frame.kind {
            Kind::Data if stream.peer_ended.get() => false,
            Kind::Data => {
                let honest = stream.receiver.borrow_mut().received(frame.payload.len() as u64).is_ok();
                if honest {
                    stream.inbox.borrow_mut().push_back(frame.payload);
                }
                honest
            }
            Kind::Eof => {
                stream.peer_ended.set(true);
                true
            }
            Kind::Credit => frame
                .consumed()
                .is_some_and(|consumed| stream.sender.borrow_mut().acknowledged(consumed).is_ok()),
            Kind::Reset | Kind::Rpc => {
                self.forget(stream.id);
                return None;
            }
        };
        if honest {
            stream.wake();
            return None;
        }
        self.forget(stream.id);
        Some(Frame::bare(Kind::Reset, stream.id))
    }
}

async fn read(port: VirtioPort, streams: Streams) {
    let mut decoder = Decoder::new(HOST_MARKER);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match port.read(&mut buffer).await {
            Ok(0) => {
                streams.hang_up();
                if port.changed().await.is_err() {
                    return;
                }
            }
            Ok(count) => decoder.feed(buffer.get(..count).unwrap_or_default()),
            Err(_) => return,
        }
        while let Some(item) = decoder.next_item() {
            let answer = match item {
                Item::Greeting(nonce) => {
                    streams.begin(nonce);
                    None
                }
                Item::Frame(frame) => streams.accept(frame),
                Item::Lost => {
                    streams.end();
                    None
                }
            };
            if let Some(frame) = answer {
                // A session that ended meanwhile needs no reset.
                let _over = streams.outlet.send(streams.outlet.epoch(), frame).await;
            }
        }
    }
}
