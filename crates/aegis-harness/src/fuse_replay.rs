//! FUSE requests of the thread that replays changes of the host in the guest, so that the kernel raises events for them
//! ([`crate::fuse_notify`]). No I/O.
//!
//! What the thread asks for has happened already. So none of it that would change anything is ever sent to the host, whoever
//! serves there: the kernel gets the answer that it would have got, had the guest done it, or the request is turned into one
//! that only looks.

use aegis_guest_protocol::changes::Spot;
use rustix::io::Errno;

/// Length of a request's header (`fuse_in_header`), and of an answer's (`fuse_out_header`), bytes.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;
/// Length of the body of a request for attributes (`fuse_getattr_in`), bytes.
const GETATTR_BODY: usize = 16;

/// Operations of the kernel's FUSE.
mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const RENAME2: u32 = 45;
    /// What changes a file and is never repeated: `LINK`, `SETXATTR`, `REMOVEXATTR`, `CREATE`, `FALLOCATE`,
    /// `COPY_FILE_RANGE`, `TMPFILE`.
    pub(super) const REFUSED: [u32; 7] = [13, 21, 24, 35, 43, 47, 51];
}

/// What the kernel knows of a file that is gone (`fuse_entry_out`): it has to find it once more to remove it.
pub(crate) type Entry = [u8; 128];

/// What is being repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplayedChange {
    /// Something that stays where it is.
    Touch,
    /// Something new at a name: nothing was there before.
    Making(Spot),
    /// The end of what was at a name.
    Removing(Spot, Entry),
    /// What was at the first name is at the second, in place of this.
    Moving(Spot, Spot, Option<Entry>),
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// It only looks, and is sent.
    Send,
    /// This one, which only looks, is sent in its place.
    SendInstead(Vec<u8>),
    /// It is answered here.
    Answer(Vec<u8>),
}

fn number<const N: usize>(message: &[u8], at: usize) -> Option<[u8; N]> {
    message.get(at..at + N)?.try_into().ok()
}

/// The thread that a request comes from, as its header says.
pub(crate) fn thread_of(message: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(number(message, 32)?))
}

/// An answer (`fuse_out_header`) with a body, or an error, which has none.
fn answer(unique: u64, outcome: Result<&[u8], Errno>) -> Vec<u8> {
    let (body, error) = match outcome {
        Ok(body) => (body, 0),
        Err(error) => (&[][..], -error.raw_os_error()),
    };
    let len = u32::try_from(OUT_HEADER + body.len()).unwrap_or(0);
    [&len.to_ne_bytes()[..], &error.to_ne_bytes(), &unique.to_ne_bytes(), body].concat()
}

/// The request with the header of `message` but for another operation, node and body.
fn instead(message: &[u8], opcode: u32, node: u64, body: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(IN_HEADER + body.len()).ok()?;
    let unique = message.get(8..16)?;
    let rest = message.get(24..IN_HEADER)?;
    Some([&len.to_ne_bytes()[..], &opcode.to_ne_bytes(), unique, &node.to_ne_bytes(), rest, body].concat())
}

fn look_up(message: &[u8], node: u64, name: &[u8]) -> Option<Step> {
    instead(message, opcode::LOOKUP, node, &[name, b"\0"].concat()).map(Step::SendInstead)
}

/// The name at the beginning of `bytes`.
fn name_in(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split(|byte| *byte == 0).next()
}

/// What to do with a request of that thread's.
pub(crate) fn step(message: &[u8], repeated: &ReplayedChange) -> Step {
    let refusal = || {
        let unique = number(message, 8).map_or(0, u64::from_ne_bytes);
        Step::Answer(answer(unique, Err(Errno::IO)))
    };
    decide(message, repeated).unwrap_or_else(refusal)
}

