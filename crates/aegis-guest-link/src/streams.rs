//! The streams of one session, over the bulk pipe.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use aegis_guest_protocol::flow::{Receiver, Sender};
use aegis_guest_protocol::frame::{Decoder, Frame, Item, Kind, MAX_DATA};
use aegis_guest_protocol::messages::{FIRST_FREE_STREAM, WORKLOAD_ERR, WORKLOAD_IO};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, watch};

use crate::error::LinkError;
use crate::frame_queue::{FrameQueue, QUEUE};
use crate::handshake::Greeted;
use crate::resume::Resume;

/// How much is read from the pipe at once.
const READ_CHUNK: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    pub(crate) inbox: VecDeque<Bytes>,
    pub(crate) peer_ended: bool,
    pub(crate) ended: bool,
    pub(crate) closed: bool,
    /// Who polls for data, and who polls for credit.
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: u32,
    state: Mutex<State>,
    readable: Notify,
    writable: Notify,
}

impl Shared {
    fn new(id: u32, sender: Sender, receiver: Receiver) -> Arc<Shared> {
        let state = State {
            sender,
            receiver,
            inbox: VecDeque::new(),
            peer_ended: false,
            ended: false,
            closed: false,
            reader: None,
            writer: None,
        };
        Arc::new(Shared { id, state: Mutex::new(state), readable: Notify::new(), writable: Notify::new() })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_reader(&self, mut state: MutexGuard<'_, State>) {
        let waker = state.reader.take();
        drop(state);
        self.readable.notify_waiters();
        waker.into_iter().for_each(Waker::wake);
    }

    fn tell_writer(&self, mut state: MutexGuard<'_, State>) {
        let waker = state.writer.take();
        drop(state);
        self.writable.notify_waiters();
        waker.into_iter().for_each(Waker::wake);
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.tell_reader(state);
        self.tell_writer(self.lock());
    }
}

#[derive(Debug)]
struct Table {
    streams: HashMap<u32, Arc<Shared>>,
    /// The workload's streams that nobody has taken yet.
    untaken: Vec<Arc<Shared>>,
    next: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Streams {
    table: Arc<Mutex<Table>>,
    frames: FrameQueue,
    dropped: mpsc::Sender<u32>,
    over: watch::Sender<bool>,
}

/// Most streams that may be dropped faster than their resets are written; beyond it the guest keeps some open
/// until the session ends.
const DROPPED: usize = 4096;

impl Streams {
    pub(crate) fn start(pipe: Greeted, resume: Resume) -> Streams {
        let untaken = [(WORKLOAD_IO, resume.stdout_held), (WORKLOAD_ERR, resume.stderr_held)]
            .map(|(id, held)| Shared::new(id, Sender::at(0), Receiver::at(held)))
            .to_vec();
        let streams = untaken.iter().map(|stream| (stream.id, Arc::clone(stream))).collect();
        let table = Arc::new(Mutex::new(Table { streams, untaken, next: FIRST_FREE_STREAM }));
        let (frames, queue) = mpsc::channel(QUEUE);
        let (dropped, resets) = mpsc::channel(DROPPED);
        let (over, _) = watch::channel(false);
        let (reading, writing) = pipe.stream.into_split();
        tokio::spawn(write(writing, queue, resets, over.clone()));
        tokio::spawn(read(reading, pipe.decoder, Arc::clone(&table), over.clone()));
        Streams { table, frames, dropped, over }
    }

    pub(crate) fn end_token(&self) -> watch::Sender<bool> {
        self.over.clone()
    }

    pub(crate) fn close(&self) {
        self.over.send_replace(true);
    }

    pub(crate) async fn closed(&self) {
        let mut over = self.over.subscribe();
        // The sender lives in `self`.
        let _over = over.wait_for(|over| *over).await;
    }

    pub(crate) fn open(&self, window: u64) -> GuestStream {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let id = table.next;
        // After four billion streams a number may still be in use; the guest then refuses it.
        table.next = table.next.checked_add(1).unwrap_or(FIRST_FREE_STREAM);
        let shared = Shared::new(id, Sender::with_window(window), Receiver::with_window(window));
        if *self.over.borrow() {
            shared.close();
        } else {
            table.streams.insert(id, Arc::clone(&shared));
        }
        self.handle(shared)
    }

    pub(crate) fn take(&self, id: u32) -> Option<GuestStream> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let at = table.untaken.iter().position(|stream| stream.id == id)?;
        let shared = table.untaken.swap_remove(at);
        Some(self.handle(shared))
    }

