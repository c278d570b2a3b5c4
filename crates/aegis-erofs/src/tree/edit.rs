//! Puts entries into the tree and removes them, as a layer says.

use super::file_tree::FileTree;
use super::node::{Content, Metadata, Name, Node, NodeId};
use super::walk::Way;
use crate::error::TreeError;

/// `PATH_MAX` without the final NUL: a longer target could not be followed.
const MAX_SYMLINK_TARGET: usize = 4095;

impl FileTree {
    /// Puts a directory. One that exists keeps its entries and gets the new metadata; anything else is replaced.
    ///
    /// # Errors
    /// When the path is not valid, leads through what the same layer says is no directory, or a limit is exceeded.
    pub fn put_directory(&mut self, path: &[u8], metadata: Metadata) -> Result<(), TreeError> {
        let components = self.components(path)?;
        let Some((name, parents)) = components.split_last() else {
            self.charge(&metadata, 0)?;
            self.nodes[NodeId::ROOT.index()].metadata = metadata;
            return Ok(());
        };
        let parent = self.make_parents(parents)?;
        match self.slot(parent, name) {
            Some(slot) if self.as_directory(slot.node).is_some() => {
                self.charge(&metadata, 0)?;
                self.nodes[slot.node.index()].metadata = metadata;
                self.set_slot(parent, name, slot.node);
            }
            _ => self.insert(parent, name, Node::directory(metadata))?,
        }
        Ok(())
    }

    /// Puts anything but a directory, in place of whatever is at `path`.
    ///
    /// # Errors
    /// When the path or a symlink's target is not valid, the path leads through what the same layer says is no
    /// directory, or a limit is exceeded.
    pub fn put(&mut self, path: &[u8], metadata: Metadata, content: Content) -> Result<(), TreeError> {
        if let Content::Symlink(target) = &content
            && (target.is_empty() || target.len() > MAX_SYMLINK_TARGET || target.contains(&0))
        {
            return Err(TreeError::SymlinkTarget);
        }
        let components = self.components(path)?;
        let (name, parents) = components.split_last().ok_or(TreeError::RootNotDirectory)?;
        let parent = self.make_parents(parents)?;
        self.insert(parent, name, Node { metadata, content })
    }

    /// Gives the file at `target` the further name `path`.
    ///
    /// # Errors
    /// As [`FileTree::put`], and when the target does not exist or is a directory.
    pub fn put_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        let target_components = self.components(target)?;
        let shown = || target.escape_ascii().to_string();
        let node = match target_components.split_last() {
            // The target itself is not followed: a link can have two names.
            Some((name, parents)) => self.walk(parents, Way::Follow)?.and_then(|dir| self.slot(dir, name)),
            None => return Err(TreeError::LinkToDirectory(shown())),
        };
        let node = node.ok_or_else(|| TreeError::LinkTargetMissing(shown()))?.node;
        if self.as_directory(node).is_some() {
            return Err(TreeError::LinkToDirectory(shown()));
        }
        let components = self.components(path)?;
        let (name, parents) = components.split_last().ok_or(TreeError::RootNotDirectory)?;
        let parent = self.make_parents(parents)?;
        self.charge(&Metadata::default(), name.len())?;
        self.set_slot(parent, name, node);
        Ok(())
    }

    /// Removes what lower layers put at `path`; what the present layer put there, or below, stays. Where the way leads
    /// through no directory there is nothing to remove.
    ///
    /// # Errors
    /// When the path is not valid or a limit is exceeded.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let components = self.components(path)?;
        let (name, parents) = components.split_last().ok_or(TreeError::RootNotDirectory)?;
        if let Some(parent) = self.walk(parents, Way::Look)? {
            self.prune(parent, name);
        }
        Ok(())
    }

    /// Removes what lower layers put into the directory `path`, if there is one.
    ///
    /// # Errors
    /// When the path is not valid or a limit is exceeded.
    pub fn make_opaque(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let components = self.components(path)?;
        if let Some(dir) = self.walk(&components, Way::Look)? {
            self.prune_below(dir);
        }
        Ok(())
    }

    /// Removes a name of a lower layer. Recursion ends at the depth that paths are limited to.
    fn prune(&mut self, dir: NodeId, name: &[u8]) {
        let Some(slot) = self.slot(dir, name) else { return };
        self.prune_below(slot.node);
        let emptied = self.as_directory(slot.node).is_none_or(|directory| directory.entries.is_empty());
        if slot.layer < self.layer
            && emptied
            && let Some(directory) = self.as_directory_mut(dir)
        {
            directory.entries.remove(name);
        }
    }

    fn prune_below(&mut self, dir: NodeId) {
        let Some(directory) = self.as_directory(dir) else { return };
        let names: Vec<Name> = directory.entries.keys().cloned().collect();
        for name in names {
            self.prune(dir, &name);
        }
    }
}
