//! Who uses an instance at this moment, counted where they come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use aegis_lifecycle::idle_policy::{Counts, User};
use aegis_machines::clock::now_ms;
use tokio::sync::watch;

/// Most connections of one instance at a time: each takes a stream in its guest.
pub const MOST_CONNECTIONS: u32 = 4000;

/// How long connections have to be silent before what comes is an answer to nothing that was on its way.
const QUIET: Duration = Duration::from_millis(50);
/// How long that is waited for.
const LONGEST_SETTLING: Duration = Duration::from_millis(500);

/// The use of one instance.
#[derive(Debug, Default)]
pub struct Usage {
    counts: watch::Sender<Counts>,
    last_byte_ms: AtomicI64,
    to_guest: AtomicU64,
    from_guest: AtomicU64,
    awake: AtomicBool,
}

impl Usage {
    /// Whether it runs at this moment, and nothing is under way that would change that.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.awake.load(Ordering::SeqCst)
    }

    /// Notes it, before anything is done to the machine.
    pub(crate) fn set_awake(&self, awake: bool) {
        self.awake.store(awake, Ordering::SeqCst);
    }

    /// Counts somebody in, until what is returned is dropped; `None` if there are too many.
    #[must_use]
    pub fn enter(self: &Arc<Self>, user: User) -> Option<UsageGuard> {
        let mut entered = false;
        self.counts.send_if_modified(|counts| {
            let first = counts.is_zero();
            let count = counts.of(user);
            entered = *count < MOST_CONNECTIONS;
            *count += u32::from(entered);
            // Only the first and the last change what may be done with the instance.
            first && entered
        });
        self.last_byte_ms.store(now_ms(), Ordering::Relaxed);
        entered.then(|| UsageGuard { usage: Arc::clone(self), user })
    }

    /// Who uses it now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Tells when the first has come or the last has gone.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    /// When a connection last carried a byte, or began; milliseconds since 1970.
    #[must_use]
    pub fn last_byte_ms(&self) -> i64 {
        self.last_byte_ms.load(Ordering::Relaxed)
    }

    /// Bytes that connections have carried since the daemon started: to the guest, and from it.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.to_guest.load(Ordering::Relaxed), self.from_guest.load(Ordering::Relaxed))
    }

    /// Returns when what was on its way on connections is over: nothing has come for a moment, or so much that it is of no
    /// use to wait. Only then what comes is something new.
    pub(crate) async fn quiet(&self) {
        let until = tokio::time::Instant::now() + LONGEST_SETTLING;
        while self.counts().connections > 0 && tokio::time::Instant::now() < until {
            let silent_ms = u64::try_from(now_ms().saturating_sub(self.last_byte_ms())).unwrap_or(0);
            let Some(left) =
                QUIET.checked_sub(Duration::from_millis(silent_ms)).filter(|left| !left.is_zero())
            else {
                return;
            };
            // That nothing comes no event tells.
            tokio::time::sleep(left).await;
        }
    }

    fn leave(&self, user: User) {
        self.counts.send_if_modified(|counts| {
            let count = counts.of(user);
            *count = count.saturating_sub(1);
            counts.is_zero()
        });
    }
}

/// Somebody who uses an instance; ends when dropped.
#[derive(Debug)]
pub struct UsageGuard {
    usage: Arc<Usage>,
    user: User,
}

impl UsageGuard {
    /// Notes bytes that were carried.
    pub fn carried(&self, to_guest: u64, from_guest: u64) {
        self.usage.to_guest.fetch_add(to_guest, Ordering::Relaxed);
        self.usage.from_guest.fetch_add(from_guest, Ordering::Relaxed);
        self.usage.last_byte_ms.store(now_ms(), Ordering::Relaxed);
    }
}

impl Drop for UsageGuard {
    fn drop(&mut self) {
        self.usage.leave(self.user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_and_the_last_are_told() {
        let usage = Arc::new(Usage::default());
        let mut told = usage.subscribe();
        let first = usage.enter(User::Connection).unwrap();
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        drop(usage.enter(User::Exec));
        assert!(!told.has_changed().unwrap());
        assert_eq!(usage.counts().connections, 1);
        drop(first);
        assert!(told.has_changed().unwrap() && usage.counts().is_zero());
    }

    #[test]
    fn there_can_be_too_many() {
        let usage = Arc::new(Usage::default());
        let all: Vec<_> = (0..MOST_CONNECTIONS).map(|_| usage.enter(User::Connection).unwrap()).collect();
        assert!(usage.enter(User::Connection).is_none());
        assert!(usage.enter(User::Exec).is_some());
        drop(all);
        assert!(usage.enter(User::Connection).is_some());
    }
}
