//! The decision.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Action, Direction, Name, Policy, Preset, Protocol, Rule, Zone, carried};

/// Ports of name servers, plain and over TLS.
const NAME_SERVERS: [u16; 2] = [53, 853];

/// Names of well-known resolvers over HTTPS; all below them too.
const RESOLVERS: [&str; 12] = [
    "dns.google",
    "dns.google.com",
    "cloudflare-dns.com",
    "one.one.one.one",
    "1dot1dot1dot1.cloudflare-dns.com",
    "dns.quad9.net",
    "doh.opendns.com",
    "dns.nextdns.io",
    "dns.adguard-dns.com",
    "doh.cleanbrowsing.org",
    "dns.mullvad.net",
    "dns0.eu",
];

/// Whether a name is that of a resolver over HTTPS.
fn is_resolver(name: &Name) -> bool {
    let is_below = |one: &str| {
        name.as_str().strip_suffix(one).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    RESOLVERS.into_iter().any(is_below)
}

/// What somebody is about to do, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Who begins.
    pub direction: Direction,
    /// What is spoken.
    pub protocol: Protocol,
    /// The other end.
    pub address: IpAddr,
    /// What kind of address that is; the caller knows those of the host.
    pub zone: Zone,
    /// Its port; 0 for an echo.
    pub port: u16,
    /// Names that our resolver has given this address for, and that still hold.
    pub pinned: &'a [Name],
    /// The name that the connection itself gives (TLS, HTTP). From then on no other counts.
    pub claimed: Option<&'a Name>,
}

/// Why it was decided so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No rule can open this kind of address.
    Floor(Zone),
    /// The first rule that matches.
    Rule(Rule),
    /// A rule allows the name; the address that it points to is of a kind that a name alone does not open.
    Rebinding(Rule, Zone),
    /// No rule matches.
    Preset(Preset, Zone),
    /// No rule matches, and the other end is a member of the same group.
    Group,
    /// Rules judge names, and a resolver of its own would hide them.
    Resolver,
    /// A rule allowed it for its name, and now it gives no name, or one that was not asked for.
    Unnamed,
    /// Rules judge names here, and what is spoken is nothing whose names can be read.
    Unrecognised,
    /// A port of the host that was opened to the instance.
    HostPort,
    /// A bound of the instance is reached.
    Limit(String),
    /// What it says is malformed, or made to be understood in two ways.
    Malformed(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Floor(zone) => write!(f, "never: {} addresses", zone.as_str()),
            Reason::Rule(rule) => write!(f, "rule: {rule}"),
            Reason::Rebinding(rule, zone) => {
                write!(f, "rule: {rule}, but a name alone opens no {} address", zone.as_str())
            }
            Reason::Preset(preset, zone) => {
                write!(f, "preset {}: {} addresses", preset.as_str(), zone.as_str())
            }
            Reason::Group => f.write_str("members of a group reach each other"),
            Reason::Resolver => f.write_str("rules judge names: no other resolver"),
            Reason::Unnamed => f.write_str("allowed for a name that the connection does not give"),
            Reason::Unrecognised => {
                f.write_str("neither TLS nor HTTP, where names are judged: takes a rule WHAT:PORT/raw")
            }
            Reason::HostPort => f.write_str("a port of the host that is open to this instance"),
            Reason::Limit(text) => write!(f, "limit: {text}"),
            Reason::Malformed(text) => write!(f, "malformed: {text}"),
        }
    }
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What happens.
    pub action: Action,
    /// Why.
    pub because: Reason,
}

impl Verdict {
    /// A refusal.
    #[must_use]
    pub fn deny(because: Reason) -> Verdict {
        Verdict { action: Action::Deny, because }
    }

    /// Whether it goes on.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.action == Action::Allow
    }

    /// The rule that lets it go on.
    pub(crate) fn opened_by(&self) -> Option<&Rule> {
        match &self.because {
            Reason::Rule(rule) if self.allows() => Some(rule),
            _ => None,
        }
    }

    /// Whether it goes on because of its name, so that the name has to be true.
    #[must_use]
    pub fn hangs_on_a_name(&self) -> bool {
        self.opened_by().is_some_and(|rule| rule.pattern.name.is_some() && !rule.pattern.raw)
    }

    /// Whether it goes on whatever is spoken.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.opened_by().is_some_and(|rule| rule.pattern.raw)
    }

    fn by(rule: &Rule) -> Verdict {
        Verdict { action: rule.action, because: Reason::Rule(rule.clone()) }
    }
}

