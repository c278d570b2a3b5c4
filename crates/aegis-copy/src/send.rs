//! Contents of a file into the stream, holes as holes.

use std::fs::File;
use std::io::{self, Write};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::chunks::{self, CHUNK, Chunk, HEAD};

/// Most that is read of what the kernel makes up, bytes: some of it has no end.
pub(crate) const MOST_MADE_UP: u64 = 64 << 20;

/// Which side failed.
#[derive(Debug)]
pub(crate) enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

/// Sends contents of files.
pub(crate) struct Sender {
    /// A chunk with its head. One for all files: under emulation fresh memory is dear.
    buffer: Vec<u8>,
}

/// What is next in a file.
enum Extent {
    Hole(u64),
    Data(u64),
    End,
}

/// What is at `at` of a file of `size` bytes, and where it ends. A file system that knows no holes has data everywhere;
/// `seeks` says whether it is worth asking.
fn extent(file: &File, at: u64, size: u64, seeks: &mut bool) -> rustix::io::Result<Extent> {
    if !*seeks {
        return Ok(Extent::Data(size));
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) if data > at => Ok(Extent::Hole(data.min(size))),
        // Whoever says that a hole begins where data do has changed it between the two: a chunk at a time then.
        Ok(_) => match rustix::fs::seek(file, SeekFrom::Hole(at)) {
            Ok(hole) if hole > at => Ok(Extent::Data(hole.min(size))),
            _ => Ok(Extent::Data(size.min(at.saturating_add(CHUNK as u64)))),
        },
        // A hole up to the end, or the file has become shorter.
        Err(Errno::NXIO) => {
            let now = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0).min(size);
            Ok(if now > at { Extent::Hole(now) } else { Extent::End })
        }
        Err(_) => {
            *seeks = false;
            Ok(Extent::Data(size))
        }
    }
}

impl Sender {
    pub(crate) fn new() -> Sender {
        Sender { buffer: vec![0; HEAD + CHUNK] }
    }

    /// Sends up to `size` bytes of a file: what is appended meanwhile belongs to the next copy, and what is cut off is not
    /// there any more. With `sparse` the file takes less than its size, and its holes are looked for; where the file
    /// system does not tell them, chunks of zeros are taken for them.
    pub(crate) fn send(
        &mut self,
        file: &File,
        size: u64,
        sparse: bool,
        to: &mut impl Write,
    ) -> Result<(), Broken> {
        let (mut at, mut seeks) = (0, sparse);
        while at < size {
            let told = extent(file, at, size, &mut seeks);
            match told.map_err(|error| Broken::Reading(error.into()))? {
                Extent::End => break,
                Extent::Hole(end) => {
                    chunks::write(Chunk::Hole(end - at), to).map_err(Broken::Writing)?;
                    at = end;
                }
                Extent::Data(end) => {
                    let sent = self.data(file, (at, end), sparse, to)?;
                    at += sent;
                    if at < end {
                        break;
                    }
                }
            }
        }
        chunks::write(Chunk::End(at), to).map_err(Broken::Writing)
    }

    /// Sends data from one place to another, or to the end of the file, and returns how many that were.
    fn data(
        &mut self,
        file: &File,
        (from, end): (u64, u64),
        sparse: bool,
        to: &mut impl Write,
    ) -> Result<u64, Broken> {
        let mut at = from;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let count = self.fill(most, |room| rustix::io::pread(file, room, at))?;
            if count == 0 {
                break;
            }
            let bytes = self.buffer.get(HEAD..HEAD + count).unwrap_or_default();
            if sparse && bytes.iter().all(|byte| *byte == 0) {
                chunks::write(Chunk::Hole(count as u64), to).map_err(Broken::Writing)?;
            } else {
                self.pass(count, to)?;
            }
            at += count as u64;
        }
        Ok(at - from)
    }

    /// Sends what a file has until it ends, whatever its size is said to be. Returns false if there is more than
    /// [`MOST_MADE_UP`]; then its end is not told.
    pub(crate) fn send_made_up(&mut self, file: &File, to: &mut impl Write) -> Result<bool, Broken> {
        let mut total = 0;
        loop {
            let count = self.fill(CHUNK, |room| match rustix::io::read(file, room) {
                // What waits for something to happen has nothing now.
                Err(Errno::AGAIN) => Ok(0),
                done => done,
            })?;
            if count == 0 {
                chunks::write(Chunk::End(total), to).map_err(Broken::Writing)?;
                return Ok(true);
            }
            total += count as u64;
            if total > MOST_MADE_UP {
                return Ok(false);
            }
            self.pass(count, to)?;
        }
    }

    fn fill(
        &mut self,
        most: usize,
        read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    ) -> Result<usize, Broken> {
        let room = self.buffer.get_mut(HEAD..HEAD + most).unwrap_or_default();
        loop {
            match read(room) {
                Err(Errno::INTR) => {}
                done => return done.map_err(|error| Broken::Reading(error.into())),
            }
        }
    }

    /// Head and data at once.
    fn pass(&mut self, count: usize, to: &mut impl Write) -> Result<(), Broken> {
        let chunk = self.buffer.get_mut(..HEAD + count).unwrap_or_default();
        for (place, byte) in chunk.iter_mut().zip(Chunk::Data(count).head()) {
            *place = byte;
        }
        to.write_all(chunk).map_err(Broken::Writing)
    }
}
