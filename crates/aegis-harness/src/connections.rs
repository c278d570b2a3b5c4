//! Connections of the host to TCP ports of this guest.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use aegis_guest_protocol::frame::{Frame, Kind};
use aegis_guest_protocol::messages::{Connect, code};
use aegis_guest_protocol::rpc::RpcError;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use crate::port_writer;
use crate::streams::{Stream, Streams};

/// How much is read from a socket at once, bytes.
const CHUNK: usize = 64 << 10;

/// Where a server may listen, in the order in which it is looked for.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The maker of connections.
#[derive(Debug)]
pub struct Connections {
    streams: Streams,
    /// Grows whenever something may have begun to listen.
    listening: watch::Receiver<u64>,
    /// One thread reads into it, and copies out before it waits.
    scratch: RefCell<Vec<u8>>,
}

/// Either end of a connection is gone before its time.
#[derive(Debug)]
struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Broken {
        Broken
    }
}

impl Connections {
    /// Connections on these streams, told by `listening` when to try again.
    #[must_use]
    pub fn new(streams: Streams, listening: watch::Receiver<u64>) -> Connections {
        Connections { streams, listening, scratch: RefCell::new(vec![0; CHUNK]) }
    }

    /// Connects a stream to a port. Returns when it is connected; the bytes then flow by themselves.
    ///
    /// # Errors
    /// [`code::REFUSED`] if nothing listens there for as long as the call is patient, [`code::WRONG_STATE`] if there
    /// are too many streams or the host gave up.
    pub async fn connect(self: &Rc<Self>, call: &Connect) -> Result<(), RpcError> {
        let stream = self.streams.open_connection(call.stream);
        let stream = stream.ok_or_else(|| RpcError::new(code::WRONG_STATE, "too many streams are open"))?;
        let patience = Duration::from_millis(call.patience_ms);
        let dialled = tokio::select! {
            dialled = self.dial(call.port, patience) => dialled,
            () = stream.reset() => Err(RpcError::new(code::WRONG_STATE, "the host gave up")),
        };
        match dialled {
            Ok(socket) => {
                tokio::task::spawn_local(Rc::clone(self).carry(stream, socket));
                Ok(())
            }
            Err(error) => {
                self.forget(&stream);
                Err(error)
            }
        }
    }

    async fn dial(&self, port: u16, patience: Duration) -> Result<TcpStream, RpcError> {
        let mut listening = self.listening.clone();
        let attempts = async {
            loop {
                // Whatever begins to listen from here on is told.
                listening.mark_unchanged();
                for address in ADDRESSES {
                    match TcpStream::connect((address, port)).await {
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                        other => return other,
                    }
                }
                if patience.is_zero() || listening.changed().await.is_err() {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
            }
        };
        let attempted = if patience.is_zero() {
            attempts.await
        } else {
            let refused = |_| Err(io::ErrorKind::ConnectionRefused.into());
            tokio::time::timeout(patience, attempts).await.unwrap_or_else(refused)
        };
        match attempted {
            Ok(socket) => {
                // An old kernel delays small writes; nothing else suffers.
                let _delays = socket.set_nodelay(true);
                Ok(socket)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(RpcError::new(code::REFUSED, format!("nothing listens on port {port} in the guest")))
            }
            Err(error) => Err(RpcError::new(code::SYSTEM, format!("cannot connect to port {port}: {error}"))),
        }
    }

    async fn carry(self: Rc<Self>, stream: Rc<Stream>, mut socket: TcpStream) {
        let (mut reading, mut writing) = socket.split();
        let both = async {
            tokio::try_join!(self.to_host(&mut reading, &stream), self.to_socket(&stream, &mut writing))
        };
        let whole = tokio::select! {
            biased;
            () = stream.reset() => false,
            carried = both => carried.is_ok(),
        };
        if !whole {
            // So that the server, too, sees a reset and not an orderly end.
            let _without = socket.set_zero_linger();
            if !stream.is_reset() {
                let reset = Frame::bare(Kind::Reset, stream.id());
                let _over = self.streams.outlet().send(stream.epoch(), reset).await;
            }
        }
        drop(socket);
        self.forget(&stream);
    }

    async fn to_host(&self, from: &mut ReadHalf<'_>, stream: &Stream) -> Result<(), Broken> {
        loop {
            let credit = stream.credit().await.ok_or(Broken)?;
            from.readable().await?;
            match self.read(from, usize::try_from(credit).unwrap_or(CHUNK)) {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => {
                    stream.sent(bytes.len());
                    let frame = port_writer::data(stream.id(), bytes);
                    self.streams.outlet().send(stream.epoch(), frame).await.map_err(|_| Broken)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Broken),
            }
        }
        let end = Frame::bare(Kind::Eof, stream.id());
        self.streams.outlet().send(stream.epoch(), end).await.map_err(|_| Broken)
    }

    fn read(&self, from: &ReadHalf<'_>, most: usize) -> io::Result<Bytes> {
        let mut scratch = self.scratch.borrow_mut();
        let count = from.try_read(scratch.get_mut(..most.min(CHUNK)).unwrap_or_default())?;
        Ok(Bytes::copy_from_slice(scratch.get(..count).unwrap_or_default()))
    }

    async fn to_socket(&self, stream: &Stream, to: &mut WriteHalf<'_>) -> Result<(), Broken> {
        while let Some(bytes) = stream.receive().await {
            to.write_all(&bytes).await?;
            if let Some(credit) = stream.consumed(bytes.len()) {
                self.streams.outlet().send(stream.epoch(), credit).await.map_err(|_| Broken)?;
            }
        }
        if stream.is_reset() {
            return Err(Broken);
        }
        Ok(to.shutdown().await?)
    }

    /// A number may have been given anew in a later session.
    fn forget(&self, stream: &Stream) {
        if stream.epoch() == self.streams.outlet().epoch() {
            self.streams.forget(stream.id());
        }
    }
}