impl Attempt<'_> {
    /// Whether the rule is about this, whatever its name.
    pub(crate) fn concerns(&self, rule: &Rule) -> bool {
        let pattern = &rule.pattern;
        // Whoever is to be kept from an address is kept from the ways around it through a translator.
        let carried = || {
            let inner = carried(self.address).filter(|_| rule.action == Action::Deny);
            inner.is_some_and(|inner| pattern.fits_net(inner, self.zone))
        };
        rule.direction == self.direction
            && pattern.fits(self.protocol, self.port)
            && (pattern.fits_net(self.address, self.zone) || carried())
    }

    /// Whether the rule is about this. A name that is merely claimed is enough to deny, and never to allow.
    pub(crate) fn matches(&self, rule: &Rule) -> bool {
        let pattern = &rule.pattern;
        if !self.concerns(rule) {
            return false;
        }
        match (self.claimed, rule.action) {
            (None, _) => pattern.fits_name(self.pinned.iter()),
            (Some(name), Action::Deny) => pattern.fits_name(std::iter::once(name)),
            (Some(name), Action::Allow) => {
                pattern.fits_name(std::iter::once(name).filter(|name| self.pinned.contains(name)))
            }
        }
    }
}

impl Policy {
    /// Decides.
    #[must_use]
    pub fn decide(&self, attempt: &Attempt<'_>) -> Verdict {
        if attempt.zone.is_never_reached() {
            return Verdict::deny(Reason::Floor(attempt.zone));
        }
        // What passes as it is needs no rule about what is spoken on it. Otherwise such rules say nothing.
        let as_it_is = self.decide_as(attempt, true);
        if as_it_is.is_raw() { as_it_is } else { self.decide_as(attempt, false) }
    }

    /// Decides about it as something that passes as it is, or as something that is looked at.
    fn decide_as(&self, attempt: &Attempt<'_>, raw: bool) -> Verdict {
        let counts = |rule: &Rule| {
            let pattern = &rule.pattern;
            match (raw, rule.action) {
                // A name opens what is looked at, and no more.
                (true, Action::Allow) => pattern.raw || pattern.name.is_none(),
                (true, Action::Deny) => true,
                (false, _) => !pattern.raw,
            }
        };
        let first = self.rules.iter().find(|rule| counts(rule) && attempt.matches(rule));
        match first {
            Some(rule)
                if rule.action == Action::Allow
                    && rule.pattern.net.is_none()
                    && rule.pattern.name.is_some() =>
            {
                self.allowed_by_name(attempt, rule, counts)
            }
            Some(rule) => Verdict::by(rule),
            None => self.by_preset(attempt),
        }
    }

    /// A name opens nothing that the nature of the address keeps closed, wherever it points; and what another rule says of
    /// the address counts more.
    fn allowed_by_name(&self, attempt: &Attempt<'_>, rule: &Rule, counts: impl Fn(&Rule) -> bool) -> Verdict {
        if attempt.zone == Zone::Group {
            // Nobody but us gives names to members.
            return Verdict::by(rule);
        }
        let of_address = self.rules.iter().find(|other| {
            let of_address = other.pattern.name.is_none() && other.pattern.net.is_some();
            of_address && counts(other) && attempt.matches(other)
        });
        match of_address {
            Some(other) => Verdict::by(other),
            None if attempt.zone != Zone::Public && self.default != Preset::Open => {
                Verdict::deny(Reason::Rebinding(rule.clone(), attempt.zone))
            }
            None => Verdict::by(rule),
        }
    }

    fn by_preset(&self, attempt: &Attempt<'_>) -> Verdict {
        if attempt.zone == Zone::Group {
            return Verdict { action: Action::Allow, because: Reason::Group };
        }
        let named = attempt.claimed.into_iter().chain(attempt.pinned);
        let foreign_resolver = attempt.direction == Direction::Out
            && attempt.protocol != Protocol::Icmp
            && (NAME_SERVERS.contains(&attempt.port) || named.into_iter().any(is_resolver))
            && self.judges_names();
        let open = match self.default {
            // Nobody else comes in.
            _ if attempt.direction == Direction::In => false,
            Preset::None => false,
            Preset::Public => attempt.zone == Zone::Public,
            Preset::Open => true,
        };
        let action = if open { Action::Allow } else { Action::Deny };
        if open && foreign_resolver {
            return Verdict::deny(Reason::Resolver);
        }
        Verdict { action, because: Reason::Preset(self.default, attempt.zone) }
    }

    /// Decides whether our resolver asks for a name: if some rule may open something for it, or the preset does.
    #[must_use]
    pub fn resolves(&self, name: &Name) -> Verdict {
        let about = self.rules.iter().filter(|rule| {
            rule.direction == Direction::Out
                && rule.pattern.name.as_ref().is_some_and(|one| one.matches(name))
        });
        for rule in about {
            let whole =
                rule.pattern.ports.is_none() && rule.pattern.protocol.is_none() && rule.pattern.net.is_none();
            // A refusal of one port is no reason to hide the name.
            if rule.action == Action::Allow || whole {
                return Verdict::by(rule);
            }
        }
        if self.judges_names() && is_resolver(name) {
            return Verdict::deny(Reason::Resolver);
        }
        let action = if self.default == Preset::None { Action::Deny } else { Action::Allow };
        Verdict { action, because: Reason::Preset(self.default, Zone::Public) }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
