//! Requests of the kernel's FUSE protocol, version 7.31 and later (`include/uapi/linux/fuse.h`), parsed with bounds. Integers are in the machine's order, which is little endian on all that Aegis runs on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

/// Length of a request's header, bytes (`fuse_in_header`).
pub const IN_HEADER: usize = 40;
/// Most bytes that one request writes or reads.
pub const MOST_DATA: u32 = 256 << 10;
/// Longest name, bytes.
pub const MOST_NAME: usize = 255;
/// Longest target of a symbolic link, bytes.
pub const MOST_TARGET: usize = 4095;

bitflags::bitflags! {
    /// Which attributes a request changes (`FATTR_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Change: u32 {
        /// Permissions.
        const MODE = 1;
        /// Size.
        const SIZE = 1 << 3;
        /// Time of the last access.
        const ATIME = 1 << 4;
        /// Time of the last change.
        const MTIME = 1 << 5;
        /// Last access: now.
        const ATIME_NOW = 1 << 7;
        /// Last change: now.
        const MTIME_NOW = 1 << 8;
        /// Others, which are taken and have no effect.
        const _ = !0;
    }

    /// What the two ends agree on (`FUSE_*` flags of `fuse_init_out`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Reads of one file need not wait for each other.
        const ASYNC_READ = 1;
        /// Writes of more than a page.
        const BIG_WRITES = 1 << 5;
        /// Cached contents are dropped when size or time of change tell that they are old.
        const AUTO_INVAL_DATA = 1 << 12;
        /// Listings with attributes, when they are of use.
        const READDIRPLUS = 1 << 13;
        /// The kernel decides when.
        const READDIRPLUS_AUTO = 1 << 14;
        /// Direct reads and writes need not wait.
        const ASYNC_DIO = 1 << 15;
        /// Files are used without being opened here.
        const NO_OPEN = 1 << 17;
        /// Lookups in one directory at once.
        const PARALLEL_DIROPS = 1 << 18;
        /// Set-user-id bits are cleared here: there never are any.
        const HANDLE_KILLPRIV = 1 << 19;
        /// More than 128 KiB in one request.
        const MAX_PAGES = 1 << 22;
        /// Targets of symbolic links are kept.
        const CACHE_SYMLINKS = 1 << 23;
        /// Directories are used without being opened here.
        const NO_OPENDIR = 1 << 24;
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its number, repeated in the answer.
    pub unique: u64,
    /// The node that it is about.
    pub node: u64,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// New attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAttributes {
    /// Which of the others count.
    pub change: Change,
    /// Size, bytes.
    pub size: u64,
    /// Last access: seconds since 1970, nanoseconds.
    pub accessed: (i64, u32),
    /// Last change: the same.
    pub modified: (i64, u32),
    /// Permissions.
    pub mode: u32,
}

/// What is looked for in a file with holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the system calls")]
pub enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        readahead: u32,
        features: Features,
    },
    Lookup {
        name: &'a OsStr,
    },
    Forget {
        times: u64,
    },
    /// Pairs of node and times.
    BatchForget(Vec<(u64, u64)>),
    GetAttributes,
    SetAttributes(NewAttributes),
    ReadLink,
    SymLink {
        name: &'a OsStr,
        target: &'a OsStr,
    },
    MakeNode {
        name: &'a OsStr,
        mode: u32,
    },
    MakeDirectory {
        name: &'a OsStr,
        mode: u32,
    },
    Unlink {
        name: &'a OsStr,
    },
    RemoveDirectory {
        name: &'a OsStr,
    },
    Rename {
        name: &'a OsStr,
        to: u64,
        new_name: &'a OsStr,
        flags: u32,
    },
    Link {
        of: u64,
        name: &'a OsStr,
    },
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
    },
    Statistics,
    Sync {
        data_only: bool,
    },
    Create {
        name: &'a OsStr,
        mode: u32,
        exclusive: bool,
    },
    List {
        offset: u64,
        size: u32,
        attributes: bool,
    },
    Allocate {
        offset: u64,
        length: u64,
        mode: u32,
    },
    /// Where the next data, or the next hole, begins. Other ways to seek are the kernel's own matter.
    Seek {
        offset: u64,
        whence: Whence,
    },
    /// Nothing to do, successfully.
    Destroy,
    /// What is not offered; the kernel does without, or does it itself.
    Unknown,
}

impl Operation<'_> {
    /// Whether it neither changes anything nor makes the guest know more names.
    #[must_use]
    pub fn looks_only(&self) -> bool {
        matches!(
            self,
            Operation::GetAttributes
                | Operation::ReadLink
                | Operation::Read { .. }
                | Operation::Seek { .. }
                | Operation::Statistics
        )
    }
}

/// A message that is no request: whoever sent it is not the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A request whose header is right and whose body is not; to be answered with an error.
pub type Parsed<'a> = Result<Request<'a>, (u64, Errno)>;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a OsStr> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(OsStr::from_bytes(text))
    }

    fn name(&mut self) -> Option<Result<&'a OsStr, Errno>> {
        self.text().map(check_name)
    }
}

