//! The inode table: which names a node has that the guest's kernel calls by number, and how often the kernel holds it (lookup count). No I/O.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use aegis_guest_protocol::changes::MOST_PATH;
use serde::{Deserialize, Serialize};

/// Number of the root (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;
/// Most nodes at a time: a guest with memory for more names than this has enough.
pub const MOST_NODES: usize = 1 << 20;
/// Most names kept of one node; it is found by any of them.
const MOST_NAMES: usize = 8;
/// Deepest nesting that a node is looked up through.
const MOST_DEPTH: usize = 4096;

/// What tells one file of the host from all others, those before and after it included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Device.
    pub device: u64,
    /// Inode number, which another file may get when this one is gone.
    pub inode: u64,
    /// When it was made, nanoseconds since 1970; 0 where the file system does not tell.
    pub born: i128,
}

/// Where a node is: a directory's number, and the name in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The directory.
    pub parent: u64,
    /// The name.
    pub name: OsString,
}

#[derive(Debug)]
struct Inode {
    key: Key,
    /// The last is the one learnt last.
    names: Vec<OsString>,
    parents: Vec<u64>,
    held: u64,
}

/// Too many nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFull;

/// A change of the table, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node has been given a number.
    Known(u64, Key),
    /// It has a name in a directory.
    Named(u64, u64, Vec<u8>),
    /// Nothing has this name in a directory any more.
    Unnamed(u64, Vec<u8>),
    /// The kernel has forgotten a node.
    Forgotten(u64),
}

/// All nodes of one export.
#[derive(Debug)]
pub struct InodeTable {
    nodes: HashMap<u64, Inode>,
    by_key: HashMap<Key, u64>,
    by_place: HashMap<Place, u64>,
    /// Never given twice: a number that the guest makes up, or keeps too long, means nothing.
    next: u64,
    changes: Vec<Change>,
}

