//! The transport of FUSE: what the kernel asks goes to the server on the host, and its answers come back.
//!
//! ```text
//!   /dev/fuse of each mount ──► one thread each ──┐ requests       ┌──► aegis.files ──► the server
//!   /dev/fuse of each mount ◄── one thread ◄──────┘ answers ◄──────┘
//! ```
//!
//! Nothing is looked into beyond a message's header, but what [`fuse_notify`] does. A request is kept until it is answered:
//! if the server is gone, a new one is sent all that are open, and programs in the guest wait meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aegis_guest_protocol::changes::Change;
use aegis_guest_protocol::frame::{
    Decoder, Frame, GUEST_MARKER, HEADER_LEN, HOST_MARKER, Item, Kind, Nonce, greeting, header,
};
use aegis_harness::virtio_port::HANG_UP;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::fuse_notify::{ChangeNotification, Shared};
use crate::fuse_replay::Step;
use crate::sync::lock;
use crate::threads::spawn;

/// Number of the port for files.
pub(crate) const FILES: u32 = 3;
/// Longest message of the kernel: what it writes at once, and headers (`fuse_dev_do_read` wants that much room).
const MOST_MESSAGE: usize = (256 << 10) + 4096;
/// A buffer for any message, with its frame's header.
const WHOLE: usize = HEADER_LEN + MOST_MESSAGE;
/// Messages longer than this, bytes, keep the buffer that they were read into.
const LARGE: usize = 16 << 10;
/// Most buffers that are kept unused.
const MOST_SPARE: usize = 4;

/// Operations that are not answered (`FUSE_FORGET`, `FUSE_BATCH_FORGET`).
const UNANSWERED: [u32; 2] = [2, 42];

/// The operation that no server knows (`FUSE_IOCTL`).
const IOCTL: u32 = 39;

/// An answer without a body (`fuse_out_header`).
fn refusal(unique: u64, error: Errno) -> Vec<u8> {
    let mut answer = 16u32.to_ne_bytes().to_vec();
    answer.extend((-error.raw_os_error()).to_ne_bytes());
    answer.extend(unique.to_ne_bytes());
    answer
}

/// A port whose users may wait for it. A hang-up is no end: another server may come.
#[derive(Debug)]
struct Pipe {
    fd: Arc<OwnedFd>,
    changes: OwnedFd,
}

impl Pipe {
    fn new(fd: &Arc<OwnedFd>, interest: epoll::EventFlags) -> io::Result<Pipe> {
        let changes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edges only: a port without a host is hung up all the time.
        let flags = interest | epoll::EventFlags::ET | epoll::EventFlags::RDHUP;
        epoll::add(&changes, fd.as_fd(), epoll::EventData::new_u64(0), flags)?;
        Ok(Pipe { fd: Arc::clone(fd), changes })
    }

    fn wait(&self) -> io::Result<()> {
        self.wait_at_most(None).map(drop)
    }

