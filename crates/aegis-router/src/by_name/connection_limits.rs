//! Limits on connections: idle connections give way to new ones, and no client has all of them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most connections at a time.
const MOST: usize = 4096;
/// Most of them that have not sent a whole head yet: the others are for whoever has.
const MOST_FRESH: usize = 1024;
/// Most of one client on another machine. Those on this one cannot be told apart by address.
const MOST_OF_ONE: usize = 1024;
/// How long a client may take for its first head.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection without a request is kept afterwards.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A request on whose connection nothing has moved for this long gives way if all places are taken by requests.
const STALLED: Duration = Duration::from_secs(120);
/// How often it is looked for one meanwhile.
const LOOK: Duration = Duration::from_secs(5);

/// A client as far as it can be told from others: a host, or a network of IPv6.
type Client = Option<IpAddr>;

fn client_of(address: IpAddr) -> Client {
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V6(address) => Some(IpAddr::V6((address.to_bits() >> 64 << 64).into())),
        address => Some(address),
    }
}

#[derive(Debug)]
struct Held {
    client: Client,
    requests: usize,
    /// Whether it ever sent a whole head.
    used: bool,
    since: Instant,
    /// Its number among those that wait, if it has no request.
    turn: Option<u64>,
    evicted: CancellationToken,
    /// When bytes last came or went.
    moved: LastActivity,
}

/// When bytes last came or went on a connection. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct LastActivity {
    since: Instant,
    after_ms: Arc<AtomicU64>,
}

impl LastActivity {
    fn now() -> LastActivity {
        LastActivity { since: Instant::now(), after_ms: Arc::default() }
    }

    /// Notes that bytes move.
    pub(super) fn note(&self) {
        let after = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after_ms.store(after, Ordering::Relaxed);
    }

    fn ago(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.after_ms.load(Ordering::Relaxed)))
    }
}

impl Held {
    /// How long it may go on, having waited that long for a request; as long as any while it has one.
    fn left(&self, waited: Duration) -> Duration {
        match self.requests {
            0 if self.used => IDLE_TIMEOUT.saturating_sub(waited),
            0 => HEAD_TIMEOUT.saturating_sub(waited),
            _ => IDLE_TIMEOUT,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    all: HashMap<u64, Held>,
    /// Without a head so far, and between requests; the longest waiting first.
    fresh: BTreeMap<u64, u64>,
    idle: BTreeMap<u64, u64>,
    clients: HashMap<IpAddr, usize>,
}

impl Inner {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn remove(&mut self, id: u64) -> Option<Held> {
        let held = self.all.remove(&id)?;
        if let Some(turn) = held.turn {
            let queue = if held.used { &mut self.idle } else { &mut self.fresh };
            queue.remove(&turn);
        }
        if let Some(client) = held.client
            && let Some(count) = self.clients.get_mut(&client)
        {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
            }
        }
        Some(held)
    }

    fn evict(&mut self, id: Option<u64>) -> bool {
        let evicted = id.and_then(|id| self.remove(id));
        evicted.inspect(|held| held.evicted.cancel()).is_some()
    }

    fn longest_fresh(&self) -> Option<u64> {
        self.fresh.values().next().copied()
    }

    fn longest_waiting(&self) -> Option<u64> {
        self.idle.values().next().copied().or_else(|| self.longest_fresh())
    }

    fn longest_of(&self, client: IpAddr) -> Option<u64> {
        let theirs = |id: &&u64| self.all.get(id).is_some_and(|held| held.client == Some(client));
        let waiting = self.fresh.values().chain(self.idle.values()).find(theirs).copied();
        waiting.or_else(|| self.longest_stalled(|held| held.client == Some(client)))
    }

    /// The request that has stalled for longest, among some.
    fn longest_stalled(&self, among: impl Fn(&Held) -> bool) -> Option<u64> {
        let stalled = self.all.iter().filter(|(_, held)| among(held) && held.moved.ago() >= STALLED);
        stalled.max_by_key(|(_, held)| held.moved.ago()).map(|(id, _)| *id)
    }

    /// Who gives way next, if there is somebody who does.
    fn next_to_go(&self) -> Option<u64> {
        self.longest_waiting().or_else(|| self.longest_stalled(|_| true))
    }

    /// Makes room for one more of this client, if that can be had.
    fn make_room(&mut self, client: Client) -> bool {
        if let Some(client) = client
            && self.clients.get(&client).is_some_and(|count| *count >= MOST_OF_ONE)
            && !self.evict(self.longest_of(client))
        {
            return false;
        }
        if self.fresh.len() >= MOST_FRESH {
            self.evict(self.longest_fresh());
        }
        self.all.len() < MOST || self.evict(self.next_to_go())
    }
}

/// The places. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionLimits {
    inner: Arc<Mutex<Inner>>,
    freed: Arc<Notify>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    places: ConnectionLimits,
    id: u64,
    evicted: CancellationToken,
    moved: LastActivity,
}

/// A request under way on a connection.
#[derive(Debug)]
pub(super) struct RequestGuard(Arc<ConnectionPermit>);

