//! One query to one name server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};

use crate::flow::udp::connected;

/// Longest answer over UDP that is read.
const MOST_DATAGRAM: usize = 4096;

/// A socket of its own for each question: its port is as hard to guess as the question's number.
#[derive(Debug)]
pub(super) enum Upstream {
    Datagram(UdpSocket),
    Stream { stream: TcpStream, unsent: Vec<u8>, received: Vec<u8> },
}

impl Upstream {
    pub(super) fn open(
        server: SocketAddr,
        question: &[u8],
        stream: bool,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Upstream> {
        if stream {
            let mut stream = TcpStream::connect(server)?;
            registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            let length = u16::try_from(question.len()).map_err(|_| ErrorKind::InvalidInput)?;
            let unsent = [&length.to_be_bytes(), question].concat();
            return Ok(Upstream::Stream { stream, unsent, received: Vec::new() });
        }
        let mut socket = connected(server)?;
        // What has come before it is watched is told as well; the server is at work meanwhile.
        socket.send(question)?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Upstream::Datagram(socket))
    }

    /// Takes what has come; `accept` tells whether a message is the answer.
    ///
    /// # Errors
    /// If no answer will come any more.
    pub(super) fn receive(&mut self, accept: &mut dyn FnMut(&[u8]) -> bool) -> Received {
        match self {
            Upstream::Datagram(socket) => {
                let mut buffer = [0; MOST_DATAGRAM];
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(count) if accept(buffer.get(..count).unwrap_or_default()) => return Ok(()),
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }
            Upstream::Stream { stream, unsent, received } => {
                while !unsent.is_empty() {
                    match stream.write(unsent) {
                        Ok(count) => drop(unsent.drain(..count)),
                        Err(error)
                            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                        {
                            return Ok(());
                        }
                        Err(error) => return Err(error),
                    }
                }
                read_message(stream, received, accept)
            }
        }
    }
}

fn read_message(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
    accept: &mut dyn FnMut(&[u8]) -> bool,
) -> Received {
    let mut buffer = [0; 4096];
    loop {
        if let Some((length, rest)) = received.split_first_chunk::<2>()
            && let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*length)))
        {
            return if accept(message) { Ok(()) } else { Err(ErrorKind::InvalidData.into()) };
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            // No longer than a message can be, and its length.
            Ok(count) => received.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// What one resolver's socket says of its end.
pub(crate) type Received = io::Result<()>;
