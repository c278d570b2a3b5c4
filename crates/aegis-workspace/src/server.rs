//! The server of one machine: requests in, replies out, one after the other.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use aegis_guest_protocol::changes::Hello;
use aegis_guest_protocol::frame::{
    Decoder, Frame, GUEST_MARKER, HEADER_LEN, HOST_MARKER, Item, Kind, Nonce, greeting, header,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::export::{Answer, Export};
use crate::fuse_reply::{self, OUT_HEADER, Owner};
use crate::fuse_request::{self, Request};
use crate::jail_profile::confine;
use crate::notifier::Notifier;
use crate::watcher::Watcher;
use crate::{ExportSpec, ServerError};

/// How much is read at a time, bytes.
const PIECE: usize = 256 << 10;

/// Serves directories to the guest at the other end of `guest`, the first one as stream 0, until its machine has ended.
///
/// # Errors
/// If a directory cannot be served, or the connection fails other than by its end.
pub fn serve(mut guest: UnixStream, specs: &[ExportSpec]) -> Result<(), ServerError> {
    let exports = specs.iter().map(Export::open).collect::<Result<Vec<_>, _>>()?;
    // Without one the guest sees what others change as soon as it asks again.
    let telling = Notifier::new(Watcher::new().ok());
    confine(exports.iter().map(Export::root))?;
    let mut server = Server { exports, nonce: [0; 16], greeted: false, answer: Vec::new(), telling };
    server.greet(&mut guest)?;
    let mut decoder = Decoder::new(GUEST_MARKER);
    let mut buffer = vec![0; PIECE];
    loop {
        if !server.wait(&mut guest)? {
            continue;
        }
        let count = match guest.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        decoder.feed(buffer.get(..count).unwrap_or_default());
        while let Some(item) = decoder.next_item() {
            match item {
                Item::Greeting(nonce) => server.greeted = nonce == server.nonce,
                Item::Frame(frame) => server.hear(&frame, &mut guest)?,
                Item::Lost => server.greet(&mut guest)?,
            }
        }
    }
}

struct Server {
    exports: Vec<Export>,
    nonce: Nonce,
    /// Whether what comes belongs to this conversation: an earlier server may have left half a message in the pipe.
    greeted: bool,
    answer: Vec<u8>,
    telling: Notifier,
}

impl Server {
    fn greet(&mut self, guest: &mut UnixStream) -> Result<(), ServerError> {
        self.greeted = false;
        self.telling.pause();
        rustix::rand::getrandom(&mut self.nonce, rustix::rand::GetRandomFlags::empty())
            .map_err(std::io::Error::from)?;
        Ok(guest.write_all(&greeting(&HOST_MARKER, &self.nonce))?)
    }

    /// Tells the guest what others have changed, until it says something. Returns whether it has.
    fn wait(&mut self, guest: &mut UnixStream) -> Result<bool, ServerError> {
        let mut interest = PollFlags::IN;
        interest.set(PollFlags::OUT, self.telling.is_due());
        let changes = self.telling.fd();
        let mut fds = vec![PollFd::new(guest, interest)];
        fds.extend(changes.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        let (of_guest, of_changes) = (
            ready.first().copied().unwrap_or(PollFlags::IN),
            ready.get(1).copied().unwrap_or(PollFlags::empty()),
        );
        if !of_changes.is_empty() {
            self.telling.notice(&mut self.exports);
        }
        // What there is room for is far more than one of them takes.
        if of_guest.contains(PollFlags::OUT)
            && let Some(frame) = self.telling.next()
        {
            guest.write_all(&frame)?;
        }
        if let Some(complaint) = self.telling.complaint() {
            // To the helper's log. That this is gone is nothing to end for.
            let _unsaid =
                writeln!(std::io::stderr(), "not every change of a file is told to the guest: {complaint}");
        }
        Ok(of_guest.intersects(!PollFlags::OUT))
    }

    fn hear(&mut self, frame: &Frame, guest: &mut UnixStream) -> Result<(), ServerError> {
        if !self.greeted {
            return Ok(());
        }
        match frame.kind {
            Kind::Rpc => {
                if let Ok(hello) = serde_json::from_slice::<Hello>(&frame.payload) {
                    let owner = Owner { uid: hello.uid, gid: hello.gid };
                    self.exports.iter_mut().for_each(|export| export.set_owner(owner));
                    self.telling.begin(hello.changes, &mut self.exports);
                }
                Ok(())
            }
            Kind::Credit => {
                frame.consumed().into_iter().for_each(|consumed| self.telling.take(consumed));
                Ok(())
            }
            Kind::Data if self.respond(frame) => Ok(guest.write_all(&self.answer)?),
            _ => Ok(()),
        }
    }

    /// Makes the answer to a request. Returns whether there is one.
    fn respond(&mut self, frame: &Frame) -> bool {
        const BODY: usize = HEADER_LEN + OUT_HEADER;
        let number = usize::try_from(frame.stream).ok().filter(|number| *number < self.exports.len());
        let (Some(number), Ok(parsed)) = (number, fuse_request::parse(&frame.payload)) else { return false };
        self.answer.clear();
        self.answer.resize(BODY, 0);
        let (unique, outcome) = match parsed {
            Ok(request) => (request.unique, self.carry_out(number, &request)),
            Err((unique, error)) => (unique, Err(error)),
        };
        let outcome = match outcome {
            Ok(Answer::Silence) => return false,
            Ok(Answer::Body) => Ok(self.answer.len() - BODY),
            Err(error) => Err(told(error)),
        };
        if outcome.is_err() {
            self.answer.truncate(BODY);
        }
        let len = self.answer.len() - HEADER_LEN;
        let head = header(Kind::Data, frame.stream, len);
        if let Some((frame_head, rest)) = self.answer.split_at_mut_checked(HEADER_LEN) {
            frame_head.copy_from_slice(&head);
            fuse_reply::seal(rest, unique, outcome);
        }
        true
    }

    fn carry_out(&mut self, number: usize, request: &Request<'_>) -> Result<Answer, Errno> {
        // Most requests change nothing, and need not wait for a look at what others do.
        let looks_only = request.operation.looks_only();
        if !looks_only {
            self.telling.before(number, request, &mut self.exports);
        }
        let export = self.exports.get_mut(number).ok_or(Errno::STALE)?;
        let outcome = export.answer(request, &mut self.answer);
        let news = export.take_news();
        if !looks_only || !news.is_empty() {
            self.telling.after(number, request, &news, &mut self.exports);
        }
        outcome
    }
}

/// The kernel takes errors from 1 to 511 and drops an answer with any other, as if it had never come.
fn told(error: Errno) -> Errno {
    if (1..512).contains(&error.raw_os_error()) { error } else { Errno::IO }
}
