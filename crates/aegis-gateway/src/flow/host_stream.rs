//! The host's side of one TCP connection: a socket to the world, or a pair of sockets to another instance's gateway.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::sockopt;

use super::member_stream::Member;

/// After how long without a word the host looks whether a connection's other end is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(crate) enum Stream {
    /// To the world, or what stands between.
    World(TcpStream),
    /// To a member of a group.
    Member(Member<UnixStream>),
}

impl Stream {
    /// Sets it up.
    pub(crate) fn prepare(&self) {
        if let Stream::World(stream) = self {
            // Best effort, all three.
            let _slower = sockopt::set_tcp_nodelay(stream.as_fd(), true);
            let _unnoticed = sockopt::set_socket_keepalive(stream.as_fd(), true);
            let _later = sockopt::set_tcp_keepidle(stream.as_fd(), KEEP_ALIVE);
        }
    }

    /// Whether the other end is connected by now.
    ///
    /// # Errors
    /// Why it never will be.
    pub(crate) fn is_connected(&mut self) -> io::Result<bool> {
        let found = match self {
            Stream::World(stream) => match stream.take_error()? {
                Some(error) => return Err(error),
                None => stream.peer_addr().map(drop),
            },
            Stream::Member(member) => member.verdict(),
        };
        match found {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotConnected | ErrorKind::WouldBlock) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends what is sent. Returns whether there was room to say so.
    pub(crate) fn end(&mut self) -> bool {
        match self {
            Stream::World(stream) => {
                // One that has failed is noticed by reading from it.
                let _gone = stream.shutdown(Shutdown::Write);
                true
            }
            Stream::Member(member) => match member.end() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Ok(()) | Err(_) => true,
            },
        }
    }

    /// Makes its end a reset. A member takes an end that was not announced for one.
    pub(crate) fn reset(&self) {
        if let Stream::World(stream) = self {
            // Otherwise it ends in good order, which the other end may misunderstand.
            let _orderly = sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO));
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::World(stream) => stream,
            Stream::Member(member) => &mut member.socket,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::World(stream) => stream.read(buffer),
            Stream::Member(member) => member.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::World(stream) => stream.write(bytes),
            Stream::Member(member) => member.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.source().register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.source().reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.source().deregister(registry)
    }
}
