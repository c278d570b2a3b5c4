use proptest::prelude::*;

use super::*;
use crate::canonical;

fn policy(default: Preset, rules: &[&str]) -> Policy {
    Policy { default, rules: rules.iter().map(|text| text.parse().unwrap()).collect() }
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| Name::new(text).unwrap()).collect()
}

fn tcp<'a>(address: &str, port: u16, pinned: &'a [Name], claimed: Option<&'a Name>) -> Attempt<'a> {
    let address = canonical(address.parse().unwrap());
    let zone = Zone::of(address);
    Attempt { direction: Direction::Out, protocol: Protocol::Tcp, address, zone, port, pinned, claimed }
}

fn allows(policy: &Policy, address: &str, port: u16) -> bool {
    policy.decide(&tcp(address, port, &[], None)).allows()
}

#[test]
fn presets_are_what_their_names_say() {
    for (address, [none, public, open]) in [
        ("203.0.113.1", [false, true, true]),
        ("10.0.0.1", [false, false, true]),
        ("169.254.169.254", [false, false, true]),
        ("127.0.0.1", [false, false, false]),
        ("::ffff:127.0.0.1", [false, false, false]),
        ("0.0.0.0", [false, false, false]),
        ("224.0.0.1", [false, false, false]),
    ] {
        let found =
            [Preset::None, Preset::Public, Preset::Open].map(|one| allows(&policy(one, &[]), address, 80));
        assert_eq!(found, [none, public, open], "{address}");
    }
}

#[test]
fn no_rule_opens_the_host() {
    let policy = policy(Preset::Open, &["allow any", "allow 127.0.0.0/8", "allow ::1"]);
    assert!(!allows(&policy, "127.0.0.1", 80) && !allows(&policy, "::1", 80));
    let attempt = Attempt { zone: Zone::Host, ..tcp("192.168.7.7", 80, &[], None) };
    assert_eq!(policy.decide(&attempt).because, Reason::Floor(Zone::Host));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy =
        policy(Preset::Public, &["allow 10.1.0.0/16:443/tcp", "deny 10.0.0.0/8", "deny 203.0.113.0/24:25"]);
    assert!(allows(&policy, "10.1.2.3", 443));
    assert!(!allows(&policy, "10.1.2.3", 80));
    assert!(!allows(&policy, "203.0.113.1", 25));
    assert!(allows(&policy, "203.0.113.1", 26));
}

#[test]
fn a_name_opens_its_address_on_its_ports_and_no_other() {
    let policy = policy(Preset::None, &["allow api.example.com", "allow *.example.org:443"]);
    let [api, www] = [names(&["api.example.com"]), names(&["www.example.org"])];
    let decide = |pinned, port| policy.decide(&tcp("203.0.113.1", port, pinned, None)).allows();
    assert!(decide(&api, 80) && decide(&api, 443) && decide(&www, 443));
    assert!(!decide(&www, 80) && !decide(&[], 443));
}

#[test]
fn the_name_in_the_connection_must_be_the_one_that_was_asked_for() {
    let policy = policy(Preset::None, &["allow api.example.com"]);
    let pinned = names(&["api.example.com"]);
    let decide = |name: &str, pinned: &[Name]| {
        let name = Name::new(name).unwrap();
        policy.decide(&tcp("203.0.113.1", 443, pinned, Some(&name))).allows()
    };
    assert!(decide("api.example.com", &pinned));
    assert!(!decide("neighbour.example.com", &pinned));
    // An address that the guest has found by itself, with a name that it has made up.
    assert!(!decide("api.example.com", &[]));
}

#[test]
fn a_claimed_name_is_enough_to_deny() {
    let policy = policy(Preset::Public, &["deny *.ads.example"]);
    let name = Name::new("x.ads.example").unwrap();
    assert!(!policy.decide(&tcp("203.0.113.1", 443, &[], Some(&name))).allows());
    let other = Name::new("x.example").unwrap();
    assert!(policy.decide(&tcp("203.0.113.1", 443, &[], Some(&other))).allows());
}

