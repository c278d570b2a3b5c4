//! How closely a flow is looked at that may begin.

use crate::{Action, Attempt, Direction, Policy, Protocol, Verdict, Zone};

/// First and last of each range of ports where servers of the web are found.
const WEB: [(u16, u16); 7] =
    [(80, 90), (443, 443), (591, 591), (3000, 3010), (4000, 4010), (5000, 5010), (8000, 9999)];

/// Whether servers of the web are found at this port: what is spoken there is taken for something with a name in it.
#[must_use]
pub fn is_web_port(port: u16) -> bool {
    WEB.iter().any(|(first, last)| (*first..=*last).contains(&port))
}

/// See the module. The later, the closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InspectionLevel {
    /// It passes as it is.
    None,
    /// Names that it gives are judged. What is not recognised gives none, and passes.
    Names,
    /// Names that it gives are judged, and what is not recognised ends.
    Strict,
}

impl Policy {
    /// How closely to look at what this verdict has let begin.
    #[must_use]
    pub fn scrutiny(&self, attempt: &Attempt<'_>, verdict: &Verdict) -> InspectionLevel {
        // Nobody but us gives names to members.
        let is_near = attempt.zone == Zone::Group || attempt.direction == Direction::In;
        if is_near || !self.judges_names() || verdict.is_raw() {
            return InspectionLevel::None;
        }
        if let Some(rule) = verdict.opened_by() {
            let says_so = attempt.protocol == Protocol::Udp && rule.pattern.protocol == Some(Protocol::Udp);
            return match rule.pattern.name {
                // There is no raw UDP: whoever writes the protocol down means what is spoken over it.
                Some(_) if says_so => InspectionLevel::Names,
                Some(_) => InspectionLevel::Strict,
                None if self.may_deny_by_name(attempt) => InspectionLevel::at(attempt.port),
                // What is open by its address is open whatever its name.
                None => InspectionLevel::None,
            };
        }
        InspectionLevel::at(attempt.port)
    }

    /// Whether a name could keep it from what it is about.
    fn may_deny_by_name(&self, attempt: &Attempt<'_>) -> bool {
        let denies = |rule: &crate::Rule| rule.action == Action::Deny && rule.pattern.name.is_some();
        self.rules.iter().any(|rule| denies(rule) && attempt.concerns(rule))
    }
}

impl InspectionLevel {
    /// How closely to look where everything is open but a few names.
    fn at(port: u16) -> InspectionLevel {
        if is_web_port(port) { InspectionLevel::Strict } else { InspectionLevel::Names }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Name, Preset, canonical};

    fn policy(default: Preset, rules: &[&str]) -> Policy {
        Policy { default, rules: rules.iter().map(|text| text.parse().unwrap()).collect() }
    }

