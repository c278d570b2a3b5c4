//! Notifications that wait to be sent to the guest, in order. No I/O.
//!
//! It is bounded, and what is told twice before it is sent is told once: a file that is written a thousand times is one
//! change. What there is no room for is not told, and seen when the guest's kernel asks again.

use std::collections::{HashMap, VecDeque};

use aegis_guest_protocol::changes::{Change, Spot};

/// Most changes that wait.
pub const MOST_WAITING: usize = 16_384;

/// Changes with the number of the export that each is in.
#[derive(Debug, Default)]
pub struct NotificationQueue {
    waiting: VecDeque<(u32, Change)>,
    /// How many have left it.
    left: u64,
    /// Where the last change of a name is, if that can take in another one: counted from the beginning of time.
    touched: HashMap<(u32, u64, Vec<u8>), u64>,
    /// How many there was no room for.
    lost: u64,
}

fn key(export: u32, at: &Spot) -> (u32, u64, Vec<u8>) {
    (export, at.directory, at.name.clone())
}

impl NotificationQueue {
    /// Appends a change.
    pub fn push(&mut self, export: u32, change: Change) {
        if let Change::Touched { at, how, node } = &change
            && let Some(number) = self.touched.get(&key(export, at))
            && let Some(index) = number.checked_sub(self.left).and_then(|index| usize::try_from(index).ok())
            && let Some((_, Change::Touched { how: before, node: known, .. })) = self.waiting.get_mut(index)
        {
            *before = before.and(*how);
            *known = *node;
            return;
        }
        if self.waiting.len() >= MOST_WAITING {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        let number = self.left + self.waiting.len() as u64;
        match &change {
            Change::Touched { at, .. } => drop(self.touched.insert(key(export, at), number)),
            Change::Made { at, .. } | Change::Gone { at, .. } => drop(self.touched.remove(&key(export, at))),
            Change::Moved { from, to, .. } => {
                self.touched.remove(&key(export, from));
                self.touched.remove(&key(export, to));
            }
        }
        self.waiting.push_back((export, change));
    }

    /// Takes the first one out.
    pub fn pop(&mut self) -> Option<(u32, Change)> {
        let (export, change) = self.waiting.pop_front()?;
        if let Change::Touched { at, .. } = &change {
            let key = key(export, at);
            if self.touched.get(&key) == Some(&self.left) {
                self.touched.remove(&key);
            }
        }
        self.left += 1;
        Some((export, change))
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many there was no room for, since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aegis_guest_protocol::changes::{Touch, Type};
    use proptest::prelude::*;

    fn spot(name: u8) -> Spot {
        Spot { directory: 1, path: Vec::new(), name: vec![b'a' + name] }
    }

    fn change(kind: u8, name: u8) -> Change {
        let how = |kind| Touch { attributes: kind == 0, contents: kind == 1, closed: kind == 2 };
        match kind {
            0..3 => Change::Touched { at: spot(name), node: 5, how: how(kind) },
            3 => Change::Made { at: spot(name), what: Type::File },
            4 => Change::Gone { at: spot(name), node: 5, directory: false },
            _ => Change::Moved { from: spot(name), to: spot(name ^ 1), replaced: 0, directory: false },
        }
    }

    /// What a name goes through: each way in which it is touched once, until something else becomes of it.
    fn story(changes: &[Change], name: u8) -> Vec<(u8, Touch)> {
        let mut story: Vec<(u8, Touch)> = Vec::new();
        for change in changes {
            let (kind, how) = match change {
                Change::Touched { at, how, .. } if *at == spot(name) => (0, *how),
                Change::Made { at, .. } if *at == spot(name) => (3, Touch::default()),
                Change::Gone { at, .. } if *at == spot(name) => (4, Touch::default()),
                Change::Moved { from, .. } if *from == spot(name) => (5, Touch::default()),
                Change::Moved { to, .. } if *to == spot(name) => (6, Touch::default()),
                _ => continue,
            };
            match story.last_mut() {
                Some((0, before)) if kind == 0 => *before = before.and(how),
                _ => story.push((kind, how)),
            }
        }
        story
    }

    proptest! {
        #[test]
        fn each_name_goes_through_what_it_went_through(
            steps in prop::collection::vec((0u8..6, 0u8..4, prop::bool::ANY), 0..80),
        ) {
            let (mut queue, mut told, mut all) = (NotificationQueue::default(), Vec::new(), Vec::new());
            for (kind, name, take) in steps {
                all.push(change(kind, name));
                queue.push(0, change(kind, name));
                if take {
                    told.extend(queue.pop().map(|(_, change)| change));
                }
            }
            told.extend(std::iter::from_fn(|| queue.pop()).map(|(_, change)| change));
            prop_assert!(queue.touched.is_empty() && told.len() <= all.len());
            for name in 0..4 {
                prop_assert_eq!(story(&told, name), story(&all, name));
            }
        }
    }

    #[test]
    fn a_file_that_is_written_again_and_again_is_one_change_and_the_rest_is_bounded() {
        let mut queue = NotificationQueue::default();
        for _ in 0..5000 {
            queue.push(0, change(1, 0));
            queue.push(0, change(2, 0));
        }
        let how = Touch { contents: true, closed: true, attributes: false };
        assert_eq!(queue.pop(), Some((0, Change::Touched { at: spot(0), node: 5, how })));
        assert!(queue.is_empty());
        for number in 0..MOST_WAITING + 10 {
            let at = Spot { name: number.to_string().into_bytes(), ..spot(0) };
            queue.push(0, Change::Made { at, what: Type::File });
        }
        assert_eq!((queue.waiting.len(), queue.take_lost(), queue.take_lost()), (MOST_WAITING, 10, 0));
    }
}
