//! The DNS resolver: forwards the guest's queries to the host's own name servers.

pub(crate) mod message;
mod upstream;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use aegis_policy::{Name, Reason, Verdict};
use lru::LruCache;
use message::{Answer, Query, Unanswerable, read_answer};
use mio::{Registry, Token};
use simple_dns::RCODE;
use slab::Slab;
use upstream::Upstream;

use crate::addressing::{GATEWAY_V4, GATEWAY_V6};
use crate::groups::Groups;
use crate::policy_engine::PolicyEngine;
use crate::token_bucket::TokenBucket;

/// Most answers that are kept.
const MOST_KEPT: usize = 1024;
/// Longest that an answer is kept: its records are handed out as they came.
const LONGEST_KEPT: Duration = Duration::from_secs(60);
/// Longest answer that is kept.
const LONGEST_ANSWER: usize = 4096;
/// Most questions that wait for answers.
const MOST_WAITING: usize = 256;
/// How long a name server may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each is asked.
const ROUNDS: usize = 2;
/// How long the address of a group's member holds: members come and go.
const MEMBER_HOLDS: Duration = Duration::from_secs(5);
/// The host, as the instance sees it.
const HOST: &str = "host.aegis";
/// Names below this one are ours alone.
const OURS: &str = "aegis";

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuerySource {
    /// A datagram of the guest, from and to.
    Datagram { guest: SocketAddr, gateway: SocketAddr },
    /// A connection of the guest.
    Connection(usize),
    /// A connection of the guest that wants a tunnel.
    ConnectRequest(usize),
}

/// An answer for somebody.
#[derive(Debug)]
pub(crate) struct ResolverResponse {
    pub(crate) to: QuerySource,
    pub(crate) message: Vec<u8>,
}

/// A question that was decided, for the decision log.
#[derive(Debug)]
pub(crate) struct QueryDecision {
    pub(crate) name: Option<Name>,
    pub(crate) verdict: Verdict,
}

#[derive(Debug)]
struct Waiting {
    source: QuerySource,
    query: Query,
    id: u16,
    tries: usize,
    upstream: Upstream,
    deadline: Instant,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Resolver {
    servers: Vec<SocketAddr>,
    waiting: Slab<Waiting>,
    kept: LruCache<(String, u16, bool), (Instant, Vec<u8>)>,
    bucket: TokenBucket,
    ids: RandomState,
    count: u64,
    /// Names that the host does not find get an address of ours: its proxy may find them.
    inventing: bool,
}

impl Resolver {
    pub(crate) fn new(now: Instant) -> Resolver {
        Resolver {
            servers: Vec::new(),
            waiting: Slab::new(),
            kept: LruCache::new(NonZeroUsize::new(MOST_KEPT).unwrap_or(NonZeroUsize::MIN)),
            bucket: TokenBucket::new(None, 1, now),
            ids: RandomState::new(),
            count: 0,
            inventing: false,
        }
    }

    /// Takes other servers and another bound.
    pub(crate) fn set(&mut self, servers: Vec<SocketAddr>, per_second: u32, now: Instant) {
        if self.servers != servers {
            self.kept.clear();
        }
        self.servers = servers;
        self.bucket = TokenBucket::new(Some(per_second.into()), per_second.into(), now);
    }

    /// Whether names that are not found get addresses that stand for them.
    pub(crate) fn invents(&mut self, inventing: bool) {
        self.inventing = inventing;
    }

    /// What a name gets that the host has not found; `None` if it gets nothing.
    fn invention(&self, query: &Query, engine: &mut PolicyEngine, now: Instant) -> Option<Vec<u8>> {
        let name = query.name.as_ref().filter(|_| self.inventing && query.asks_for_addresses())?;
        let address = engine.invent(name, now)?;
        Some(query.addresses(&[address.into()], LONGEST_KEPT))
    }

    /// What is said where no server answers.
    fn unanswered(&self, query: &Query, engine: &mut PolicyEngine, now: Instant) -> Vec<u8> {
        self.invention(query, engine, now).unwrap_or_else(|| query.failed(RCODE::ServerFailure))
    }

    /// How many questions there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// When something has to be done next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(_, waiting)| waiting.deadline).min()
    }

