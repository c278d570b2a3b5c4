//! What others have changed in an export: which of it the guest is told, and how.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use aegis_guest_protocol::changes::{Change, Spot, Touch, Type};
use rustix::fs::FileType;
use rustix::fs::inotify::ReadFlags;

use super::{Export, place};
use crate::fd_cache::SideEffects;
use crate::fuse_request::{Operation, Request, check_name};
use crate::inode_table::Place;
use crate::watcher::Event;

/// The halves of a rename are told one after the other, and only another processor's events come between.
const NEAR: usize = 64;

/// What has happened to a name in one export, or to two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostChange {
    /// One name.
    Here(Place, ReadFlags),
    /// What was at the first is at the second. Whether it is a directory.
    Moved(Place, Place, bool),
}

/// Joins the halves of what has been moved within export `number`; one whose other half was not seen has come or gone.
pub(crate) fn happenings(events: &[Event], number: usize) -> Vec<HostChange> {
    let mut half_used = vec![false; events.len()];
    let mut all = Vec::new();
    for (index, event) in events.iter().enumerate() {
        if half_used.get(index).is_some_and(|used| *used) {
            continue;
        }
        for place in places_of(event, number) {
            let other = (event.what.contains(ReadFlags::MOVED_FROM)).then(|| {
                let rest = events.iter().enumerate().skip(index + 1).take(NEAR);
                let mut halves = rest.filter(|(_, other)| {
                    other.cookie == event.cookie && other.what.contains(ReadFlags::MOVED_TO)
                });
                halves.find_map(|(at, other)| Some((at, places_of(other, number).next()?)))
            });
            match other.flatten() {
                Some((at, to)) => {
                    if let Some(used) = half_used.get_mut(at) {
                        *used = true;
                    }
                    all.push(HostChange::Moved(place, to, event.what.contains(ReadFlags::ISDIR)));
                }
                None => all.push(HostChange::Here(place, event.what)),
            }
        }
    }
    all
}

fn places_of(event: &Event, number: usize) -> impl Iterator<Item = Place> {
    let there = event.directories.iter().filter(move |(export, _)| *export == number);
    there.map(|(_, directory)| place(*directory, OsStr::from_bytes(&event.name)))
}

impl Export {
    /// What the last request has led to beside its answer.
    pub(crate) fn take_news(&mut self) -> SideEffects {
        self.tree.take_news()
    }

    /// Opens a directory to watch it.
    pub(crate) fn watchable(&mut self, id: u64) -> Result<impl std::os::fd::AsFd + use<>, rustix::io::Errno> {
        self.tree.watchable(id)
    }

    /// Whether the guest's kernel does not know a node any more.
    pub(crate) fn has_forgotten(&self, id: u64) -> bool {
        self.tree.nodes.key(id).is_none()
    }

    /// All that the guest's kernel knows, directories first, as far as that can be told.
    pub(crate) fn known(&self) -> Vec<u64> {
        self.tree.nodes.ids()
    }

    /// What a request may itself have done, to which names. What it only looks at somebody else may change meanwhile.
    pub(crate) fn concerns(&self, request: &Request<'_>, closed: &[Place]) -> Vec<(Place, ReadFlags)> {
        let node = request.node;
        let names = |id, what| self.tree.nodes.places(id).into_iter().map(move |place| (place, what));
        let mut all: Vec<_> = closed.iter().map(|place| (place.clone(), ReadFlags::CLOSE_WRITE)).collect();
        match request.operation {
            Operation::SetAttributes(_) | Operation::Write { .. } | Operation::Allocate { .. } => {
                all.extend(names(node, ReadFlags::MODIFY | ReadFlags::ATTRIB));
            }
            // What keeps us out is opened up for a moment.
            Operation::Read { .. } | Operation::Lookup { .. } | Operation::List { .. } => {
                all.extend(names(node, ReadFlags::ATTRIB));
            }
            Operation::SymLink { name, .. }
            | Operation::MakeNode { name, .. }
            | Operation::MakeDirectory { name, .. }
            | Operation::Create { name, .. } => {
                all.push((place(node, name), ReadFlags::CREATE));
                all.extend(names(node, ReadFlags::ATTRIB));
            }
            Operation::Unlink { name } | Operation::RemoveDirectory { name } => {
                all.push((place(node, name), ReadFlags::DELETE));
                all.extend(names(node, ReadFlags::ATTRIB));
            }
            Operation::Link { of, name } => {
                all.push((place(node, name), ReadFlags::CREATE));
                all.extend(names(node, ReadFlags::ATTRIB).chain(names(of, ReadFlags::ATTRIB)));
            }
            Operation::Rename { name, to, new_name, .. } => {
                let moved = ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
                all.extend([(place(node, name), moved), (place(to, new_name), moved)]);
                all.extend(names(node, ReadFlags::ATTRIB).chain(names(to, ReadFlags::ATTRIB)));
            }
            _ => {}
        }
        all
    }

