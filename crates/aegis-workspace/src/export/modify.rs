//! Changes that the guest makes: attributes, contents, names.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, openat, utimensat,
};
use rustix::io::Errno;

use super::{CHANGE_NAMES, Export, Loss, permissions, time};
use crate::fd_cache::{Found, is_file, path_of, status_of, with_access};
use crate::fuse_reply::Reply;
use crate::fuse_request::{Change, NewAttributes};
use crate::inode_table::Place;
use crate::quota::NAME_COST;

impl Export {
    pub(super) fn set_attributes(&mut self, node: u64, new: &NewAttributes) -> Result<Found, Errno> {
        if new.change.contains(Change::SIZE) {
            self.resize(node, new.size)?;
        }
        let reference = self.tree.reference(node)?;
        let path = path_of(&reference);
        if new.change.contains(Change::MODE) {
            rustix::fs::chmod(path.as_str(), permissions(new.mode))?;
        }
        if new.change.intersects(Change::ATIME | Change::MTIME) {
            let stamp = |set, now, (seconds, nanoseconds)| {
                let (tv_sec, tv_nsec) = match (new.change.contains(set), new.change.contains(now)) {
                    (false, _) => (0, UTIME_OMIT),
                    (true, true) => (0, UTIME_NOW),
                    (true, false) => {
                        let (seconds, nanoseconds) = time(seconds, nanoseconds);
                        (seconds, nanoseconds.into())
                    }
                };
                Timespec { tv_sec, tv_nsec }
            };
            let times = Timestamps {
                last_access: stamp(Change::ATIME, Change::ATIME_NOW, new.accessed),
                last_modification: stamp(Change::MTIME, Change::MTIME_NOW, new.modified),
            };
            utimensat(CWD, path.as_str(), &times, AtFlags::empty())?;
        }
        status_of(&reference)
    }

    pub(super) fn resize(&mut self, node: u64, size: u64) -> Result<(), Errno> {
        let file = self.tree.file(node, true)?;
        let old = status_of(&file)?.status.stx_size;
        self.take(size.saturating_sub(old))?;
        let resized = rustix::fs::ftruncate(&file, size);
        self.give(if resized.is_ok() { old.saturating_sub(size) } else { size.saturating_sub(old) });
        resized
    }

