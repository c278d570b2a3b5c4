//! Ids of machines and instances that are being made: their files belong to nobody yet, and are no strays.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The ids that are reserved at this moment. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct IdReservations(Arc<Mutex<HashSet<String>>>);

impl IdReservations {
    /// Reserves an id until what is returned is dropped.
    #[must_use]
    pub fn reserve(&self, id: &str) -> IdReservation {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        IdReservation { all: self.clone(), id: id.to_owned() }
    }

    /// All that are reserved now.
    #[must_use]
    pub fn all(&self) -> HashSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An id that is reserved.
#[derive(Debug)]
pub struct IdReservation {
    all: IdReservations,
    id: String,
}

impl Drop for IdReservation {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