    fn handle(&self, shared: Arc<Shared>) -> GuestStream {
        GuestStream {
            shared,
            frames: self.frames.clone(),
            dropped: self.dropped.clone(),
            table: Arc::clone(&self.table),
        }
    }
}

/// One stream to or from the guest. Dropping it tells the guest that nobody listens any more.
#[derive(Debug)]
pub struct GuestStream {
    pub(crate) shared: Arc<Shared>,
    pub(crate) frames: FrameQueue,
    dropped: mpsc::Sender<u32>,
    table: Arc<Mutex<Table>>,
}

impl GuestStream {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// The next bytes from the guest; `None` at the end.
    ///
    /// # Errors
    /// [`LinkError::Closed`] if the stream or the session ended before its time.
    pub async fn read(&self) -> Result<Option<Bytes>, LinkError> {
        loop {
            let readable = self.shared.readable.notified();
            {
                let mut state = self.shared.lock();
                if let Some(bytes) = state.inbox.pop_front() {
                    return Ok(Some(bytes));
                }
                if state.peer_ended {
                    return Ok(None);
                }
                if state.closed {
                    return Err(LinkError::Closed);
                }
            }
            readable.await;
        }
    }

    /// Lets the guest send as much again as was read and is now dealt with.
    ///
    /// # Errors
    /// [`LinkError::Closed`].
    pub async fn consumed(&self, bytes: usize) -> Result<(), LinkError> {
        let credit = self.shared.lock().receiver.consumed(bytes as u64);
        match credit {
            None => Ok(()),
            Some(consumed) => self.send(Frame::credit(self.shared.id, consumed)).await,
        }
    }

    /// Sends bytes to the guest; waits for its credit.
    ///
    /// # Errors
    /// [`LinkError::Closed`] if the guest wants no more.
    pub async fn write(&self, mut bytes: Bytes) -> Result<(), LinkError> {
        while !bytes.is_empty() {
            let writable = self.shared.writable.notified();
            let part = {
                let mut state = self.shared.lock();
                if state.closed || state.ended {
                    return Err(LinkError::Closed);
                }
                let room = usize::try_from(state.sender.available()).unwrap_or(MAX_DATA).min(MAX_DATA);
                let part = bytes.split_to(room.min(bytes.len()));
                state.sender.sent(part.len() as u64);
                part
            };
            if part.is_empty() {
                writable.await;
            } else {
                self.send(Frame { kind: Kind::Data, stream: self.shared.id, payload: part }).await?;
            }
        }
        Ok(())
    }

    /// Tells the guest that no more will be written.
    ///
    /// # Errors
    /// [`LinkError::Closed`].
    pub async fn finish(&self) -> Result<(), LinkError> {
        let first = !std::mem::replace(&mut self.shared.lock().ended, true);
        if first { self.send(Frame::bare(Kind::Eof, self.shared.id)).await } else { Ok(()) }
    }