    pub(super) fn write(
        &mut self,
        node: u64,
        offset: u64,
        data: &[u8],
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let file = self.tree.file(node, true)?;
        let growth = match &self.ledger {
            None => 0,
            Some(_) => {
                let end = offset.checked_add(data.len() as u64).ok_or(Errno::FBIG)?;
                end.saturating_sub(status_of(&file)?.status.stx_size)
            }
        };
        self.take(growth)?;
        let mut written = 0;
        while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pwrite(&file, rest, offset.saturating_add(written as u64)) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(error) if written == 0 => {
                    self.give(growth);
                    return Err(error);
                }
                Err(_) => break,
            }
        }
        reply.written(u32::try_from(written).unwrap_or(0));
        Ok(())
    }

    /// Makes a name in a directory, and tells of what it stands for.
    pub(super) fn make(
        &mut self,
        parent: u64,
        name: &OsStr,
        reply: &mut Reply<'_>,
        make: impl Fn(&OwnedFd) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let directory = self.tree.directory(parent)?;
        self.take(NAME_COST)?;
        with_access(&directory, CHANGE_NAMES, || make(&directory)).inspect_err(|_| self.give(NAME_COST))?;
        let (id, found) = self.tree.look_up(parent, name)?;
        reply.entry(id, &self.view.attributes(&found));
        Ok(())
    }

    /// A file, pipe or socket; never a device.
    pub(super) fn make_node(
        &mut self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let kind = FileType::from_raw_mode(mode);
        let made = matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket);
        if !made {
            return Err(Errno::PERM);
        }
        self.make(parent, name, reply, |directory| {
            rustix::fs::mknodat(directory, name, kind, permissions(mode), 0)
        })
    }

    pub(super) fn create(
        &mut self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        exclusive: bool,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let directory = self.tree.directory(parent)?;
        self.take(NAME_COST)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made =
            with_access(&directory, CHANGE_NAMES, || openat(&directory, name, flags, permissions(mode)));
        let made = made.inspect_err(|_| self.give(NAME_COST));
        let found = match made {
            Ok(fd) => {
                let found = status_of(&fd)?;
                let id = self.tree.hold(parent, name, &found)?;
                self.tree.keep(id, fd);
                (id, found)
            }
            // Somebody else was quicker, and the guest does not mind.
            Err(Errno::EXIST) if !exclusive => self.tree.look_up(parent, name)?,
            Err(error) => return Err(error),
        };
        reply.entry(found.0, &self.view.attributes(&found.1));
        reply.opened();
        Ok(())
    }

    pub(super) fn remove(&mut self, parent: u64, name: &OsStr, flags: AtFlags) -> Result<(), Errno> {
        let directory = self.tree.directory(parent)?;
        let lost = self.before_loss(parent, name);
        with_access(&directory, CHANGE_NAMES, || rustix::fs::unlinkat(&directory, name, flags))?;
        self.lose(parent, name, lost);
        Ok(())
    }

    pub(super) fn before_loss(&mut self, parent: u64, name: &OsStr) -> Loss {
        let rescued = self.tree.rescue(parent, name);
        let status = match &self.ledger {
            Some(_) => self.tree.status_in(parent, name).ok().map(|found| found.status),
            None => None,
        };
        Loss { rescued, status }
    }

    /// A name is gone, and with its last one what it stood for, unless the guest still has that open.
    pub(super) fn lose(&mut self, parent: u64, name: &OsStr, loss: Loss) {
        self.give(NAME_COST);
        if let (None, Some(status)) = (&loss.rescued, loss.status)
            && is_file(&status)
            && status.stx_nlink == 1
        {
            self.give(status.stx_size);
        }
        self.tree.gone(parent, name, loss.rescued);
    }

    pub(super) fn rename(&mut self, from: Place, to: Place, flags: RenameFlags) -> Result<(), Errno> {
        let wanted = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        if !wanted.contains(flags) {
            return Err(Errno::INVAL);
        }
        let (old, new) = (self.tree.directory(from.parent)?, self.tree.directory(to.parent)?);
        // Two names of one file stay two names: nothing happens then.
        let same = self
            .tree
            .nodes
            .at(from.parent, &from.name)
            .is_some_and(|id| self.tree.nodes.at(to.parent, &to.name) == Some(id));
        let lost =
            (!flags.contains(RenameFlags::EXCHANGE) && !same).then(|| self.before_loss(to.parent, &to.name));
        with_access(&old, CHANGE_NAMES, || {
            with_access(&new, CHANGE_NAMES, || {
                rustix::fs::renameat_with(&old, &from.name, &new, &to.name, flags)
            })
        })?;
        if same {
            return Ok(());
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            self.tree.nodes.exchanged(from, to);
            return Ok(());
        }
        if let Some(lost) = lost.filter(Loss::is_of_something) {
            self.lose(to.parent, &to.name, lost);
        }
        self.tree.nodes.moved(from, to);
        Ok(())
    }

    pub(super) fn sync(&mut self, node: u64, data_only: bool) -> Result<(), Errno> {
        let reference = self.tree.reference(node)?;
        if is_file(&status_of(&reference)?.status) {
            let file = self.tree.file(node, true)?;
            return if data_only { rustix::fs::fdatasync(&file) } else { rustix::fs::fsync(&file) };
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::fsync(&openat(&reference, ".", flags, Mode::empty())?)
    }

    pub(super) fn allocate(&mut self, node: u64, offset: u64, length: u64, mode: u32) -> Result<(), Errno> {
        if mode != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let file = self.tree.file(node, true)?;
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        let growth = end.saturating_sub(status_of(&file)?.status.stx_size);
        self.take(growth)?;
        let done = rustix::fs::fallocate(&file, FallocateFlags::empty(), offset, length);
        done.inspect_err(|_| self.give(growth))
    }
}
