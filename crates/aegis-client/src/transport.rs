//! HTTP/1.1 on a unix socket.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use aegis_api::error::ErrorBody;
use aegis_api::stream::UPGRADE;
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE as UPGRADE_HEADER};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use tokio::net::UnixStream;

use crate::error::ClientError;

/// Longest reply that is taken as a whole, bytes.
const MAX_REPLY: usize = 64 << 20;
/// Longest path of a socket that can be connected to directly, bytes (`sun_path` less its terminator).
const MAX_SOCKET_PATH: usize = 107;

/// Pieces of a body on their way.
const PIECES: usize = 8;

/// A request's body.
#[derive(Debug)]
pub(crate) struct Body(UnsyncBoxBody<Bytes, io::Error>);

/// The sending end of a body that comes piece by piece. It ends when this is dropped.
#[derive(Debug)]
pub struct Upload(Sender<Bytes, io::Error>);

impl Upload {
    /// Sends a piece, as soon as there is room for it.
    ///
    /// # Errors
    /// If nobody takes it any more.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.0.send_data(Bytes::copy_from_slice(bytes)).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Breaks the body off, so that what was sent does not pass for the whole.
    pub fn abort(self) {
        self.0.abort(io::ErrorKind::Interrupted.into());
    }
}

fn full(bytes: Bytes) -> Body {
    Body(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
}

impl Body {
    pub(crate) fn empty() -> Body {
        full(Bytes::new())
    }

    pub(crate) fn upload() -> (Upload, Body) {
        let (sender, body) = Channel::new(PIECES);
        (Upload(sender), Body(body.boxed_unsync()))
    }

    pub(crate) fn json(value: Option<&impl Serialize>) -> Result<Body, ClientError> {
        Ok(full(value.map(serde_json::to_vec).transpose()?.map(Bytes::from).unwrap_or_default()))
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<UnsyncBoxBody<Bytes, io::Error>>,
}

async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    let connected = if socket.as_os_str().len() <= MAX_SOCKET_PATH {
        UnixStream::connect(socket).await
    } else {
        connect_far(socket).await
    };
    connected.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning,
        _ => ClientError::Io(error),
    })
}

/// Reaches a socket at a long path by its directory's descriptor.
async fn connect_far(socket: &Path) -> io::Result<UnixStream> {
    let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)).await
}

impl Connection {
    pub(crate) async fn open(socket: &Path) -> Result<Connection, ClientError> {
        let stream = connect(socket).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Owned by the connection: ends with it.
        tokio::spawn(connection.with_upgrades());
        Ok(Connection { sender })
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    pub(crate) async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder().method(method).uri(path).header(HOST, "aegisd");
        let request = request.header(CONTENT_TYPE, "application/json").body(body.0);
        let request = request.map_err(|error| ClientError::Protocol(error.to_string()))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    pub(crate) async fn upgrade(mut self, path: &str, body: Body) -> Result<Upgraded, ClientError> {
        let request = Request::builder().method(Method::POST).uri(path).header(HOST, "aegisd");
        let request = request.header(CONNECTION, "upgrade").header(UPGRADE_HEADER, UPGRADE);
        let request = request.header(CONTENT_TYPE, "application/json").body(body.0);
        let request = request.map_err(|error| ClientError::Protocol(error.to_string()))?;
        let reply = self.sender.send_request(request).await?;
        if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(hyper::upgrade::on(reply).await?);
        }
        let status = reply.status();
        checked(reply).await?;
        Err(ClientError::Protocol(format!("status {status} instead of an upgrade")))
    }
}

/// The whole body of a good reply.
pub(crate) async fn whole(reply: Response<Incoming>) -> Result<Bytes, ClientError> {
    let reply = checked(reply).await?;
    let body = Limited::new(reply.into_body(), MAX_REPLY).collect().await;
    Ok(body.map_err(|error| ClientError::Io(io::Error::other(error)))?.to_bytes())
}

/// A good reply as it is; a bad one as the error that it carries.
pub(crate) async fn checked(reply: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    let status = reply.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(reply);
    }
    let body = Limited::new(reply.into_body(), MAX_REPLY).collect().await;
    let bytes = body.map_err(|error| ClientError::Io(io::Error::other(error)))?.to_bytes();
    Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => ClientError::Api(body.error),
        Err(_) => ClientError::Protocol(format!("status {status} without an error")),
    })
}
