//! The event loop of the process: waits for sockets and for timers.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::time::Instant;

use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use thiserror::Error;

use crate::control::Client;
use crate::gateway::{Gateway, Kind, Machine, of_token, token};
use crate::jail_profile;

/// Sockets that belong to the process as a whole.
const MACHINE: usize = 0;
const LISTENER: usize = 1;
const FIRST_CLIENT: usize = 2;
/// Most connections of the daemon at a time. More wait until one of them ends.
const MOST_CLIENTS: usize = 16;
/// Most events that are taken at a time.
const EVENTS: usize = 256;

/// Why a gateway cannot work.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves the guest at the other end of `machine`, as those who connect to `control` say, until the machine has gone.
///
/// # Errors
/// If the process cannot be confined, or its sockets cannot be watched.
pub fn serve(machine: OwnedFd, control: OwnedFd) -> Result<(), GatewayError> {
    let machine = StdStream::from(machine);
    let control = StdListener::from(control);
    machine.set_nonblocking(true)?;
    control.set_nonblocking(true)?;
    let poll = Poll::new()?;
    let mut server = Server {
        gateway: Gateway::new(poll.registry().try_clone()?),
        poll,
        machine: UnixStream::from_std(machine),
        control: UnixListener::from_std(control),
        clients: Slab::new(),
        blocked: false,
    };
    server.poll.registry().register(&mut server.machine, token(Kind::Fixed, MACHINE), Interest::READABLE)?;
    server.poll.registry().register(&mut server.control, token(Kind::Fixed, LISTENER), Interest::READABLE)?;
    jail_profile::confine()?;
    server.run()
}

struct Server {
    poll: Poll,
    gateway: Gateway,
    machine: UnixStream,
    control: UnixListener,
    clients: Slab<Client>,
    /// The machine took less than there was for it, and is watched until it takes more.
    blocked: bool,
}

impl Server {
    fn run(&mut self) -> Result<(), GatewayError> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let idle = self.gateway.idle_for(Instant::now());
            match self.poll.poll(&mut events, idle) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            // A guest that was choked has frames that are not announced again.
            let mut guest = self.gateway.is_unread() || self.gateway.is_choked();
            for event in &events {
                guest |= self.event(event);
            }
            if guest && self.gateway.read(&mut self.machine) == Machine::Gone {
                return Ok(());
            }
            self.gateway.work();
            match self.gateway.send(&mut self.machine) {
                Ok(sent) => self.watch_machine(!sent)?,
                Err(_) => return Ok(()),
            }
            self.serve_clients();
            self.gateway.rest(Instant::now());
        }
    }

    /// Watches whether the machine can be written to only while it cannot: else each frame that it takes would wake this
    /// process, just when the machine's own threads have something to do.
    fn watch_machine(&mut self, blocked: bool) -> io::Result<()> {
        if self.blocked == blocked {
            return Ok(());
        }
        self.blocked = blocked;
        let read = Interest::READABLE;
        let interest = if blocked { read | Interest::WRITABLE } else { read };
        self.poll.registry().reregister(&mut self.machine, token(Kind::Fixed, MACHINE), interest)
    }

    /// Deals with an event. Returns whether it is the guest's.
    fn event(&mut self, event: &Event) -> bool {
        let (readable, writable) = (
            event.is_readable() || event.is_read_closed() || event.is_error(),
            event.is_writable() || event.is_write_closed() || event.is_error(),
        );
        match of_token(event.token()) {
            (Kind::Fixed, MACHINE) => return readable,
            (Kind::Fixed, LISTENER) => self.accept(),
            (Kind::Fixed, client) => {
                let index = client - FIRST_CLIENT;
                if let Some(client) = self.clients.get_mut(index)
                    && readable
                    && client.read(&mut self.gateway).is_err()
                {
                    self.clients.remove(index);
                    // Who has waited is not announced again.
                    self.accept();
                }
            }
            (kind, index) => self.gateway.ready(kind, index, readable, writable),
        }
        false
    }

    fn accept(&mut self) {
        while self.clients.len() < MOST_CLIENTS
            && let Ok((mut stream, _)) = self.control.accept()
        {
            let entry = self.clients.vacant_entry();
            let token: Token = token(Kind::Fixed, FIRST_CLIENT + entry.key());
            if self
                .poll
                .registry()
                .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)
                .is_ok()
            {
                entry.insert(Client::new(stream));
            }
        }
    }

    fn serve_clients(&mut self) {
        let gateway = &mut self.gateway;
        let before = self.clients.len();
        self.clients.retain(|_, client| client.write(gateway).is_ok());
        if self.clients.len() < before {
            self.accept();
        }
    }
}