    async fn send(&self, frame: Frame) -> Result<(), LinkError> {
        self.frames.send(frame).await.map_err(|_| LinkError::Closed)
    }
}

impl Drop for GuestStream {
    fn drop(&mut self) {
        let state = self.shared.lock();
        let done = state.closed || (state.peer_ended && state.ended);
        drop(state);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.streams.remove(&self.shared.id);
        drop(table);
        // The workload's streams outlive every session; the guest is never told to forget them.
        if !done && self.shared.id >= FIRST_FREE_STREAM {
            let _full = self.dropped.try_send(self.shared.id);
        }
    }
}

async fn write(
    mut pipe: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Frame>,
    mut resets: mpsc::Receiver<u32>,
    over: watch::Sender<bool>,
) {
    let mut ended = over.subscribe();
    loop {
        let frame = tokio::select! {
            biased;
            _ = ended.wait_for(|over| *over) => None,
            frame = queue.recv() => frame,
            Some(id) = resets.recv() => Some(Frame::bare(Kind::Reset, id)),
        };
        let Some(frame) = frame else { break };
        let written = tokio::select! {
            written = write_frame(&mut pipe, &frame) => written.is_ok(),
            _ = ended.wait_for(|over| *over) => false,
        };
        if !written {
            break;
        }
    }
    over.send_replace(true);
}

async fn write_frame(pipe: &mut OwnedWriteHalf, frame: &Frame) -> std::io::Result<()> {
    let header = frame.header();
    let written = pipe.write_vectored(&[IoSlice::new(&header), IoSlice::new(&frame.payload)]).await?;
    match written.checked_sub(header.len()) {
        None => {
            pipe.write_all(header.get(written..).unwrap_or_default()).await?;
            pipe.write_all(&frame.payload).await
        }
        Some(sent) => pipe.write_all(frame.payload.get(sent..).unwrap_or_default()).await,
    }
}

async fn read(
    mut pipe: OwnedReadHalf,
    mut decoder: Decoder,
    table: Arc<Mutex<Table>>,
    over: watch::Sender<bool>,
) {
    let mut ended = over.subscribe();
    loop {
        if let Err(error) = drain(&mut decoder, &table) {
            tracing::warn!(%error, "guest session ended");
            break;
        }
        // Room for the rest of a frame under way, or for many small ones.
        let wanted = decoder.missing().clamp(16 << 10, READ_CHUNK);
        decoder.buffer_mut().reserve(wanted);
        let read = tokio::select! {
            read = pipe.read_buf(decoder.buffer_mut()) => read,
            _ = ended.wait_for(|over| *over) => break,
        };
        if !matches!(read, Ok(1..)) {
            break;
        }
    }
    over.send_replace(true);
    let streams = std::mem::take(&mut table.lock().unwrap_or_else(PoisonError::into_inner).streams);
    streams.values().for_each(|stream| stream.close());
}

fn drain(decoder: &mut Decoder, table: &Mutex<Table>) -> Result<(), LinkError> {
    while let Some(item) = decoder.next_item() {
        let Item::Frame(frame) = item else {
            return Err(LinkError::Protocol("no frame on the bulk pipe".to_owned()));
        };
        let stream = table.lock().unwrap_or_else(PoisonError::into_inner).streams.get(&frame.stream).cloned();
        // What arrives for a stream that was dropped meanwhile is of no interest.
        if let Some(stream) = stream {
            accept(&stream, frame)?;
        }
    }
    Ok(())
}

fn accept(stream: &Shared, frame: Frame) -> Result<(), LinkError> {
    let broken = |error: &dyn std::fmt::Display| LinkError::Protocol(error.to_string());
    let mut state = stream.lock();
    match frame.kind {
        Kind::Data if state.peer_ended => return Err(broken(&"data after the end of a stream")),
        Kind::Data => {
            state.receiver.received(frame.payload.len() as u64).map_err(|error| broken(&error))?;
            // An empty frame costs the guest no credit, so it must cost us no memory.
            if !frame.payload.is_empty() {
                state.inbox.push_back(frame.payload);
            }
            stream.tell_reader(state);
        }
        Kind::Eof => {
            state.peer_ended = true;
            stream.tell_reader(state);
        }
        Kind::Credit => {
            let consumed = frame.consumed().ok_or_else(|| broken(&"a credit without a number"))?;
            state.sender.acknowledged(consumed).map_err(|error| broken(&error))?;
            stream.tell_writer(state);
        }
        Kind::Reset => {
            drop(state);
            stream.close();
        }
        Kind::Rpc => return Err(broken(&"a message on the bulk pipe")),
    }
    Ok(())
}

/// Streams of which a guest says anything, as [`crate::fuzz`] has it.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz<'p>(mut decoder: Decoder, pieces: impl Iterator<Item = &'p [u8]>) {
    use aegis_guest_protocol::flow::{CONNECTION_WINDOW, WINDOW};

    let windows = [(WORKLOAD_IO, WINDOW), (WORKLOAD_ERR, WINDOW), (FIRST_FREE_STREAM, CONNECTION_WINDOW)];
    let of = |(id, window)| Shared::new(id, Sender::with_window(window), Receiver::with_window(window));
    let all = windows.map(of);
    let streams = all.iter().map(|stream| (stream.id, Arc::clone(stream))).collect();
    let table = Mutex::new(Table { streams, untaken: Vec::new(), next: FIRST_FREE_STREAM + 1 });
    for (number, piece) in pieces.enumerate() {
        decoder.feed(piece);
        let over = drain(&mut decoder, &table).is_err();
        for (stream, (_, window)) in all.iter().zip(windows) {
            let mut state = stream.lock();
            let waiting: usize = state.inbox.iter().map(Bytes::len).sum();
            assert!(waiting as u64 <= window, "{waiting} bytes wait");
            assert!(state.inbox.iter().all(|bytes| !bytes.is_empty()));
            let room = state.sender.available();
            assert!(room <= window);
            // Now and then somebody reads and writes.
            if number % 3 == 0 {
                while let Some(bytes) = state.inbox.pop_front() {
                    let _credit = state.receiver.consumed(bytes.len() as u64);
                }
                state.sender.sent(room.min(100));
            }
        }
        if over {
            break;
        }
    }
    assert_eq!(table.into_inner().unwrap_or_else(PoisonError::into_inner).streams.len(), all.len());
}
