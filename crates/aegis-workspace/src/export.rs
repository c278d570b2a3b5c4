//! Answers to what a guest's kernel asks about one directory.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Mode, RenameFlags, SeekFrom, Statx};
use rustix::io::Errno;

use crate::fd_cache::{DirectoryName, FdCache, Found, is_file, path_of, shown_mode, status_of};
use crate::fuse_reply::{Attributes, Owner, Reply, Statistics, entry_len};
use crate::fuse_request::{Features, Operation, Request, Whence, check_name};
use crate::inode_journal::Journal;
use crate::inode_table::{Place, ROOT};
use crate::quota::Quota;
use crate::{ExportSpec, ServerError};

pub(crate) use changes::happenings;

/// Permissions that making and removing names in a directory takes.
const CHANGE_NAMES: Mode = Mode::WUSR.union(Mode::XUSR);

/// One directory of the host, as one guest sees it.
#[derive(Debug)]
pub(crate) struct Export {
    tree: FdCache,
    read_only: bool,
    ledger: Option<Quota>,
    journal: Journal,
    view: View,
}

/// How the guest sees what is on the host.
#[derive(Debug, Clone, Copy)]
struct View {
    device: u64,
    owner: Owner,
}

impl View {
    fn attributes(self, found: &Found) -> Attributes {
        let Found { key, status } = found;
        let of = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
        // Other file systems may be mounted below the root, whose numbers mean other files.
        let foreign = (key.device ^ self.device).rotate_left(40);
        Attributes {
            inode: key.inode ^ foreign,
            size: status.stx_size,
            blocks: status.stx_blocks,
            accessed: of(&status.stx_atime),
            modified: of(&status.stx_mtime),
            changed: of(&status.stx_ctime),
            mode: shown_mode(status),
            links: status.stx_nlink,
            owner: self.owner,
        }
    }
}

/// Whether a request has an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What was written after the header.
    Body,
    /// None: the kernel waits for nothing.
    Silence,
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

fn time(seconds: i64, nanoseconds: u32) -> (i64, u32) {
    (seconds, nanoseconds.min(999_999_999))
}

impl Export {
    /// Begins to serve a directory.
    pub(crate) fn open(spec: &ExportSpec) -> Result<Export, ServerError> {
        let failed = |source| ServerError::Export { path: spec.name.clone(), source };
        let root = aegis_sys::child::inherited(spec.descriptor).map_err(failed)?;
        let mut tree = FdCache::of(root).map_err(|error| failed(error.into()))?;
        let journal = Journal::open(&spec.journal, &mut tree.nodes).map_err(failed)?;
        let ledger = spec.limit.as_ref().map(|limit| Quota::open(tree.root(), limit));
        let device = tree.nodes.key(ROOT).map_or(0, |key| key.device);
        Ok(Export {
            tree,
            read_only: spec.read_only,
            ledger: ledger.transpose().map_err(failed)?,
            journal,
            view: View { device, owner: Owner::default() },
        })
    }

    /// The directory, and whether it may be written.
    pub(crate) fn root(&self) -> (BorrowedFd<'_>, bool) {
        (self.tree.root(), !self.read_only)
    }

    /// Whom the guest sees as owner from now on.
    pub(crate) fn set_owner(&mut self, owner: Owner) {
        self.view.owner = owner;
    }

    /// Answers a request into `reply`.
    pub(crate) fn answer(&mut self, request: &Request<'_>, reply: &mut Vec<u8>) -> Result<Answer, Errno> {
        let answer = self.find_answer(request, reply);
        // Without a journal there is just nobody who could go on from it.
        let _unwritten = self.journal.note(&mut self.tree.nodes);
        answer
    }