    /// Returns whether the port's state has changed before the time was up.
    fn wait_at_most(&self, time: Option<Duration>) -> io::Result<bool> {
        let mut event =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        match epoll::wait(&self.changes, &mut event, time.as_ref()) {
            Ok(changes) => Ok(changes > 0),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until there is something to read or no host is connected.
    fn wait_for_input(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&*self.fd, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what is there; 0 if no host is connected, and has not been for [`HANG_UP`].
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waited = false;
        loop {
            // Asked first, because there is mostly nothing yet.
            self.wait_for_input()?;
            match rustix::io::read(&*self.fd, &mut *buffer) {
                // A host that has come and says nothing is no change: it is asked once more.
                Ok(0) if !waited => waited = !self.wait_at_most(Some(HANG_UP))?,
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&*self.fd, bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.wait()?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// A request as it was sent: the first `len` bytes of a buffer.
#[derive(Debug)]
struct Sent {
    buffer: Vec<u8>,
    len: usize,
}

impl Sent {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

/// The sending side of the port.
#[derive(Debug)]
struct PortWriter {
    pipe: Pipe,
    /// Whether a server has greeted.
    open: bool,
    /// How many have, and how many changes that the last one told of have been dealt with.
    server: u64,
    taken: u64,
}

/// What the threads share. `waiting` is never locked for longer than a moment, so that answers are always taken.
#[derive(Debug)]
pub(crate) struct Traffic {
    outlet: Mutex<PortWriter>,
    /// Requests that are not answered, as sent, by mount and number.
    waiting: Mutex<BTreeMap<(u32, u64), Arc<Sent>>>,
    /// Buffers of large requests, to be used again: fresh memory is dear.
    spare: Mutex<Vec<Vec<u8>>>,
    /// The device of each mount.
    pub(crate) mounts: Vec<OwnedFd>,
    /// Said to each new server: whom the files belong to here, and how much it may tell.
    hello: Vec<u8>,
    /// What the server tells of changes on the host.
    pub(crate) changes: Shared,
}

/// Operation and number of a message.
fn head(message: &[u8]) -> Option<(u32, u64)> {
    let opcode = u32::from_ne_bytes(message.get(4..8)?.try_into().ok()?);
    Some((opcode, u64::from_ne_bytes(message.get(8..16)?.try_into().ok()?)))
}

impl Traffic {
    /// Carries one mount's requests until it is no more.
    pub(crate) fn carry(&self, index: u32, mount: &OwnedFd) -> io::Result<()> {
        let mut buffer = vec![0; WHOLE];
        loop {
            let room = buffer.get_mut(HEADER_LEN..).unwrap_or_default();
            let count = match rustix::io::read(mount, room) {
                Ok(count) => count,
                // The request was taken back while it was being read.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
                Err(error) => return Err(error.into()),
            };
            let Some((opcode, unique)) = buffer.get(HEADER_LEN..HEADER_LEN + count).and_then(head) else {
                continue;
            };
            if let Some(place) = buffer.get_mut(..HEADER_LEN) {
                place.copy_from_slice(&header(Kind::Data, index, count));
            }
            if opcode == IOCTL {
                // Programs ask whether a file is a terminal. Whoever asked may have been killed meanwhile.
                let _unwanted = rustix::io::write(mount, &refusal(unique, Errno::NOTTY));
                continue;
            }
            let mut len = HEADER_LEN + count;
            if let Some(step) = self.changes.step(buffer.get(HEADER_LEN..len).unwrap_or_default()) {
                match step {
                    Step::Send => {}
                    Step::Answer(answer) => {
                        let _unwanted = rustix::io::write(mount, &answer);
                        continue;
                    }
                    Step::SendInstead(other) => len = put(&mut buffer, index, &other),
                }
            }
            if UNANSWERED.contains(&opcode) {
                self.send(buffer.get(..len).unwrap_or_default())?;
                continue;
            }
            let sent = if len > LARGE {
                Sent { buffer: std::mem::replace(&mut buffer, self.fresh()), len }
            } else {
                Sent { buffer: buffer.get(..len).unwrap_or_default().to_vec(), len }
            };
            let sent = Arc::new(sent);
            // Before it is sent: the answer may be quick.
            lock(&self.waiting).insert((index, unique), Arc::clone(&sent));
            self.send(sent.bytes())?;
        }
    }

    fn fresh(&self) -> Vec<u8> {
        lock(&self.spare).pop().unwrap_or_else(|| vec![0; WHOLE])
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let outlet = lock(&self.outlet);
        if outlet.open { outlet.pipe.write_all(frame) } else { Ok(()) }
    }

    /// A request is answered; its buffer may serve again.
    fn settle(&self, key: (u32, u64)) {
        let sent = lock(&self.waiting).remove(&key).and_then(Arc::into_inner);
        let mut spare = lock(&self.spare);
        if let Some(sent) = sent.filter(|sent| sent.buffer.len() == WHOLE && spare.len() < MOST_SPARE) {
            spare.push(sent.buffer);
        }
    }

    /// Hands out the server's answers for as long as the machine lives.
    fn hear(&self, pipe: &Pipe) -> io::Result<()> {
        let mut decoder = Decoder::new(HOST_MARKER);
        let mut buffer = vec![0; MOST_MESSAGE];
        let mut server = 0;
        loop {
            match pipe.read(&mut buffer)? {
                0 => {
                    lock(&self.outlet).open = false;
                    decoder = Decoder::new(HOST_MARKER);
                    pipe.wait()?;
                }
                count => decoder.feed(buffer.get(..count).unwrap_or_default()),
            }
            while let Some(item) = decoder.next_item() {
                match item {
                    Item::Greeting(nonce) => server = self.begin(&nonce)?,
                    Item::Frame(frame) => self.deliver(&frame, server),
                    Item::Lost => {}
                }
            }
        }
    }

    /// A server is there: it is told what is still open. Returns its number.
    fn begin(&self, nonce: &Nonce) -> io::Result<u64> {
        let mut outlet = lock(&self.outlet);
        let mut opening = greeting(&GUEST_MARKER, nonce).to_vec();
        opening.extend(header(Kind::Rpc, 0, self.hello.len()));
        opening.extend(&self.hello);
        (outlet.server, outlet.taken) = (outlet.server + 1, 0);
        outlet.pipe.write_all(&opening)?;
        let waiting: Vec<Arc<Sent>> = lock(&self.waiting).values().cloned().collect();
        for sent in waiting {
            outlet.pipe.write_all(sent.bytes())?;
        }
        outlet.open = true;
        Ok(outlet.server)
    }

    /// Changes that a server has told of have been dealt with: it may tell more.
    pub(crate) fn taken(&self, server: u64, count: u64) -> io::Result<()> {
        let mut outlet = lock(&self.outlet);
        if outlet.server != server || !outlet.open {
            return Ok(());
        }
        outlet.taken += count;
        let credit = Frame::credit(0, outlet.taken);
        outlet.pipe.write_all(&[&credit.header()[..], &credit.payload].concat())
    }

    fn deliver(&self, frame: &Frame, server: u64) {
        if frame.kind == Kind::Rpc {
            if let Some(change) = Change::decode(&frame.payload) {
                self.changes.put(ChangeNotification { server, mount: frame.stream, change });
            }
            return;
        }
        let mount = usize::try_from(frame.stream).ok().and_then(|index| self.mounts.get(index));
        if let (Kind::Data, Some(mount), Some((_, unique))) = (frame.kind, mount, head(&frame.payload)) {
            self.settle((frame.stream, unique));
            // Whoever asked may have been killed meanwhile.
            let _unwanted = rustix::io::write(mount, &frame.payload);
        }
    }
}

/// Puts a message in the place of the one that was read. Returns how long it is with its frame's header.
fn put(buffer: &mut [u8], index: u32, message: &[u8]) -> usize {
    let len = HEADER_LEN + message.len();
    let frame = header(Kind::Data, index, message.len());
    let bytes = frame.iter().chain(message);
    buffer.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    len
}

/// Opens what it takes, and begins to hand out answers.
pub(crate) fn start(mounts: usize, hello: Vec<u8>) -> io::Result<Arc<Traffic>> {
    let port = Arc::new(crate::port_device::open_port(FILES)?);
    let outlet =
        PortWriter { pipe: Pipe::new(&port, epoll::EventFlags::OUT)?, open: false, server: 0, taken: 0 };
    let inlet = Pipe::new(&port, epoll::EventFlags::IN)?;
    let device = || Ok(rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?);
    let mounts: io::Result<Vec<OwnedFd>> = (0..mounts).map(|_| device()).collect();
    let traffic = Arc::new(Traffic {
        outlet: Mutex::new(outlet),
        waiting: Mutex::default(),
        spare: Mutex::default(),
        mounts: mounts?,
        hello,
        changes: Shared::new(),
    });
    let hearing = Arc::clone(&traffic);
    spawn("answers", move || hearing.hear(&inlet))?;
    Ok(traffic)
}