/// A name is one component that stays where it is.
///
/// # Errors
/// `ENAMETOOLONG`, `EINVAL`.
pub fn check_name(name: &OsStr) -> Result<&OsStr, Errno> {
    let bytes = name.as_bytes();
    if bytes.len() > MOST_NAME {
        return Err(Errno::NAMETOOLONG);
    }
    let stays = !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.contains(&b'/');
    if stays { Ok(name) } else { Err(Errno::INVAL) }
}

/// Takes a message apart.
///
/// # Errors
/// [`Malformed`] if not even its header is one.
pub fn parse(message: &[u8]) -> Result<Parsed<'_>, Malformed> {
    let mut reader = Reader(message);
    let header = (|| {
        let (len, opcode) = (reader.u32()?, reader.u32()?);
        let (unique, node) = (reader.u64()?, reader.u64()?);
        // User, group, process and padding: nobody here asks who it was.
        reader.take(16)?;
        (usize::try_from(len).ok()? == message.len()).then_some((opcode, unique, node))
    })();
    let (opcode, unique, node) = header.ok_or(Malformed)?;
    Ok(match operation(opcode, &mut reader) {
        Some(Ok(operation)) => Ok(Request { unique, node, operation }),
        Some(Err(error)) => Err((unique, error)),
        None => Err((unique, Errno::INVAL)),
    })
}

/// The body of a request; `None` if it is too short.
fn operation<'a>(opcode: u32, reader: &mut Reader<'a>) -> Option<Result<Operation<'a>, Errno>> {
    Some(Ok(match opcode {
        1 => return named(reader, |name| Operation::Lookup { name }),
        2 => Operation::Forget { times: reader.u64()? },
        3 => Operation::GetAttributes,
        4 => Operation::SetAttributes(new_attributes(reader)?),
        5 => Operation::ReadLink,
        6 => return symlink(reader),
        8 => {
            let mode = reader.u32()?;
            reader.take(12)?;
            return named(reader, |name| Operation::MakeNode { name, mode });
        }
        9 => {
            let mode = reader.u32()?;
            reader.take(4)?;
            return named(reader, |name| Operation::MakeDirectory { name, mode });
        }
        10 => return named(reader, |name| Operation::Unlink { name }),
        11 => return named(reader, |name| Operation::RemoveDirectory { name }),
        12 => {
            let to = reader.u64()?;
            return rename(reader, to, 0);
        }
        13 => {
            let of = reader.u64()?;
            return named(reader, |name| Operation::Link { of, name });
        }
        15 => {
            let (offset, size) = extent(reader)?;
            Operation::Read { offset, size: size.min(MOST_DATA) }
        }
        16 => {
            let (offset, size) = extent(reader)?;
            reader.take(16)?;
            Operation::Write { offset, data: reader.take(usize::try_from(size).ok()?)? }
        }
        17 => Operation::Statistics,
        20 | 30 => {
            reader.take(8)?;
            Operation::Sync { data_only: reader.u32()? & 1 != 0 }
        }
        26 => Operation::Init {
            major: reader.u32()?,
            minor: reader.u32()?,
            readahead: reader.u32()?,
            features: Features::from_bits_truncate(reader.u32()?),
        },
        28 | 44 => {
            let (offset, size) = extent(reader)?;
            Operation::List { offset, size: size.min(MOST_DATA), attributes: opcode == 44 }
        }
        35 => {
            let (flags, mode) = (reader.u32()?, reader.u32()?);
            reader.take(8)?;
            let exclusive = flags & rustix::fs::OFlags::EXCL.bits() != 0;
            return named(reader, |name| Operation::Create { name, mode, exclusive });
        }
        38 => Operation::Destroy,
        42 => {
            let count = reader.u32()?;
            reader.take(4)?;
            Operation::BatchForget(forgets(reader, count)?)
        }
        43 => {
            reader.take(8)?;
            Operation::Allocate { offset: reader.u64()?, length: reader.u64()?, mode: reader.u32()? }
        }
        45 => {
            let (to, flags) = (reader.u64()?, reader.u32()?);
            reader.take(4)?;
            return rename(reader, to, flags);
        }
        46 => return seek(reader),
        _ => Operation::Unknown,
    }))
}

fn named<'a>(
    reader: &mut Reader<'a>,
    make: impl FnOnce(&'a OsStr) -> Operation<'a>,
) -> Option<Result<Operation<'a>, Errno>> {
    Some(reader.name()?.map(make))
}

fn symlink<'a>(reader: &mut Reader<'a>) -> Option<Result<Operation<'a>, Errno>> {
    let (name, target) = (reader.name()?, reader.text()?);
    if target.is_empty() || target.len() > MOST_TARGET {
        return Some(Err(Errno::NAMETOOLONG));
    }
    Some(name.map(|name| Operation::SymLink { name, target }))
}

