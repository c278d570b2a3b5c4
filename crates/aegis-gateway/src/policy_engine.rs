//! The policy engine: evaluates the policy for each flow, with the names of addresses (DNS pinning) and the host's own addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use aegis_policy::{
    Action, Attempt, Direction, InspectionLevel, Name, Policy, Protocol, Reason, Verdict, Zone, canonical,
    carried,
};
use lru::LruCache;

use crate::addressing;
use crate::groups::Groups;
use crate::host_addresses::HostAddresses;

/// Most addresses whose names are known.
const MOST_ADDRESSES: usize = 4096;
/// Most names of an address.
const MOST_NAMES: usize = 16;
/// How long a name holds at least: programs ask first, and connect a little later.
const SHORTEST: Duration = Duration::from_secs(30);
/// How long a name holds at most.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Which names our resolver has given which address for.
#[derive(Debug)]
pub(crate) struct DnsPins(LruCache<IpAddr, Vec<(Name, Instant)>>);

impl DnsPins {
    fn new() -> DnsPins {
        DnsPins(LruCache::new(NonZeroUsize::new(MOST_ADDRESSES).unwrap_or(NonZeroUsize::MIN)))
    }

    /// Notes that a name points to an address for as long as its answer holds.
    pub(crate) fn add(&mut self, address: IpAddr, name: &Name, holds: Duration, now: Instant) {
        let until = now + holds.clamp(SHORTEST, LONGEST);
        let names = self.0.get_or_insert_mut(canonical(address), Vec::new);
        names.retain(|(other, end)| other != name && *end > now);
        if names.len() == MOST_NAMES {
            names.remove(0);
        }
        names.push((name.clone(), until));
    }

    fn names(&mut self, address: IpAddr, now: Instant) -> Vec<Name> {
        let Some(names) = self.0.get_mut(&address) else { return Vec::new() };
        names.retain(|(_, end)| *end > now);
        names.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// First of the addresses that stand for names which only a proxy can resolve, and how many there are: the range for
/// measurements (RFC 2544), which nobody routes.
const INVENTED: u32 = 0xc612_0000;
const MOST_INVENTED: u32 = 4096;

/// Addresses that stand for names.
#[derive(Debug, Default)]
pub(crate) struct SyntheticAddresses {
    by_name: std::collections::HashMap<Name, u32>,
    names: std::collections::VecDeque<Name>,
    next: u32,
}

impl SyntheticAddresses {
    /// The address of a name; the one that was used longest ago stands for another then.
    fn address(&mut self, name: &Name) -> Ipv4Addr {
        let number = match self.by_name.get(name) {
            Some(number) => *number,
            None => {
                let number = self.next % MOST_INVENTED;
                self.next = self.next.wrapping_add(1);
                if self.names.len() >= MOST_INVENTED as usize
                    && let Some(oldest) = self.names.pop_front()
                {
                    self.by_name.remove(&oldest);
                }
                self.names.push_back(name.clone());
                self.by_name.insert(name.clone(), number);
                number
            }
        };
        Ipv4Addr::from(INVENTED + number)
    }

    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let number = u32::from(address).wrapping_sub(INVENTED);
                number < MOST_INVENTED && (number as usize) < self.names.len()
            }
            IpAddr::V6(_) => false,
        }
    }
}

/// What is known of a flow, and what was decided of it.
#[derive(Debug, Clone)]
pub(crate) struct FlowDecision {
    pub(crate) direction: Direction,
    pub(crate) protocol: Protocol,
    pub(crate) address: IpAddr,
    pub(crate) zone: Zone,
    pub(crate) port: u16,
    /// The address's names when the flow began.
    pub(crate) pinned: Vec<Name>,
    /// The name that it gave itself.
    pub(crate) claimed: Option<Name>,
    pub(crate) verdict: Verdict,
    /// How closely it was to be looked at when it began.
    pub(crate) scrutiny: InspectionLevel,
}

impl FlowDecision {
    /// The name that it is known by.
    pub(crate) fn name(&self) -> Option<&Name> {
        self.claimed.as_ref().or(self.pinned.last())
    }