fn decide(message: &[u8], repeated: &ReplayedChange) -> Option<Step> {
    let operation = u32::from_ne_bytes(number(message, 4)?);
    let (unique, node) = (u64::from_ne_bytes(number(message, 8)?), u64::from_ne_bytes(number(message, 16)?));
    let body = message.get(IN_HEADER..)?;
    match operation {
        opcode::LOOKUP => {
            let name = name_in(body)?;
            let is = |spot: &Spot| spot.directory == node && spot.name == name;
            let known = |entry: &Entry| Some(Step::Answer(answer(unique, Ok(entry))));
            let nothing = || Some(Step::Answer(answer(unique, Err(Errno::NOENT))));
            match repeated {
                ReplayedChange::Making(at) if is(at) => nothing(),
                ReplayedChange::Removing(at, entry) if is(at) => known(entry),
                ReplayedChange::Moving(from, to, _) if is(from) => look_up(message, to.directory, &to.name),
                ReplayedChange::Moving(_, to, replaced) if is(to) => {
                    replaced.as_ref().map_or_else(nothing, known)
                }
                _ => Some(Step::Send),
            }
        }
        opcode::SETATTR => instead(message, opcode::GETATTR, node, &[0; GETATTR_BODY]).map(Step::SendInstead),
        opcode::SYMLINK => look_up(message, node, name_in(body)?),
        opcode::MKNOD => look_up(message, node, name_in(body.get(16..)?)?),
        opcode::MKDIR => look_up(message, node, name_in(body.get(8..)?)?),
        opcode::UNLINK | opcode::RMDIR | opcode::RENAME | opcode::RENAME2 => {
            Some(Step::Answer(answer(unique, Ok(&[]))))
        }
        other if opcode::REFUSED.contains(&other) => Some(Step::Answer(answer(unique, Err(Errno::PERM)))),
        // The thread writes nothing. What another one has written through a mapping may be written back in its name.
        _ => Some(Step::Send),
    }
}

/// What the kernel knows of a file, to be told once more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of statx")]
pub(crate) struct Known {
    pub(crate) node: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    /// Last access, change of the contents, change of the node: seconds since 1970, nanoseconds.
    pub(crate) times: [(i64, u32); 3],
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) owner: (u32, u32),
}

impl Known {
    /// `fuse_entry_out`, to be believed for no time at all.
    pub(crate) fn entry(&self) -> Entry {
        let mut bytes = Vec::with_capacity(128);
        for value in [self.node, 0, 0, 0, 0, self.inode, self.size, self.blocks] {
            bytes.extend(value.to_ne_bytes());
        }
        self.times.iter().for_each(|(seconds, _)| bytes.extend(seconds.to_ne_bytes()));
        self.times.iter().for_each(|(_, nanoseconds)| bytes.extend(nanoseconds.to_ne_bytes()));
        for value in [self.mode, self.links, self.owner.0, self.owner.1, 0, 4096, 0] {
            bytes.extend(value.to_ne_bytes());
        }
        let mut entry = [0; 128];
        entry.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        entry
    }
}

/// A message to the kernel that answers nothing (`FUSE_NOTIFY_*`): what of a node's contents it has is out of date, or only
/// its attributes.
pub(crate) fn forget_contents(node: u64, attributes_only: bool) -> Vec<u8> {
    let offset: i64 = if attributes_only { -1 } else { 0 };
    notice(2, &[node.to_ne_bytes(), offset.to_ne_bytes(), 0i64.to_ne_bytes()].concat())
}

/// The same: what it knows of a name is out of date. What is mounted there stays.
pub(crate) fn forget_name(at: &Spot) -> Vec<u8> {
    /// `FUSE_EXPIRE_ONLY`.
    const EXPIRE_ONLY: u32 = 1;
    let len = u32::try_from(at.name.len()).unwrap_or(0);
    let head = [&at.directory.to_ne_bytes()[..], &len.to_ne_bytes(), &EXPIRE_ONLY.to_ne_bytes()].concat();
    notice(3, &[&head[..], &at.name, b"\0"].concat())
}