fn rename<'a>(reader: &mut Reader<'a>, to: u64, flags: u32) -> Option<Result<Operation<'a>, Errno>> {
    let (name, new_name) = (reader.name()?, reader.name()?);
    Some(name.and_then(|name| Ok(Operation::Rename { name, to, new_name: new_name?, flags })))
}

/// `fuse_lseek_in`.
fn seek<'a>(reader: &mut Reader<'a>) -> Option<Result<Operation<'a>, Errno>> {
    reader.take(8)?;
    let (offset, whence) = (reader.u64()?, reader.u32()?);
    reader.take(4)?;
    let whence = match whence {
        3 => Whence::Data,
        4 => Whence::Hole,
        _ => return Some(Err(Errno::INVAL)),
    };
    // No file is as long as that.
    if offset > i64::MAX.cast_unsigned() {
        return Some(Err(Errno::NXIO));
    }
    Some(Ok(Operation::Seek { offset, whence }))
}

/// Offset and size behind the handle that nobody uses (`fuse_read_in`, `fuse_write_in`).
fn extent(reader: &mut Reader<'_>) -> Option<(u64, u32)> {
    reader.take(8)?;
    let (offset, size) = (reader.u64()?, reader.u32()?);
    reader.take(4)?;
    Some((offset, size))
}

fn forgets(reader: &mut Reader<'_>, count: u32) -> Option<Vec<(u64, u64)>> {
    // What is claimed is of no matter: what is there is read.
    let pairs = reader.take(usize::try_from(count).ok()?.checked_mul(16)?)?;
    let mut pairs = Reader(pairs);
    let mut all = Vec::new();
    while !pairs.0.is_empty() {
        all.push((pairs.u64()?, pairs.u64()?));
    }
    Some(all)
}

fn new_attributes(reader: &mut Reader<'_>) -> Option<NewAttributes> {
    let change = Change::from_bits_retain(reader.u32()?);
    reader.take(12)?;
    let size = reader.u64()?;
    reader.take(8)?;
    let (atime, mtime) = (reader.u64()?, reader.u64()?);
    reader.take(8)?;
    let (atime_ns, mtime_ns) = (reader.u32()?, reader.u32()?);
    reader.take(4)?;
    let mode = reader.u32()?;
    let accessed = (atime.cast_signed(), atime_ns);
    let modified = (mtime.cast_signed(), mtime_ns);
    Some(NewAttributes { change, size, accessed, modified, mode })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(IN_HEADER + body.len()).unwrap();
        let mut all = [len.to_ne_bytes(), opcode.to_ne_bytes()].concat();
        all.extend(7u64.to_ne_bytes());
        all.extend(1u64.to_ne_bytes());
        all.extend([0; 16]);
        all.extend(body);
        all
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_give_more_than_they_hold(
            opcode in 0u32..60,
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let message = message(opcode, &body);
            match parse(&message).unwrap() {
                Ok(Request { unique, operation, .. }) => {
                    prop_assert_eq!(unique, 7);
                    match operation {
                        Operation::Lookup { name } | Operation::Unlink { name } => {
                            prop_assert!(check_name(name).is_ok());
                        }
                        Operation::Write { data, .. } => prop_assert!(data.len() <= body.len()),
                        Operation::BatchForget(all) => prop_assert!(all.len() * 16 <= body.len()),
                        _ => {}
                    }
                }
                Err((unique, _)) => prop_assert_eq!(unique, 7),
            }
        }

        #[test]
        fn arbitrary_messages_never_panic(message in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&message));
        }
    }

    #[test]
    fn only_data_and_holes_are_looked_for_and_only_where_a_file_can_be() {
        let asked = |offset: u64, whence: u32| {
            let body = [&[0; 8][..], &offset.to_ne_bytes(), &whence.to_ne_bytes(), &[0; 4]].concat();
            match parse(&message(46, &body)).unwrap() {
                Ok(Request { operation: Operation::Seek { offset, whence }, .. }) => Ok((offset, whence)),
                Ok(other) => panic!("{other:?}"),
                Err(refused) => Err(refused),
            }
        };
        assert_eq!(asked(5, 3), Ok((5, Whence::Data)));
        assert_eq!(asked(5, 4), Ok((5, Whence::Hole)));
        for whence in [0, 1, 2, 5, u32::MAX] {
            assert_eq!(asked(5, whence), Err((7, Errno::INVAL)), "{whence}");
        }
        assert_eq!(asked(1 << 63, 3), Err((7, Errno::NXIO)));
        assert_eq!(parse(&message(46, &[0; 23])).unwrap(), Err((7, Errno::INVAL)));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in ["", ".", "..", "a/b", "/"] {
            let body = [name.as_bytes(), b"\0"].concat();
            assert_eq!(parse(&message(1, &body)).unwrap(), Err((7, Errno::INVAL)), "{name:?}");
        }
        let long = [vec![b'a'; 256], vec![0]].concat();
        assert_eq!(parse(&message(1, &long)).unwrap(), Err((7, Errno::NAMETOOLONG)));
    }
}