    fn next_id(&mut self) -> u16 {
        let mut hasher = self.ids.build_hasher();
        hasher.write_u64(self.count);
        #[allow(clippy::cast_possible_truncation)] // Any bits of it are as good as others.
        let id = hasher.finish() as u16;
        id
    }

    /// Takes a question of the guest. Its answer is delivered now or later.
    pub(crate) fn ask(
        &mut self,
        source: QuerySource,
        bytes: &[u8],
        engine: &mut PolicyEngine,
        sockets: &Sockets<'_>,
        now: Instant,
    ) -> (Option<QueryDecision>, Option<ResolverResponse>) {
        let deliver = |message| Some(ResolverResponse { to: source, message });
        let query = match Query::read(bytes) {
            Ok(query) => query,
            Err(Unanswerable::Silence) => return (None, None),
            Err(Unanswerable::Code(code)) => return (None, deliver(message::refusal(bytes, code))),
        };
        self.count += 1;
        if let Some(answer) = own(&query, &engine.groups) {
            // What is ours is known to everybody, and no decision.
            return (None, deliver(answer));
        }
        let verdict = self.rule(&query, engine, now);
        let asked = Some(QueryDecision { name: query.name.clone(), verdict: verdict.clone() });
        if !verdict.allows() {
            return (asked, deliver(query.failed(RCODE::Refused)));
        }
        if engine.policy().judges_names() && query.asks_for_services() {
            return (asked, deliver(query.failed(RCODE::NoError)));
        }
        if let Some((until, answer)) = self.kept.get(&query.key)
            && *until > now
        {
            return (asked, deliver(fit(answer, source, &query, engine)));
        }
        (asked, self.forward(source, query, engine, sockets, now))
    }

    fn rule(&mut self, query: &Query, engine: &PolicyEngine, now: Instant) -> Verdict {
        if self.bucket.available(now) == 0 {
            return Verdict::deny(Reason::Limit("questions for names in a second".to_owned()));
        }
        self.bucket.take(1);
        if self.waiting.len() >= MOST_WAITING {
            return Verdict::deny(Reason::Limit("questions for names at a time".to_owned()));
        }
        match &query.name {
            Some(name) => engine.policy().resolves(name),
            None => Verdict::deny(Reason::Malformed("no name of a host".to_owned())),
        }
    }

    fn forward(
        &mut self,
        source: QuerySource,
        query: Query,
        engine: &mut PolicyEngine,
        sockets: &Sockets<'_>,
        now: Instant,
    ) -> Option<ResolverResponse> {
        let id = self.next_id();
        let token = (sockets.token)(self.waiting.vacant_key());
        let stream = matches!(source, QuerySource::Connection(_));
        let servers = self.servers.iter().enumerate();
        let question = query.outward(id);
        let opened = servers.zip(question.iter().cycle()).find_map(|((tries, server), question)| {
            let upstream = Upstream::open(*server, question, stream, sockets.registry, token).ok()?;
            Some((tries + 1, upstream))
        });
        let Some((tries, upstream)) = opened else {
            return Some(ResolverResponse { to: source, message: self.unanswered(&query, engine, now) });
        };
        self.waiting.insert(Waiting { source, query, id, tries, upstream, deadline: now + PATIENCE });
        None
    }

    /// A server's socket has something to say.
    pub(crate) fn ready(
        &mut self,
        key: usize,
        engine: &mut PolicyEngine,
        sockets: &Sockets<'_>,
        now: Instant,
    ) -> Option<ResolverResponse> {
        let waiting = self.waiting.get_mut(key)?;
        let (id, query) = (waiting.id, waiting.query.clone());
        let mut found = None;
        let result = waiting.upstream.receive(&mut |bytes| {
            // Anybody may send to our port; only an answer to the question counts.
            found = read_answer(bytes, id, &query).map(|answer| (answer, bytes.to_vec()));
            found.is_some()
        });
        match (result, found) {
            (_, Some((answer, bytes))) => {
                let busy = matches!(answer.code, RCODE::ServerFailure | RCODE::Refused);
                if busy && waiting.tries < self.servers.len() {
                    return self.again(key, engine, sockets, now);
                }
                let to = waiting.source;
                if answer.code != RCODE::NoError
                    && let Some(message) = self.invention(&query, engine, now)
                {
                    self.waiting.try_remove(key);
                    return Some(ResolverResponse { to, message });
                }
                self.answered(key, &answer, &bytes, engine, now)
            }
            (Ok(()), None) => None,
            (Err(_), None) => self.again(key, engine, sockets, now),
        }
    }