    /// Makes what has happened known here, and says what the guest is to be told.
    pub(crate) fn learn(&mut self, happening: HostChange) -> Option<Change> {
        let change = match happening {
            HostChange::Moved(from, to, directory) => self.learn_move(from, to, directory),
            HostChange::Here(at, what) => self.learn_here(&at, what),
        };
        // Without a journal there is just nobody who could go on from it.
        let _unwritten = self.journal.note(&mut self.tree.nodes);
        change
    }

    fn learn_here(&mut self, at: &Place, what: ReadFlags) -> Option<Change> {
        let spot = self.spot(at)?;
        let node = self.tree.nodes.at(at.parent, &at.name).unwrap_or(0);
        if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            // What has gone again was not there for anybody to see.
            let found = self.tree.status_in(at.parent, &at.name).ok()?;
            let what = match FileType::from_raw_mode(found.status.stx_mode.into()) {
                FileType::Directory => Type::Directory,
                FileType::Symlink => Type::SymbolicLink,
                FileType::Fifo => Type::Pipe,
                FileType::Socket => Type::Socket,
                _ => Type::File,
            };
            return Some(Change::Made { at: spot, what });
        }
        if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            self.unless_there(at, node);
            return Some(Change::Gone { at: spot, node, directory: what.contains(ReadFlags::ISDIR) });
        }
        let how = Touch {
            attributes: what.contains(ReadFlags::ATTRIB),
            contents: what.contains(ReadFlags::MODIFY),
            closed: what.contains(ReadFlags::CLOSE_WRITE),
        };
        (how != Touch::default()).then_some(Change::Touched { at: spot, node, how })
    }

    fn learn_move(&mut self, from: Place, to: Place, directory: bool) -> Option<Change> {
        let node = self.tree.nodes.at(from.parent, &from.name);
        let replaced = self.tree.nodes.at(to.parent, &to.name).filter(|there| Some(*there) != node);
        let spots = (self.spot(&from), self.spot(&to));
        let is_there = self.tree.status_in(to.parent, &to.name).ok().map(|found| found.key);
        if node.is_some_and(|node| self.tree.nodes.key(node) == is_there) {
            self.tree.nodes.moved(from, to);
        } else {
            self.unless_there(&from, node.unwrap_or(0));
        }
        let (Some(from), Some(to)) = spots else { return None };
        Some(Change::Moved { from, to, replaced: replaced.unwrap_or(0), directory })
    }

    /// A node has this name no more, unless it has it again.
    fn unless_there(&mut self, at: &Place, node: u64) {
        let is_there = self.tree.status_in(at.parent, &at.name).ok().map(|found| found.key);
        if is_there.is_none() || is_there != self.tree.nodes.key(node) {
            self.tree.nodes.gone(at.parent, &at.name);
        }
    }

    fn spot(&self, at: &Place) -> Option<Spot> {
        check_name(&at.name).ok()?;
        let path = self.tree.nodes.path(at.parent)?;
        Some(Spot { directory: at.parent, path, name: at.name.as_bytes().to_vec() })
    }
}
