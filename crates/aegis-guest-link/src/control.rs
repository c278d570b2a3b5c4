//! Calls and events of one session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aegis_guest_protocol::frame::{Decoder, Frame, Item, Kind};
use aegis_guest_protocol::messages::{ACK, AckNote, EVENT, EventNote};
use aegis_guest_protocol::outbox;
use aegis_guest_protocol::rpc::{Call, Message, RpcError};
use bytes::BytesMut;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::LinkError;
use crate::frame_queue::{FrameQueue, QUEUE};
use crate::handshake::Greeted;

/// The guest's events, in order, each once. Ends with the session.
pub type Events = mpsc::Receiver<EventNote>;

type Answer = Result<Value, RpcError>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

#[derive(Debug, Clone)]
pub(crate) struct Control {
    frames: FrameQueue,
    waiting: Waiting,
    next_id: Arc<AtomicU64>,
    over: watch::Sender<bool>,
}

impl Control {
    pub(crate) fn start(pipe: Greeted, events_seen: u64, over: watch::Sender<bool>) -> (Control, Events) {
        let (frames, queue) = mpsc::channel(QUEUE);
        // As many as the guest may keep: an honest guest cannot overflow it.
        let (tell, events) = mpsc::channel(outbox::CAPACITY);
        let waiting = Waiting::default();
        let (reading, writing) = pipe.stream.into_split();
        tokio::spawn(write(writing, queue, over.clone()));
        let reader =
            Reader { decoder: pipe.decoder, waiting: Arc::clone(&waiting), tell, last_event: events_seen };
        tokio::spawn(reader.run(reading, over.clone()));
        (Control { frames, waiting, next_id: Arc::new(AtomicU64::new(1)), over }, events)
    }

    pub(crate) async fn call<C: Call>(&self, call: &C, patience: Duration) -> Result<C::Reply, LinkError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(id, answer);
        let result = self.converse(id, call, answered, patience).await;
        lock(&self.waiting).remove(&id);
        serde_json::from_value(result?)
            .map_err(|error| LinkError::Protocol(format!("answer to {}: {error}", C::METHOD)))
    }

    async fn converse<C: Call>(
        &self,
        id: u64,
        call: &C,
        answered: oneshot::Receiver<Answer>,
        patience: Duration,
    ) -> Result<Value, LinkError> {
        self.send(&Message::request(id, call).map_err(|error| LinkError::Protocol(error.to_string()))?)
            .await?;
        let mut over = self.over.subscribe();
        tokio::select! {
            answer = answered => answer.map_err(|_| LinkError::Closed)?.map_err(LinkError::Guest),
            _ = over.wait_for(|over| *over) => Err(LinkError::Closed),
            () = tokio::time::sleep(patience) => Err(LinkError::Timeout(C::METHOD)),
        }
    }

    pub(crate) async fn acknowledge(&self, seq: u64) -> Result<(), LinkError> {
        let params =
            serde_json::to_value(AckNote { seq }).map_err(|error| LinkError::Protocol(error.to_string()))?;
        self.send(&Message::Notification { method: ACK.to_owned(), params }).await
    }

    async fn send(&self, message: &Message) -> Result<(), LinkError> {
        let json = message.to_json().map_err(|error| LinkError::Protocol(error.to_string()))?;
        let frame = Frame { kind: Kind::Rpc, stream: 0, payload: json.into() };
        self.frames.send(frame).await.map_err(|_| LinkError::Closed)
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(mut pipe: OwnedWriteHalf, mut queue: mpsc::Receiver<Frame>, over: watch::Sender<bool>) {
    let mut ended = over.subscribe();
    let mut bytes = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => frame,
            _ = ended.wait_for(|over| *over) => None,
        };
        let Some(frame) = frame else { break };
        bytes.clear();
        frame.encode(&mut bytes);
        let written = tokio::select! {
            written = pipe.write_all(&bytes) => written.is_ok(),
            _ = ended.wait_for(|over| *over) => false,
        };
        if !written {
            break;
        }
    }
    over.send_replace(true);
}

struct Reader {
    decoder: Decoder,
    waiting: Waiting,
    tell: mpsc::Sender<EventNote>,
    last_event: u64,
}

impl Reader {
    async fn run(mut self, mut pipe: OwnedReadHalf, over: watch::Sender<bool>) {
        let mut ended = over.subscribe();
        loop {
            if let Err(error) = self.drain() {
                tracing::warn!(%error, "guest session ended");
                break;
            }
            let read = tokio::select! {
                read = pipe.read_buf(self.decoder.buffer_mut()) => read,
                _ = ended.wait_for(|over| *over) => break,
            };
            if !matches!(read, Ok(1..)) {
                break;
            }
        }
        over.send_replace(true);
        lock(&self.waiting).clear();
    }

    fn drain(&mut self) -> Result<(), LinkError> {
        while let Some(item) = self.decoder.next_item() {
            match item {
                Item::Frame(Frame { kind: Kind::Rpc, payload, .. }) => self.hear(&payload)?,
                Item::Frame(_) | Item::Greeting(_) | Item::Lost => {
                    return Err(LinkError::Protocol("no message on the control pipe".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, payload: &[u8]) -> Result<(), LinkError> {
        let broken = |error: &dyn std::fmt::Display| LinkError::Protocol(error.to_string());
        match Message::parse(payload).map_err(|error| broken(&error))? {
            Message::Response { id, result } => {
                // Late answers find nobody waiting.
                if let Some(waiting) = lock(&self.waiting).remove(&id) {
                    let _gave_up = waiting.send(result);
                }
            }
            Message::Notification { method, params } if method == EVENT => {
                let note: EventNote = serde_json::from_value(params).map_err(|error| broken(&error))?;
                // Sent again after a reconnect, or while one was under way.
                if note.seq > self.last_event {
                    self.last_event = note.seq;
                    self.tell.try_send(note).map_err(|_| broken(&"too many events"))?;
                }
            }
            Message::Notification { .. } | Message::Request { .. } => {}
        }
        Ok(())
    }
}

/// Messages of which a guest says anything, as [`crate::fuzz`] has it.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz<'p>(decoder: Decoder, pieces: impl Iterator<Item = &'p [u8]>) {
    let (tell, mut events) = mpsc::channel(4);
    let waiting = Waiting::default();
    let (answer, mut answered) = oneshot::channel();
    lock(&waiting).insert(1, answer);
    let mut reader = Reader { decoder, waiting: Arc::clone(&waiting), tell, last_event: 2 };
    let mut last = 2;
    for piece in pieces {
        reader.decoder.feed(piece);
        let over = reader.drain().is_err();
        while let Ok(event) = events.try_recv() {
            assert!(event.seq > last, "event {} after {last}", event.seq);
            last = event.seq;
        }
        if over {
            break;
        }
    }
    assert_eq!(answered.try_recv().is_ok(), lock(&waiting).is_empty());
}