#[test]
fn a_name_that_points_inside_opens_nothing() {
    let pinned = names(&["api.example.com"]);
    let decide = |policy: &Policy, address| policy.decide(&tcp(address, 80, &pinned, None));
    for preset in [Preset::None, Preset::Public] {
        let policy = policy(preset, &["allow api.example.com"]);
        for address in ["10.0.0.1", "169.254.169.254", "::ffff:192.168.0.1", "64:ff9b::a00:1"] {
            let verdict = decide(&policy, address);
            assert!(matches!(verdict.because, Reason::Rebinding(..)) && !verdict.allows(), "{address}");
        }
    }
    // Whatever the order.
    let closed = policy(Preset::Open, &["allow api.example.com", "deny 203.0.113.0/24"]);
    assert!(!decide(&closed, "203.0.113.9").allows());
    // What a rule opens by its address stays open, whatever name points there.
    let opened = policy(Preset::None, &["allow api.example.com", "allow 10.0.0.0/24:80", "deny 10.0.0.0/8"]);
    assert!(decide(&opened, "10.0.0.1").allows() && !decide(&opened, "10.0.1.1").allows());
    // Name and address together open what both say.
    let both = policy(Preset::None, &["allow api.example.com@10.0.0.0/24"]);
    assert!(decide(&both, "10.0.0.1").allows() && !decide(&both, "10.0.1.1").allows());
}

#[test]
fn an_address_that_is_denied_is_denied_through_translators_and_tunnels_too() {
    let denied = policy(Preset::Public, &["deny 198.51.100.0/24:1-9000", "allow 64:ff9b::/96"]);
    for address in ["198.51.100.9", "64:ff9b::198.51.100.9", "2002:c633:6409::1", "::198.51.100.9"] {
        assert!(!allows(&denied, address, 80), "{address}");
    }
    // What is allowed is what is written, and no other way to it.
    let allowed = policy(Preset::None, &["allow 198.51.100.9"]);
    assert!(allows(&allowed, "198.51.100.9", 80) && !allows(&allowed, "64:ff9b::198.51.100.9", 80));
    assert!(allows(&denied, "64:ff9b::203.0.113.9", 80));
}

#[test]
fn where_names_are_judged_no_other_resolver_is_reached_unless_a_rule_says_so() {
    assert!(allows(&policy(Preset::Public, &[]), "203.0.113.53", 53));
    let judged = policy(Preset::Public, &["deny ads.example"]);
    assert!(!allows(&judged, "203.0.113.53", 53) && !allows(&judged, "203.0.113.53", 853));
    assert!(allows(
        &policy(Preset::Public, &["deny ads.example", "allow 203.0.113.53:53"]),
        "203.0.113.53",
        53
    ));
}

#[test]
fn well_known_resolvers_over_https_are_resolvers_too() {
    let name = |text| Name::new(text).unwrap();
    let [judged, open] = [policy(Preset::Public, &["deny ads.example"]), policy(Preset::Public, &[])];
    for text in ["dns.google", "mozilla.cloudflare-dns.com"] {
        let claimed = name(text);
        let attempt = tcp("203.0.113.53", 443, &[], Some(&claimed));
        assert!(!judged.resolves(&claimed).allows() && !judged.decide(&attempt).allows(), "{text}");
        assert!(open.resolves(&claimed).allows() && open.decide(&attempt).allows(), "{text}");
    }
    assert!(judged.resolves(&name("notdns.google")).allows());
    let wanted = policy(Preset::Public, &["deny ads.example", "allow dns.google"]);
    assert!(wanted.resolves(&name("dns.google")).allows());
}