fn notice(code: i32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(OUT_HEADER + body.len()).unwrap_or(0);
    [&len.to_ne_bytes()[..], &code.to_ne_bytes(), &0u64.to_ne_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOOKING: [u32; 3] = [opcode::LOOKUP, opcode::GETATTR, 16];

    fn message(operation: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(IN_HEADER + body.len()).unwrap();
        let mut all = [len.to_ne_bytes(), operation.to_ne_bytes()].concat();
        all.extend(7u64.to_ne_bytes());
        all.extend(node.to_ne_bytes());
        all.extend([0; 8]);
        all.extend(99u32.to_ne_bytes());
        all.extend([0; 4]);
        all.extend(body);
        all
    }

    fn spot(name: &str) -> Spot {
        Spot { directory: 5, path: b"d".to_vec(), name: name.into() }
    }

    fn repeated() -> impl Strategy<Value = ReplayedChange> {
        prop_oneof![
            Just(ReplayedChange::Touch),
            Just(ReplayedChange::Making(spot("a"))),
            Just(ReplayedChange::Removing(spot("a"), [3; 128])),
            Just(ReplayedChange::Moving(spot("a"), spot("b"), None)),
            Just(ReplayedChange::Moving(spot("a"), spot("b"), Some([3; 128]))),
        ]
    }

    /// Operations that change something; writes are those of others.
    const CHANGING: [u32; 14] = [4, 6, 8, 9, 10, 11, 12, 13, 21, 24, 35, 43, 45, 47];

    proptest! {
        #[test]
        fn nothing_that_changes_anything_is_sent(
            operation in 0u32..60,
            body in prop::collection::vec(any::<u8>(), 0..80),
            repeated in repeated(),
        ) {
            let message = message(operation, 5, &body);
            match step(&message, &repeated) {
                Step::Send => prop_assert!(!CHANGING.contains(&operation)),
                Step::SendInstead(other) => {
                    let sent = u32::from_ne_bytes(number(&other, 4).unwrap());
                    prop_assert!(LOOKING.contains(&sent));
                    prop_assert_eq!(u32::from_ne_bytes(number(&other, 0).unwrap()) as usize, other.len());
                    prop_assert_eq!(&other[8..16], &message[8..16]);
                }
                Step::Answer(answer) => {
                    prop_assert_eq!(u32::from_ne_bytes(number(&answer, 0).unwrap()) as usize, answer.len());
                    prop_assert_eq!(&answer[8..16], &message[8..16]);
                }
            }
        }

        #[test]
        fn arbitrary_messages_never_panic(
            message in prop::collection::vec(any::<u8>(), 0..120),
            repeated in repeated(),
        ) {
            let _thread = thread_of(&message);
            drop(step(&message, &repeated));
        }
    }

    fn looked_up(step: Step) -> Option<(u64, Vec<u8>)> {
        let Step::SendInstead(other) = step else { return None };
        Some((u64::from_ne_bytes(number(&other, 16)?), name_in(&other[IN_HEADER..])?.to_vec()))
    }

    #[test]
    fn what_is_made_is_looked_up_and_what_is_gone_is_found_once_more() {
        let making = ReplayedChange::Making(spot("a"));
        let nothing = Step::Answer(answer(7, Err(Errno::NOENT)));
        assert_eq!(step(&message(opcode::LOOKUP, 5, b"a\0"), &making), nothing);
        assert_eq!(step(&message(opcode::LOOKUP, 5, b"other\0"), &making), Step::Send);
        assert_eq!(step(&message(opcode::LOOKUP, 6, b"a\0"), &making), Step::Send);
        let made = [&[0; 16][..], b"a\0"].concat();
        assert_eq!(looked_up(step(&message(opcode::MKNOD, 5, &made), &making)), Some((5, b"a".to_vec())));
        let removing = ReplayedChange::Removing(spot("a"), [3; 128]);
        let found = Step::Answer(answer(7, Ok(&[3; 128])));
        assert_eq!(step(&message(opcode::LOOKUP, 5, b"a\0"), &removing), found);
        assert_eq!(step(&message(opcode::UNLINK, 5, b"a\0"), &removing), Step::Answer(answer(7, Ok(&[]))));
    }

    #[test]
    fn what_has_moved_is_found_where_it_is_now() {
        let moving = ReplayedChange::Moving(spot("a"), spot("b"), Some([3; 128]));
        assert_eq!(looked_up(step(&message(opcode::LOOKUP, 5, b"a\0"), &moving)), Some((5, b"b".to_vec())));
        let found = Step::Answer(answer(7, Ok(&[3; 128])));
        assert_eq!(step(&message(opcode::LOOKUP, 5, b"b\0"), &moving), found);
        let moving = ReplayedChange::Moving(spot("a"), spot("b"), None);
        let nothing = Step::Answer(answer(7, Err(Errno::NOENT)));
        assert_eq!(step(&message(opcode::LOOKUP, 5, b"b\0"), &moving), nothing);
    }

    #[test]
    fn messages_have_the_sizes_that_the_kernel_checks() {
        assert_eq!(forget_contents(1, false).len(), 16 + 24);
        assert_eq!(forget_name(&spot("name")).len(), 16 + 16 + 5);
        let known = Known { node: 9, mode: 0o100_644, ..Known::default() };
        assert_eq!(known.entry()[..8], 9u64.to_ne_bytes());
        assert_eq!(known.entry()[40 + 60..40 + 64], 0o100_644u32.to_ne_bytes());
    }
}