    fn find_answer(&mut self, request: &Request<'_>, reply: &mut Vec<u8>) -> Result<Answer, Errno> {
        let mut reply = Reply(reply);
        let node = request.node;
        match &request.operation {
            Operation::Init { major, minor, readahead, features } => {
                if *major != 7 || *minor < 31 {
                    return Err(Errno::PROTO);
                }
                reply.init(*readahead, *features & Features::all());
            }
            Operation::Forget { times } => return Ok(self.forget(&[(node, *times)])),
            Operation::BatchForget(all) => return Ok(self.forget(all)),
            Operation::Lookup { name } => self.look_up(node, name, &mut reply)?,
            Operation::GetAttributes => {
                let found = self.tree.status(node)?;
                reply.attributes(&self.view.attributes(&found));
            }
            Operation::ReadLink => self.read_link(node, &mut reply)?,
            Operation::Read { offset, size } => self.read(node, *offset, *size, &mut reply)?,
            Operation::List { offset, size, attributes } => {
                self.list(node, *offset, *size, *attributes, &mut reply)?;
            }
            Operation::Statistics => reply.statistics(&self.statistics(node)?),
            Operation::Seek { offset, whence } => self.seek(node, *offset, *whence, &mut reply)?,
            Operation::Destroy => {}
            Operation::Unknown => return Err(Errno::NOSYS),
            change => self.change(node, change, &mut reply)?,
        }
        Ok(Answer::Body)
    }

    fn change(&mut self, node: u64, change: &Operation<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        if self.read_only {
            return Err(Errno::ROFS);
        }
        match change {
            Operation::SetAttributes(new) => {
                let found = self.set_attributes(node, new)?;
                reply.attributes(&self.view.attributes(&found));
                Ok(())
            }
            Operation::Write { offset, data } => self.write(node, *offset, data, reply),
            Operation::Create { name, mode, exclusive } => self.create(node, name, *mode, *exclusive, reply),
            Operation::MakeNode { name, mode } => self.make_node(node, name, *mode, reply),
            Operation::MakeDirectory { name, mode } => self.make(node, name, reply, |directory| {
                rustix::fs::mkdirat(directory, *name, permissions(*mode))
            }),
            Operation::SymLink { name, target } => {
                self.make(node, name, reply, |directory| rustix::fs::symlinkat(*target, directory, *name))
            }
            Operation::Link { of, name } => {
                let from = self.tree.reference(*of)?;
                let path = path_of(&from);
                self.make(node, name, reply, |directory| {
                    rustix::fs::linkat(CWD, path.as_str(), directory, *name, AtFlags::SYMLINK_FOLLOW)
                })
            }
            Operation::Unlink { name } => self.remove(node, name, AtFlags::empty()),
            Operation::RemoveDirectory { name } => self.remove(node, name, AtFlags::REMOVEDIR),
            Operation::Rename { name, to, new_name, flags } => {
                let (from, to) = (place(node, name), place(*to, new_name));
                self.rename(from, to, RenameFlags::from_bits(*flags).ok_or(Errno::INVAL)?)
            }
            Operation::Sync { data_only } => self.sync(node, *data_only),
            Operation::Allocate { offset, length, mode } => self.allocate(node, *offset, *length, *mode),
            _ => Err(Errno::NOSYS),
        }
    }

    fn take(&self, bytes: u64) -> Result<(), Errno> {
        self.ledger.as_ref().map_or(Ok(()), |ledger| ledger.take(bytes))
    }

    fn give(&self, bytes: u64) {
        if let Some(ledger) = &self.ledger {
            ledger.give(bytes);
        }
    }

    fn forget(&mut self, all: &[(u64, u64)]) -> Answer {
        for (id, times) in all {
            if let Some(fd) = self.tree.forget(*id, *times) {
                self.give_contents(&fd);
            }
        }
        Answer::Silence
    }

    /// Nobody can reach this node any more: what was in it is free, if it was the last name's.
    fn give_contents(&self, fd: &OwnedFd) {
        if self.ledger.is_some()
            && let Ok(Found { status, .. }) = status_of(fd)
            && status.stx_nlink == 0
            && is_file(&status)
        {
            self.give(status.stx_size);
        }
    }

