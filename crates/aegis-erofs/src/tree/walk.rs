//! Where a path leads in a tree.
//!
//! The tree is in memory and leads nowhere out of itself, so a path is read as a `chroot` would read it and never refused
//! for its letter: `/` at its front and `..` stay below the root, and links are followed within the tree.
//!
//! What a layer says of directories that are something else in a layer below is taken as an overlay has it, which is how
//! container engines put layers together: a layer knows what is in itself only, and its directories hide what is below.

use super::file_tree::FileTree;
use super::node::{Content, NodeId};
use super::path::{MAX_NAME, too_deep};
use crate::error::TreeError;

/// Most links that one path is followed over: what other unpackers allow.
const MOST_LINKS: usize = 255;
/// How many names of link targets may be followed for each entry that is allowed, all entries together.
const FOLLOWED_PER_ENTRY: u64 = 8;

/// What is done with what is on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Directories that are missing are made, and take the place of what else lower layers have there. Links of the
    /// present layer are followed.
    Make,
    /// Links of the present layer are followed; whatever else is no directory ends the way.
    Look,
    /// All links are followed; whatever else is no directory ends the way.
    Follow,
}

/// A walk from the root on.
struct Walk {
    /// Directories from the root to where the walk is.
    at: Vec<NodeId>,
    /// Names below that which are no directories, or not yet. They are made at the end of the way: `..` takes them back.
    beyond: Vec<Vec<u8>>,
    /// Names still to go, the next one last.
    ahead: Vec<Vec<u8>>,
    links: usize,
}

impl Walk {
    fn dir(&self) -> NodeId {
        self.at.last().copied().unwrap_or(NodeId::ROOT)
    }

    /// Goes on with the target of a link in the present directory.
    fn follow(&mut self, target: &[u8]) {
        if target.starts_with(b"/") {
            self.at.clear();
        }
        let names = target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        self.ahead.extend(names.map(<[u8]>::to_vec).rev());
    }
}

impl FileTree {
    /// The directory that a path leads to; `None` where the way ends before.
    pub(super) fn walk(&mut self, path: &[&[u8]], way: Way) -> Result<Option<NodeId>, TreeError> {
        let ahead = path.iter().rev().map(|name| name.to_vec()).collect();
        let mut walk = Walk { at: Vec::new(), beyond: Vec::new(), ahead, links: 0 };
        while let Some(name) = walk.ahead.pop() {
            if name == b".." {
                if walk.beyond.pop().is_none() {
                    walk.at.pop();
                }
            } else {
                self.step(&mut walk, name, way)?;
                if walk.at.len() + walk.beyond.len() > self.limits.max_depth {
                    return Err(too_deep(&self.limits));
                }
            }
        }
        if way != Way::Make {
            return Ok(walk.beyond.is_empty().then(|| walk.dir()));
        }
        let mut dir = walk.dir();
        for name in walk.beyond {
            dir = self.make(dir, &name)?;
        }
        Ok(Some(dir))
    }

    /// As [`FileTree::walk`], to a directory that is there then.
    pub(super) fn make_parents(&mut self, path: &[&[u8]]) -> Result<NodeId, TreeError> {
        Ok(self.walk(path, Way::Make)?.unwrap_or(NodeId::ROOT))
    }

    fn step(&mut self, walk: &mut Walk, name: Vec<u8>, way: Way) -> Result<(), TreeError> {
        let slot = if walk.beyond.is_empty() { self.slot(walk.dir(), &name) } else { None };
        let target = match slot.map(|slot| (slot, &self.node(slot.node).content)) {
            Some((slot, Content::Directory(_))) => {
                walk.at.push(slot.node);
                return Ok(());
            }
            Some((slot, Content::Symlink(target))) if slot.layer == self.layer || way == Way::Follow => {
                target
            }
            _ => {
                walk.beyond.push(name);
                return Ok(());
            }
        };
        walk.links += 1;
        if walk.links > MOST_LINKS {
            return Err(TreeError::TooManyLinks(name.escape_ascii().to_string()));
        }
        walk.follow(target);
        // Keeps archives whose every path leads over long links from taking hours.
        self.followed = self.followed.saturating_add(walk.ahead.len() as u64);
        let limit = self.limits.max_entries.saturating_mul(FOLLOWED_PER_ENTRY);
        if self.followed <= limit {
            return Ok(());
        }
        Err(TreeError::Limit { what: "names in targets of links on the way", limit })
    }

    /// Makes a directory, in place of what else a lower layer has there.
    fn make(&mut self, dir: NodeId, name: &[u8]) -> Result<NodeId, TreeError> {
        if name.len() > MAX_NAME {
            return Err(TreeError::NameTooLong);
        }
        if self.slot(dir, name).is_some_and(|slot| slot.layer == self.layer) {
            return Err(TreeError::ParentNotDirectory(name.escape_ascii().to_string()));
        }
        self.new_directory(dir, name)
    }
}