    fn answered(
        &mut self,
        key: usize,
        answer: &Answer,
        bytes: &[u8],
        engine: &mut PolicyEngine,
        now: Instant,
    ) -> Option<ResolverResponse> {
        let waiting = self.waiting.try_remove(key)?;
        if let Some(name) = &waiting.query.name {
            for (address, holds) in &answer.addresses {
                engine.pins.add(*address, name, *holds, now);
            }
        }
        let keep = matches!(answer.code, RCODE::NoError | RCODE::NameError) && bytes.len() <= LONGEST_ANSWER;
        if keep && answer.holds > Duration::ZERO {
            let until = now + answer.holds.min(LONGEST_KEPT);
            self.kept.put(waiting.query.key.clone(), (until, bytes.to_vec()));
        }
        let message = fit(bytes, waiting.source, &waiting.query, engine);
        Some(ResolverResponse { to: waiting.source, message })
    }

    /// Asks the next server, or gives up.
    fn again(
        &mut self,
        key: usize,
        engine: &mut PolicyEngine,
        sockets: &Sockets<'_>,
        now: Instant,
    ) -> Option<ResolverResponse> {
        let token = (sockets.token)(key);
        let servers = self.servers.clone();
        let waiting = self.waiting.get_mut(key)?;
        let stream = matches!(waiting.source, QuerySource::Connection(_));
        while waiting.tries < servers.len() * ROUNDS {
            let server = servers.get(waiting.tries % servers.len().max(1)).copied();
            waiting.tries += 1;
            let question = waiting.query.outward(waiting.id);
            if let (Some(server), Some(question)) = (server, question)
                && let Ok(upstream) = Upstream::open(server, &question, stream, sockets.registry, token)
            {
                waiting.upstream = upstream;
                waiting.deadline = now + PATIENCE;
                return None;
            }
        }
        let waiting = self.waiting.try_remove(key)?;
        Some(ResolverResponse { to: waiting.source, message: self.unanswered(&waiting.query, engine, now) })
    }

    /// Deals with one server that has taken too long.
    pub(crate) fn overdue(
        &mut self,
        engine: &mut PolicyEngine,
        sockets: &Sockets<'_>,
        now: Instant,
    ) -> Option<ResolverResponse> {
        let late = self.waiting.iter().find(|(_, waiting)| waiting.deadline <= now);
        let key = late.map(|(key, _)| key)?;
        self.again(key, engine, sockets, now)
    }

    /// A connection of the guest has gone: nobody waits for its answers.
    pub(crate) fn forget(&mut self, connection: usize) {
        let gone = [QuerySource::Connection(connection), QuerySource::ConnectRequest(connection)];
        self.waiting.retain(|_, waiting| !gone.contains(&waiting.source));
    }
}

/// An answer as the guest gets it.
fn fit(answer: &[u8], source: QuerySource, query: &Query, engine: &PolicyEngine) -> Vec<u8> {
    let most = most(source, query);
    if engine.policy().judges_names() {
        query.fit(&query.without_services(answer), most)
    } else {
        query.fit(answer, most)
    }
}

/// How long an answer may be.
fn most(source: QuerySource, query: &Query) -> usize {
    match source {
        QuerySource::Datagram { .. } => query.most,
        QuerySource::Connection(_) | QuerySource::ConnectRequest(_) => usize::from(u16::MAX),
    }
}

/// What we answer ourselves.
fn own(query: &Query, groups: &Groups) -> Option<Vec<u8>> {
    let name = query.name.as_ref()?;
    if let Some(address) = groups.address(name) {
        return Some(query.addresses(&[address.into()], MEMBER_HOLDS));
    }
    let name = name.as_str();
    if name == HOST {
        let both: [IpAddr; 2] = [GATEWAY_V4.into(), GATEWAY_V6.into()];
        return Some(query.addresses(&both, LONGEST_KEPT));
    }
    let ours = name == OURS || name.strip_suffix(OURS).is_some_and(|rest| rest.ends_with('.'));
    ours.then(|| query.failed(RCODE::NameError))
}

/// Where sockets are watched, and under which tokens.
pub(crate) struct Sockets<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) token: fn(usize) -> Token,
}