impl InodeTable {
    /// A table with nothing but the root.
    #[must_use]
    pub fn new(root: Key) -> InodeTable {
        let node = Inode { key: root, names: Vec::new(), parents: Vec::new(), held: 1 };
        InodeTable {
            nodes: HashMap::from([(ROOT, node)]),
            by_key: HashMap::from([(root, ROOT)]),
            by_place: HashMap::new(),
            next: ROOT + 1,
            changes: Vec::new(),
        }
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The changes that make this table out of one with nothing but the root.
    #[must_use]
    pub fn all(&self) -> Vec<Change> {
        let known = self.nodes.iter().filter(|(id, _)| **id != ROOT);
        let known = known.map(|(id, node)| Change::Known(*id, node.key));
        let named = self
            .by_place
            .iter()
            .map(|(place, id)| Change::Named(*id, place.parent, place.name.as_bytes().to_vec()));
        known.chain(named).collect()
    }

    /// Makes a change that was written down. What makes no sense changes nothing.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Known(id, key) => {
                let new = id > ROOT && id < u64::MAX && !self.by_key.contains_key(&key);
                if new && !self.nodes.contains_key(&id) && self.nodes.len() < MOST_NODES {
                    self.insert(id, key);
                    self.next = self.next.max(id + 1);
                }
            }
            Change::Named(id, parent, name) => {
                let place = Place { parent, name: OsString::from_vec(name) };
                if self.nodes.contains_key(&id) && !self.by_place.contains_key(&place) {
                    self.name(id, place);
                }
            }
            Change::Unnamed(parent, name) => drop(self.gone(parent, OsStr::from_bytes(&name))),
            Change::Forgotten(id) => drop(self.forget(id, u64::MAX)),
        }
        self.changes.clear();
    }

    fn insert(&mut self, id: u64, key: Key) {
        // Whoever is told of it holds it once; after a change of servers it counts as held until it is forgotten.
        self.nodes.insert(id, Inode { key, names: Vec::new(), parents: Vec::new(), held: 0 });
        self.by_key.insert(key, id);
        self.changes.push(Change::Known(id, key));
    }

    /// What the node is on the host; `None` for a number that means nothing.
    #[must_use]
    pub fn key(&self, id: u64) -> Option<Key> {
        self.nodes.get(&id).map(|node| node.key)
    }

    /// Where it may be found, the likeliest first. None for the root, and for one that has no name any more.
    #[must_use]
    pub fn places(&self, id: u64) -> Vec<Place> {
        let Some(node) = self.nodes.get(&id) else { return Vec::new() };
        let pairs = node.parents.iter().zip(&node.names).rev();
        pairs.map(|(parent, name)| Place { parent: *parent, name: name.clone() }).collect()
    }

    /// The node at a place, if the kernel holds it.
    #[must_use]
    pub fn at(&self, parent: u64, name: &OsStr) -> Option<u64> {
        self.by_place.get(&Place { parent, name: name.to_owned() }).copied()
    }

    /// Whether `id` is `ancestor` or somewhere below it.
    #[must_use]
    pub fn is_within(&self, id: u64, ancestor: u64) -> bool {
        let mut current = id;
        for _ in 0..MOST_DEPTH {
            if current == ancestor {
                return true;
            }
            match self.nodes.get(&current).and_then(|node| node.parents.last()) {
                Some(parent) => current = *parent,
                None => return false,
            }
        }
        false
    }

    /// Where a directory is, from the root, by its likeliest names; `None` for what has none, or one that is too long.
    #[must_use]
    pub fn path(&self, id: u64) -> Option<Vec<u8>> {
        let mut names: Vec<&[u8]> = Vec::new();
        let (mut current, mut len) = (id, 0);
        while current != ROOT {
            let node = self.nodes.get(&current)?;
            let (parent, name) = (node.parents.last()?, node.names.last()?);
            names.push(name.as_bytes());
            len += name.len() + 1;
            if len > MOST_PATH {
                return None;
            }
            current = *parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Numbers of all nodes, those that others are in first.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        let parents: HashSet<u64> = self.by_place.keys().map(|place| place.parent).collect();
        let rest = self.nodes.keys().filter(|id| !parents.contains(id));
        parents.iter().filter(|id| self.nodes.contains_key(id)).chain(rest).copied().collect()
    }

    /// The kernel is about to be told of what stands at a place, and will hold it once more.
    ///
    /// # Errors
    /// [`TableFull`].
    pub fn found(&mut self, parent: u64, name: &OsStr, key: Key) -> Result<u64, TableFull> {
        let place = Place { parent, name: name.to_owned() };
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None if self.nodes.len() >= MOST_NODES => return Err(TableFull),
            None => {
                let id = self.next;
                self.next += 1;
                self.insert(id, key);
                id
            }
        };
        if self.by_place.get(&place) != Some(&id) {
            // Somebody on the host has put another file there.
            self.gone(parent, name);
            self.name(id, place);
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.held = node.held.saturating_add(1);
        }
        Ok(id)
    }

    fn name(&mut self, id: u64, place: Place) {
        let Some(node) = self.nodes.get_mut(&id).filter(|_| id != ROOT) else { return };
        if node.names.len() >= MOST_NAMES {
            let oldest = Place { parent: node.parents.remove(0), name: node.names.remove(0) };
            self.by_place.remove(&oldest);
            self.changes.push(Change::Unnamed(oldest.parent, oldest.name.into_vec()));
        }
        self.changes.push(Change::Named(id, place.parent, place.name.as_bytes().to_vec()));
        node.names.push(place.name.clone());
        node.parents.push(place.parent);
        self.by_place.insert(place, id);
    }

    /// Nothing stands at this place any more. Returns the node that did, if it was held.
    pub fn gone(&mut self, parent: u64, name: &OsStr) -> Option<u64> {
        let place = Place { parent, name: name.to_owned() };
        let id = self.by_place.remove(&place)?;
        self.changes.push(Change::Unnamed(parent, name.as_bytes().to_vec()));
        if let Some(node) = self.nodes.get_mut(&id) {
            let found = node
                .parents
                .iter()
                .zip(&node.names)
                .position(|(parent, name)| *parent == place.parent && *name == place.name);
            if let Some(at) = found {
                node.parents.remove(at);
                node.names.remove(at);
            }
        }
        Some(id)
    }

    /// What stood at one place stands at another now, in place of what stood there.
    pub fn moved(&mut self, from: Place, to: Place) {
        let moving = self.gone(from.parent, &from.name);
        self.gone(to.parent, &to.name);
        if let Some(id) = moving {
            self.name(id, to);
        }
    }

    /// Two places have changed their contents.
    pub fn exchanged(&mut self, one: Place, other: Place) {
        let first = self.gone(one.parent, &one.name);
        let second = self.gone(other.parent, &other.name);
        for (id, place) in [(first, other), (second, one)] {
            if let Some(id) = id {
                self.name(id, place);
            }
        }
    }

    /// The kernel holds a node so many times less. Returns whether it is forgotten altogether.
    pub fn forget(&mut self, id: u64, times: u64) -> bool {
        let Some(node) = self.nodes.get_mut(&id).filter(|_| id != ROOT) else { return false };
        node.held = node.held.saturating_sub(times);
        if node.held > 0 {
            return false;
        }
        for place in self.places(id) {
            self.by_place.remove(&place);
            self.changes.push(Change::Unnamed(place.parent, place.name.into_vec()));
        }
        self.changes.push(Change::Forgotten(id));
        if let Some(node) = self.nodes.remove(&id) {
            self.by_key.remove(&node.key);
        }
        true
    }

    /// How many there are, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: the root is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(inode: u64) -> Key {
        Key { device: 1, inode, born: 0 }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Found(u64, u8, u64),
        Gone(u64, u8),
        Moved(u64, u8, u64, u8),
        Exchanged(u64, u8, u64, u8),
        Forget(u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (parent, name) = (1u64..5, 0u8..4);
        prop::collection::vec(
            prop_oneof![
                (parent.clone(), name.clone(), 1u64..6).prop_map(|(p, n, i)| Step::Found(p, n, i)),
                (parent.clone(), name.clone()).prop_map(|(p, n)| Step::Gone(p, n)),
                (parent.clone(), name.clone(), parent.clone(), name.clone())
                    .prop_map(|(a, b, c, d)| Step::Moved(a, b, c, d)),
                (parent.clone(), name.clone(), parent.clone(), name)
                    .prop_map(|(a, b, c, d)| Step::Exchanged(a, b, c, d)),
                (parent, 0u64..4).prop_map(|(id, times)| Step::Forget(id, times)),
            ],
            0..60,
        )
    }

    proptest! {
        #[test]
        fn each_place_names_one_node_and_each_name_is_known_by_its_place(steps in steps()) {
            let mut nodes = InodeTable::new(key(0));
            let text = |name: u8| OsString::from(name.to_string());
            for step in steps {
                match step {
                    Step::Found(parent, name, inode) => drop(nodes.found(parent, &text(name), key(inode))),
                    Step::Gone(parent, name) => drop(nodes.gone(parent, &text(name))),
                    Step::Moved(a, b, c, d) => nodes.moved(
                        Place { parent: a, name: text(b) },
                        Place { parent: c, name: text(d) },
                    ),
                    Step::Exchanged(a, b, c, d) => nodes.exchanged(
                        Place { parent: a, name: text(b) },
                        Place { parent: c, name: text(d) },
                    ),
                    Step::Forget(id, times) => drop(nodes.forget(id, times)),
                }
                let named: usize = nodes.nodes.keys().map(|id| nodes.places(*id).len()).sum();
                prop_assert_eq!(named, nodes.by_place.len());
                for (place, id) in &nodes.by_place {
                    prop_assert!(nodes.places(*id).contains(place));
                }
                prop_assert_eq!(nodes.by_key.len(), nodes.nodes.len());
                prop_assert!(nodes.key(ROOT).is_some());
            }
        }
    }

    #[test]
    fn a_number_is_never_given_twice() {
        let mut nodes = InodeTable::new(key(0));
        let first = nodes.found(ROOT, OsStr::new("a"), key(1)).unwrap();
        assert!(nodes.forget(first, 1));
        assert_ne!(nodes.found(ROOT, OsStr::new("a"), key(1)).unwrap(), first);
    }

    #[test]
    fn a_file_with_two_names_is_one_node_and_keeps_the_other_name() {
        let mut nodes = InodeTable::new(key(0));
        let one = nodes.found(ROOT, OsStr::new("a"), key(1)).unwrap();
        assert_eq!(nodes.found(ROOT, OsStr::new("b"), key(1)), Ok(one));
        assert_eq!(nodes.gone(ROOT, OsStr::new("a")), Some(one));
        assert_eq!(nodes.places(one), [Place { parent: ROOT, name: "b".into() }]);
        assert!(!nodes.forget(one, 1));
        assert!(nodes.forget(one, 1));
    }

    #[test]
    fn a_path_is_that_of_the_names_learnt_last_and_ends_also_in_a_circle() {
        let mut nodes = InodeTable::new(key(0));
        let a = nodes.found(ROOT, OsStr::new("a"), key(1)).unwrap();
        let b = nodes.found(a, OsStr::new("b"), key(2)).unwrap();
        assert_eq!(nodes.path(ROOT), Some(Vec::new()));
        assert_eq!(nodes.path(b), Some(b"a/b".to_vec()));
        nodes.moved(Place { parent: a, name: "b".into() }, Place { parent: ROOT, name: "c".into() });
        assert_eq!((nodes.path(b), nodes.path(99)), (Some(b"c".to_vec()), None));
        nodes.moved(Place { parent: ROOT, name: "a".into() }, Place { parent: a, name: "self".into() });
        assert_eq!(nodes.path(a), None);
        nodes.gone(ROOT, OsStr::new("c"));
        assert_eq!(nodes.path(b), None);
    }

    #[test]
    fn another_file_of_the_same_name_is_another_node() {
        let mut nodes = InodeTable::new(key(0));
        let old = nodes.found(ROOT, OsStr::new("a"), key(1)).unwrap();
        let new = nodes.found(ROOT, OsStr::new("a"), Key { born: 7, ..key(1) }).unwrap();
        assert_ne!(old, new);
        assert!(nodes.places(old).is_empty());
        assert_eq!(nodes.at(ROOT, OsStr::new("a")), Some(new));
    }
}