    /// Whether the other end has begun it.
    pub(crate) fn is_visit(&self) -> bool {
        self.direction == Direction::In
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            direction: self.direction,
            protocol: self.protocol,
            address: self.address,
            zone: self.zone,
            port: self.port,
            pinned: &self.pinned,
            claimed: self.claimed.as_ref(),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PolicyEngine {
    policy: Policy,
    host_ports: Vec<u16>,
    pub(crate) pins: DnsPins,
    pub(crate) groups: Groups,
    synthetic: SyntheticAddresses,
    host: HostAddresses,
    /// What the host is called.
    host_name: String,
}

impl PolicyEngine {
    pub(crate) fn new() -> PolicyEngine {
        let nothing = Policy { default: aegis_policy::Preset::None, rules: Vec::new() };
        PolicyEngine {
            policy: nothing,
            host_ports: Vec::new(),
            pins: DnsPins::new(),
            groups: Groups::default(),
            synthetic: SyntheticAddresses::default(),
            host: HostAddresses::open(),
            // Here, because a confined process asks for no more.
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    pub(crate) fn set(&mut self, policy: Policy, host_ports: Vec<u16>, groups: Groups) {
        self.policy = policy;
        self.host_ports = host_ports;
        self.groups = groups;
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether this port of the host's loopback interface is opened to the guest.
    pub(crate) fn is_host_port(&self, port: u16) -> bool {
        self.host_ports.contains(&port)
    }

    fn zone_of_name(&self, name: &Name) -> Zone {
        Zone::of_name(name, &self.host_name)
    }

    /// An address for a name that has none on this host, and is pinned to it; `None` for one that no proxy is asked for,
    /// because it leads to wherever it is looked up.
    pub(crate) fn invent(&mut self, name: &Name, now: Instant) -> Option<Ipv4Addr> {
        if self.zone_of_name(name).is_never_reached() {
            return None;
        }
        let address = self.synthetic.address(name);
        self.pins.0.pop(&IpAddr::V4(address));
        self.pins.add(address.into(), name, LONGEST, now);
        Some(address)
    }

    /// Whether an address is synthetic: made up for a name that this host cannot look up.
    pub(crate) fn is_synthetic(&self, address: IpAddr) -> bool {
        self.synthetic.contains(address)
    }

    fn zone(&mut self, address: IpAddr) -> Zone {
        if self.synthetic.contains(address) {
            // Of what the proxy finds behind the name, nothing more is known here.
            let name = self.pins.0.peek(&address).and_then(|names| names.last());
            return name.map_or(Zone::Unspecified, |(name, _)| self.zone_of_name(name));
        }
        if self.groups.other(address).is_some() {
            return Zone::Group;
        }
        // A translator takes what it carries to where that leads.
        let ends = [Some(address), carried(address)];
        if ends.into_iter().flatten().any(addressing::is_on_the_wire) {
            return Zone::Instances;
        }
        match Zone::of(address) {
            zone if zone.is_never_reached() => zone,
            _ if ends.into_iter().flatten().any(|address| self.host.contains(address)) => Zone::Host,
            zone => zone,
        }
    }

    /// Decides about a flow that the guest begins.
    pub(crate) fn evaluate(
        &mut self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
        now: Instant,
    ) -> FlowDecision {
        let address = canonical(address);
        let zone = self.zone(address);
        let pinned = match self.groups.other(address) {
            Some(member) => vec![member.clone()],
            None => self.pins.names(address, now),
        };
        self.decide(FlowDecision {
            direction: Direction::Out,
            protocol,
            address,
            zone,
            port,
            pinned,
            claimed: None,
            verdict: Verdict::deny(Reason::Floor(zone)),
            scrutiny: InspectionLevel::Strict,
        })
    }

    /// Decides about a flow that a member of one of the guest's groups begins, to this port of the guest.
    pub(crate) fn visit(&self, protocol: Protocol, from: Ipv4Addr, port: u16) -> FlowDecision {
        let address = IpAddr::V4(from);
        let pinned: Vec<Name> = self.groups.other(address).cloned().into_iter().collect();
        let zone = if pinned.is_empty() { Zone::Instances } else { Zone::Group };
        self.decide(FlowDecision {
            direction: Direction::In,
            protocol,
            address,
            zone,
            port,
            pinned,
            claimed: None,
            verdict: Verdict::deny(Reason::Floor(zone)),
            scrutiny: InspectionLevel::Strict,
        })
    }

    /// The first verdict on a flow, and how closely what passes is looked at.
    fn decide(&self, mut decision: FlowDecision) -> FlowDecision {
        self.again(&mut decision);
        decision.scrutiny = self.scrutiny(&decision);
        decision
    }

    /// Decides again, because something changed. Returns whether it may still be.
    pub(crate) fn again(&self, decision: &mut FlowDecision) -> bool {
        if decision.zone == Zone::Group && self.groups.other(decision.address).is_none() {
            // One of the two has left.
            decision.zone = Zone::Instances;
        }
        let host_port = decision.protocol == Protocol::Tcp
            && addressing::is_gateway(decision.address)
            && self.is_host_port(decision.port);
        decision.verdict = if host_port {
            Verdict { action: Action::Allow, because: Reason::HostPort }
        } else {
            self.policy.decide(&decision.attempt())
        };
        // One whose names were not looked at may be anybody's; what a proxy was told is not what is spoken then.
        let is_unseen = decision.scrutiny == InspectionLevel::None || decision.claimed.is_none();
        if decision.verdict.hangs_on_a_name() && is_unseen && self.scrutiny(decision) > decision.scrutiny {
            decision.verdict = Verdict::deny(Reason::Unnamed);
        }
        decision.verdict.allows()
    }

    /// How closely to look at what may begin.
    pub(crate) fn scrutiny(&self, decision: &FlowDecision) -> InspectionLevel {
        match decision.verdict.because {
            Reason::HostPort => InspectionLevel::None,
            _ => self.policy.scrutiny(&decision.attempt(), &decision.verdict),
        }
    }

    /// Decides again after a flow has named its other end, or has not where it should.
    pub(crate) fn named(&self, decision: &mut FlowDecision, claim: Option<Name>) -> bool {
        match claim {
            Some(name) => {
                decision.claimed = Some(name);
                self.again(decision)
            }
            None if decision.verdict.hangs_on_a_name() => {
                decision.verdict = Verdict::deny(Reason::Unnamed);
                false
            }
            None => true,
        }
    }
}