    fn attempt(pinned: &[Name], protocol: Protocol, port: u16) -> Attempt<'_> {
        let address = canonical("203.0.113.1".parse().unwrap());
        let direction = Direction::Out;
        Attempt { direction, protocol, address, zone: Zone::Public, port, pinned, claimed: None }
    }

    /// What is decided about the port at the address of `a.example`, and how closely it is looked at.
    fn seen(default: Preset, rules: &[&str], protocol: Protocol, port: u16) -> Option<InspectionLevel> {
        let (policy, pinned) = (policy(default, rules), [Name::new("a.example").unwrap()]);
        let attempt = attempt(&pinned, protocol, port);
        let verdict = policy.decide(&attempt);
        verdict.allows().then(|| policy.scrutiny(&attempt, &verdict))
    }

    #[test]
    fn what_a_name_opens_has_to_be_recognised_unless_a_rule_opens_the_port_to_anything() {
        let tcp = |rules: &[&str], port| seen(Preset::None, rules, Protocol::Tcp, port);
        for port in [22, 80, 443, 5432, 9418] {
            assert_eq!(tcp(&["allow a.example"], port), Some(InspectionLevel::Strict), "{port}");
        }
        for rules in [
            &["allow a.example:5432/raw"][..],
            &["allow a.example", "allow *.example:5432/raw", "allow a.example:5432/raw"],
            &["allow a.example", "allow any:5000-6000/raw"],
        ] {
            assert_eq!(tcp(rules, 5432), Some(InspectionLevel::None), "{rules:?}");
        }
        // It opens this port, and for TCP alone.
        let one = &["allow a.example:5432/raw"];
        assert_eq!((tcp(one, 443), seen(Preset::None, one, Protocol::Udp, 5432)), (None, None));
        let both = &["allow a.example", "allow a.example:5432/raw"];
        assert_eq!(tcp(both, 443), Some(InspectionLevel::Strict));
    }

    #[test]
    fn what_is_denied_before_it_stays_closed() {
        let tcp = |rules: &[&str], port| seen(Preset::None, rules, Protocol::Tcp, port);
        assert_eq!(tcp(&["deny a.example:22", "allow a.example:22/raw"], 22), None);
        assert_eq!(tcp(&["allow a.example:22/raw", "deny 203.0.113.0/24"], 22), None);
        assert_eq!(
            tcp(&["allow a.example", "deny a.example:22/raw", "allow a.example:22/raw"], 22),
            Some(InspectionLevel::Strict)
        );
        assert_eq!(tcp(&["deny a.example:22/raw"], 22), None);
    }

    #[test]
    fn where_only_some_names_are_denied_the_ports_of_the_web_are_looked_at_closely() {
        let rules = &["deny b.example"];
        for (port, expected) in [
            (22, InspectionLevel::Names),
            (443, InspectionLevel::Strict),
            (8080, InspectionLevel::Strict),
            (25, InspectionLevel::Names),
        ] {
            assert_eq!(seen(Preset::Public, rules, Protocol::Tcp, port), Some(expected), "{port}");
        }
        let raw = &["deny b.example", "allow any:8080/raw"];
        assert_eq!(seen(Preset::Public, raw, Protocol::Tcp, 8080), Some(InspectionLevel::None));
    }

    #[test]
    fn what_is_open_by_its_address_is_not_looked_at_unless_a_name_could_close_it() {
        for (rules, expected) in [
            (&["allow 203.0.113.0/24"][..], InspectionLevel::None),
            (&["allow 203.0.113.0/24", "allow b.example"], InspectionLevel::None),
            (&["deny b.example", "allow 203.0.113.0/24"], InspectionLevel::Strict),
            (&["deny b.example:443", "allow 203.0.113.0/24"], InspectionLevel::None),
        ] {
            assert_eq!(seen(Preset::None, rules, Protocol::Tcp, 80), Some(expected), "{rules:?}");
        }
        assert_eq!(seen(Preset::Public, &[], Protocol::Tcp, 80), Some(InspectionLevel::None));
    }

    proptest! {
        #[test]
        fn a_raw_rule_opens_nothing_that_the_same_rule_for_tcp_does_not(
            rules in prop::collection::vec(
                (any::<bool>(), prop::sample::select(vec!["a.example", "*.example", "any", "203.0.113.1", "b.example"]),
                 1u16..4, any::<bool>()), 0..5),
            port in 1u16..4,
            public in any::<bool>(),
        ) {
            let write = |raw_too: bool| -> Vec<String> {
                rules.iter().map(|(allow, what, port, raw)| {
                    let protocol = if *raw && raw_too { "raw" } else { "tcp" };
                    format!("{} {what}:{port}/{protocol}", if *allow { "allow" } else { "deny" })
                }).collect()
            };
            let default = if public { Preset::Public } else { Preset::None };
            let decide = |texts: Vec<String>| {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                seen(default, &texts, Protocol::Tcp, port)
            };
            // Rules that deny `raw` alone deny less.
            prop_assume!(rules.iter().all(|(allow, _, _, raw)| *allow || !raw));
            let (with, without) = (decide(write(true)), decide(write(false)));
            prop_assert!(with.is_none() || without.is_some(), "{:?} {:?}", with, without);
        }
    }
}
