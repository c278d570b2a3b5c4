//! Single-flight work: done once however many ask for it at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Work under way, by what it is for. Whoever asks watches its state `T`; it goes on if they go away.
#[derive(Debug)]
pub(crate) struct SingleFlight<K, T> {
    under_way: Arc<Mutex<HashMap<K, watch::Receiver<T>>>>,
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        SingleFlight { under_way: Arc::default() }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, T: Send + Sync + 'static> SingleFlight<K, T> {
    /// Joins the work for `key`, or begins it, in a task of `tasks`.
    pub(crate) fn join<W>(
        &self,
        tasks: &TaskTracker,
        key: K,
        first: T,
        work: impl FnOnce(Arc<watch::Sender<T>>) -> W,
    ) -> watch::Receiver<T>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(joined) = under_way.get(&key) {
            return joined.clone();
        }
        let (sender, receiver) = watch::channel(first);
        under_way.insert(key.clone(), receiver.clone());
        let work = work(Arc::new(sender));
        let end = End { key, under_way: Arc::clone(&self.under_way) };
        // The last state stays with those who watch; whoever comes later begins anew.
        tasks.spawn(async move {
            let _end = end;
            work.await;
        });
        receiver
    }
}

/// Takes the work off the list, also if it panics.
struct End<K: Eq + Hash, T> {
    key: K,
    under_way: Arc<Mutex<HashMap<K, watch::Receiver<T>>>>,
}

impl<K: Eq + Hash, T> Drop for End<K, T> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