    fn look_up(&mut self, parent: u64, name: &OsStr, reply: &mut Reply<'_>) -> Result<(), Errno> {
        match self.tree.look_up(parent, name) {
            Ok((id, found)) => reply.entry(id, &self.view.attributes(&found)),
            Err(Errno::NOENT) => reply.entry(0, &Attributes::default()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn read_link(&mut self, node: u64, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let link = self.tree.reference(node)?;
        let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
        reply.0.extend(target.as_bytes());
        Ok(())
    }

    fn read(&mut self, node: u64, offset: u64, size: u32, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let file = self.tree.file(node, false)?;
        let begin = reply.0.len();
        let size = usize::try_from(size).unwrap_or(0);
        reply.0.resize(begin + size, 0);
        let mut filled = 0;
        while let Some(rest) = reply.0.get_mut(begin + filled..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&file, rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        reply.0.truncate(begin + filled);
        Ok(())
    }

    /// The descriptor's own position is nobody's: all else says where it reads and writes.
    fn seek(&mut self, node: u64, offset: u64, whence: Whence, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let file = self.tree.file(node, false)?;
        let to = match whence {
            Whence::Data => SeekFrom::Data(offset),
            Whence::Hole => SeekFrom::Hole(offset),
        };
        reply.found(rustix::fs::seek(&file, to)?);
        Ok(())
    }

    fn list(
        &mut self,
        node: u64,
        offset: u64,
        size: u32,
        attributes: bool,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let end = reply.0.len() + usize::try_from(size).unwrap_or(0);
        let view = self.view;
        self.tree.list(node, offset, |tree, listed| {
            if reply.0.len() + entry_len(&listed.name, attributes) > end {
                return false;
            }
            if attributes {
                put_attributes(tree, view, node, listed, reply);
            }
            reply.name(listed.inode, listed.next, listed.kind, &listed.name);
            true
        })
    }

    fn statistics(&mut self, node: u64) -> Result<Statistics, Errno> {
        let of = rustix::fs::fstatvfs(&self.tree.reference(node)?)?;
        let block = of.f_frsize.max(512);
        let mut all = Statistics {
            blocks: of.f_blocks,
            free: of.f_bfree,
            available: of.f_bavail,
            files: of.f_files,
            free_files: of.f_ffree,
            block_size: u32::try_from(block).unwrap_or(4096),
        };
        if let Some((limit, used)) = self.ledger.as_ref().map(Quota::state) {
            let left = limit.saturating_sub(used) / block;
            all.blocks = limit / block;
            all.free = all.free.min(left);
            all.available = all.available.min(left);
        }
        Ok(all)
    }
}

/// What a listed name stands for, which the kernel holds from then on. One that is gone already stands for nothing, and
/// the kernel looks again.
fn put_attributes(
    tree: &mut FdCache,
    view: View,
    parent: u64,
    listed: &DirectoryName,
    reply: &mut Reply<'_>,
) {
    let held = check_name(&listed.name).and_then(|name| {
        let found = tree.status_in(parent, name)?;
        Ok((tree.hold(parent, name, &found)?, found))
    });
    match held {
        Ok((id, found)) => reply.entry(id, &view.attributes(&found)),
        Err(_) => reply.entry(0, &Attributes::default()),
    }
}

/// What a name that is about to go stands for.
struct Loss {
    rescued: Option<(u64, Rc<OwnedFd>)>,
    status: Option<Statx>,
}

impl Loss {
    /// Whether anything stood there that anybody knows of: the guest's kernel, or the count.
    fn is_of_something(&self) -> bool {
        self.rescued.is_some() || self.status.is_some()
    }
}

fn place(parent: u64, name: &OsStr) -> Place {
    Place { parent, name: name.to_owned() }
}

mod changes;
mod modify;

#[cfg(test)]
mod tests;