impl ConnectionLimits {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a connection can be taken. There is one who waits.
    pub(super) async fn room(&self) {
        loop {
            {
                let inner = self.lock();
                if inner.all.len() < MOST || inner.next_to_go().is_some() {
                    return;
                }
            }
            tokio::select! {
                () = self.freed.notified() => {}
                // Nothing tells that a request stalls.
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// A place for a client; none if it has too many.
    pub(super) fn take(&self, address: IpAddr) -> Option<ConnectionPermit> {
        let client = client_of(address);
        let mut inner = self.lock();
        if !inner.make_room(client) {
            return None;
        }
        let (id, turn) = (inner.number(), inner.number());
        let (evicted, moved) = (CancellationToken::new(), LastActivity::now());
        let held = Held {
            client,
            requests: 0,
            used: false,
            since: Instant::now(),
            turn: Some(turn),
            evicted: evicted.clone(),
            moved: moved.clone(),
        };
        inner.all.insert(id, held);
        inner.fresh.insert(turn, id);
        if let Some(client) = client {
            *inner.clients.entry(client).or_default() += 1;
        }
        Some(ConnectionPermit { places: self.clone(), id, evicted, moved })
    }
}

impl ConnectionPermit {
    /// To be told of what moves on its connection.
    pub(super) fn moved(&self) -> LastActivity {
        self.moved.clone()
    }

    /// Returns when somebody else got the place.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Returns when the connection has had no request for too long.
    pub(super) async fn lapsed(&self) {
        loop {
            let left = match self.places.lock().all.get(&self.id) {
                Some(held) => held.left(held.since.elapsed()),
                None => IDLE_TIMEOUT,
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Notes a request, until that is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> RequestGuard {
        let mut inner = self.places.lock();
        if let Some(held) = inner.all.get_mut(&self.id) {
            held.requests += 1;
            let (turn, used) = (held.turn.take(), held.used);
            held.used = true;
            if let Some(turn) = turn {
                if used {
                    inner.idle.remove(&turn)
                } else {
                    inner.fresh.remove(&turn)
                };
            }
        }
        RequestGuard(Arc::clone(self))
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let places = &self.0.places;
        let mut inner = places.lock();
        let turn = inner.number();
        let Some(held) = inner.all.get_mut(&self.0.id) else { return };
        held.requests -= 1;
        if held.requests == 0 {
            held.since = Instant::now();
            held.turn = Some(turn);
            inner.idle.insert(turn, self.0.id);
            places.freed.notify_one();
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.places.lock().remove(self.id);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn whoever_sends_nothing_gives_way_to_whoever_comes() {
        let places = ConnectionLimits::default();
        let used = Arc::new(places.take(HERE).unwrap());
        drop(used.busy());
        let silent: Vec<ConnectionPermit> = (0..MOST).map(|_| places.take(HERE).unwrap()).collect();
        assert_eq!(silent.iter().filter(|place| !place.evicted.is_cancelled()).count(), MOST_FRESH);
        assert!(silent[0].evicted.is_cancelled() && !silent[MOST - 1].evicted.is_cancelled());
        assert!(!used.evicted.is_cancelled(), "it was used");
        drop(silent);
        assert_eq!(places.lock().all.len(), 1);
    }

    #[test]
    fn requests_never_give_way_and_idle_connections_do() {
        let places = ConnectionLimits::default();
        let all: Vec<Arc<ConnectionPermit>> =
            (0..MOST).map(|_| Arc::new(places.take(HERE).unwrap())).collect::<Vec<_>>();
        drop(all);
        let mut kept = Vec::new();
        for _ in 0..MOST {
            let place = Arc::new(places.take(HERE).unwrap());
            kept.push((place.busy(), place));
        }
        assert!(places.take(HERE).is_none(), "all are busy");
        let (busy, place) = kept.pop().unwrap();
        drop(busy);
        assert!(places.take(HERE).is_some());
        assert!(place.evicted.is_cancelled());
        assert!(kept.iter().all(|(_, place)| !place.evicted.is_cancelled()));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_stall_give_way_when_there_is_nothing_else() {
        let places = ConnectionLimits::default();
        let mut kept = Vec::new();
        for _ in 0..MOST {
            let place = Arc::new(places.take(HERE).unwrap());
            kept.push((place.busy(), place));
        }
        let waits = tokio::time::timeout(STALLED / 2, places.room()).await;
        assert!(waits.is_err() && places.take(HERE).is_none(), "all are busy");
        kept.iter().filter(|(_, place)| place.id % 2 == 0).for_each(|(_, place)| place.moved.note());
        tokio::time::timeout(STALLED, places.room()).await.unwrap();
        let taken = places.take(HERE).unwrap();
        let gone: Vec<u64> = kept
            .iter()
            .filter(|(_, place)| place.evicted.is_cancelled())
            .map(|(_, place)| place.id)
            .collect();
        assert!(gone.len() == 1 && gone[0] % 2 == 1, "{gone:?}: one on which nothing moved");
        drop(taken);
    }

    #[test]
    fn one_client_of_another_machine_has_a_share() {
        let places = ConnectionLimits::default();
        let network: IpAddr = "2001:db8::1".parse().unwrap();
        let mut kept = Vec::new();
        for n in 0..MOST_OF_ONE {
            let address: IpAddr = format!("2001:db8::{n:x}").parse().unwrap();
            let place = Arc::new(places.take(address).unwrap());
            kept.push((place.busy(), place));
        }
        assert!(places.take(network).is_none());
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_some());
        assert!(places.take("10.0.0.1".parse().unwrap()).is_some());
        drop(kept);
        assert!(places.take(network).is_some());
        assert!(places.lock().clients.is_empty());
    }

    #[test]
    fn a_connection_lapses_that_asks_for_nothing() {
        let places = ConnectionLimits::default();
        let place = Arc::new(places.take(HERE).unwrap());
        let left = |waited: u64| places.lock().all[&place.id].left(Duration::from_secs(waited)).as_secs();
        assert_eq!((left(0), left(4), left(10), left(11)), (10, 6, 0, 0));
        let busy = place.busy();
        assert_eq!(left(600), 60, "it is in use");
        drop(busy);
        assert_eq!((left(0), left(59), left(60)), (60, 1, 0));
    }
}