#[test]
fn names_that_nothing_opens_are_not_asked_for() {
    let some =
        policy(Preset::None, &["deny bad.example.org", "allow *.example.org:443", "allow 203.0.113.0/24"]);
    let resolves = |policy: &Policy, name: &str| policy.resolves(&Name::new(name).unwrap()).allows();
    assert!(resolves(&some, "www.example.org"));
    assert!(!resolves(&some, "bad.example.org") && !resolves(&some, "tunnel.example.net"));
    let others = policy(Preset::Public, &["deny x.example:25"]);
    assert!(resolves(&others, "x.example") && resolves(&others, "y.example"));
}

fn any_rule() -> impl Strategy<Value = String> {
    let what = prop::sample::select(vec![
        "any",
        "a.example",
        "*.example",
        "10.0.0.0/8",
        "203.0.113.0/24",
        "private",
        "::/0",
        "0.0.0.0/0",
    ]);
    (prop::bool::ANY, what, prop::option::of(1u16..500)).prop_map(|(allow, what, port)| {
        let what = if what == "::/0" && port.is_some() { "[::/0]" } else { what };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{} {what}{port}", if allow { "allow" } else { "deny" })
    })
}

proptest! {
    #[test]
    fn whatever_the_rules_the_host_is_not_reached_and_a_name_alone_opens_nothing_private(
        rules in prop::collection::vec(any_rule(), 0..6),
        preset in prop::sample::select(vec![Preset::None, Preset::Public, Preset::Open]),
        port in 1u16..500,
        named in prop::bool::ANY,
    ) {
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let policy = policy(preset, &rules);
        let pinned = if named { names(&["a.example"]) } else { Vec::new() };
        for address in ["127.0.0.1", "0.0.0.0", "::1", "::ffff:127.1.2.3", "224.0.0.1", "255.255.255.255"] {
            prop_assert!(!policy.decide(&tcp(address, port, &pinned, None)).allows());
        }
        let verdict = policy.decide(&tcp("10.0.0.9", port, &pinned, None));
        if verdict.hangs_on_a_name() && verdict.allows() {
            let Reason::Rule(rule) = &verdict.because else { unreachable!() };
            prop_assert!(rule.pattern.net.is_some() || preset == Preset::Open);
        }
        // The name of another address is no way around what an address rule denies.
        let denied = policy.rules.iter().any(|rule| {
            rule.action == Action::Deny && rule.pattern.name.is_none() && rule.pattern.net.is_some()
                && tcp("10.0.0.9", port, &[], None).matches(rule)
        });
        let without = policy.decide(&tcp("10.0.0.9", port, &[], None));
        if denied && !without.allows() {
            prop_assert!(!verdict.allows());
        }
    }
}

#[test]
fn members_of_a_group_reach_each_other_unless_a_rule_says_otherwise() {
    let a = names(&["a.crew"]);
    let decide = |preset: Preset, rules: &[&str], direction: Direction| {
        let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let attempt = Attempt {
            direction,
            protocol: Protocol::Tcp,
            address: "198.19.0.1".parse().unwrap(),
            zone: Zone::Group,
            port: 53,
            pinned: &a,
            claimed: None,
        };
        Policy { default: preset, rules }.decide(&attempt).allows()
    };
    for preset in [Preset::None, Preset::Public, Preset::Open] {
        for direction in [Direction::In, Direction::Out] {
            assert!(decide(preset, &["deny private", "allow x.example"], direction));
            let one_way = if direction == Direction::In { "in " } else { "" };
            let rule = |text: &str| text.replace("DIRECTION ", one_way);
            assert!(!decide(preset, &[&rule("deny DIRECTION group")], direction));
            assert!(!decide(preset, &[&rule("deny DIRECTION a.crew:53/tcp")], direction));
            let only = [rule("allow DIRECTION *.crew:53"), rule("deny DIRECTION group")];
            assert!(decide(preset, &[&only[0], &only[1]], direction));
        }
        // What is said of one direction says nothing of the other.
        assert!(decide(preset, &["deny in group"], Direction::Out));
        assert!(decide(preset, &["deny group"], Direction::In));
    }
}
