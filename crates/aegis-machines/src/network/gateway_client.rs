//! Client of a gateway's control socket: JSON lines; file descriptors of connections may travel along (`SCM_RIGHTS`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aegis_gateway::control::{MOST_LINE, Reply, Request};
use aegis_gateway::fd_passing;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// A connection to a gateway's control socket.
#[derive(Debug)]
pub struct GatewayClient {
    stream: UnixStream,
    line: Vec<u8>,
    ends: VecDeque<OwnedFd>,
}

impl GatewayClient {
    /// Connects to the control socket of a gateway.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn open(socket: &Path) -> io::Result<GatewayClient> {
        let stream = UnixStream::connect(socket).await?;
        Ok(GatewayClient { stream, line: Vec::new(), ends: VecDeque::new() })
    }

    /// Asks for something; an end of a connection may go with it.
    pub async fn ask(&mut self, request: &Request, end: Option<&OwnedFd>) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let sent = match end {
            // It goes with the first byte.
            Some(end) => {
                let send = || fd_passing::send(&self.stream, &line, end.as_fd());
                self.stream.async_io(Interest::WRITABLE, send).await?
            }
            None => 0,
        };
        self.stream.write_all(line.get(sent..).unwrap_or_default()).await
    }

    /// The end of a connection that came with what was said.
    pub fn take_end(&mut self) -> Option<OwnedFd> {
        self.ends.pop_front()
    }

    /// The next thing that the gateway says. Nothing is lost if this is given up.
    ///
    /// # Errors
    /// If it is gone, or says something that makes no sense.
    pub async fn next(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            let GatewayClient { stream, line, ends } = self;
            let mut buffer = [0; 4096];
            let receive = || fd_passing::receive(&*stream, &mut buffer, ends);
            let count = stream.async_io(Interest::READABLE, receive).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if line.len() > MOST_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}
