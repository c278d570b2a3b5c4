//! Kinds of names that nobody here can look up, and that a proxy may.

use crate::{Name, Zone};

/// Names of the machine that asks (RFC 6761, 6.3, and what distributions put into `/etc/hosts`).
const LOOPBACK: [&str; 5] = ["localhost", "localdomain", "localhost4", "localhost6", "ip6-localhost"];
/// Names of networks that are somebody's own: RFC 6762 (`local` and appendix G), RFC 8375, `internal` of ICANN.
const PRIVATE: [&str; 8] = ["local", "home.arpa", "internal", "intranet", "private", "corp", "home", "lan"];
/// Where clouds hand out credentials.
const METADATA: [&str; 4] =
    ["metadata.google.internal", "metadata", "instance-data", "instance-data.ec2.internal"];

fn is_at_or_below(name: &str, above: &str) -> bool {
    name.strip_suffix(above).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a reader of names takes it for an IPv4 address: one whose last part is a number, decimal or hexadecimal (the
/// "ends in a number checker" of the URL standard), as `inet_aton(3)` does.
fn is_address(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal =
        last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit())
}

impl Zone {
    /// The kind of what a name leads to, as far as the name itself tells: whoever looks it up elsewhere is asked for what
    /// only that one can reach. `own` is the name of the machine that asks.
    #[must_use]
    pub fn of_name(name: &Name, own: &str) -> Zone {
        let (name, own) = (name.as_str(), own.trim_end_matches('.').to_ascii_lowercase());
        let short = own.split('.').next().unwrap_or_default();
        let below = |list: &[&str]| list.iter().any(|above| is_at_or_below(name, above));
        if is_address(name) {
            // No name at all, and which address depends on who reads it.
            return Zone::Unspecified;
        }
        if below(&LOOPBACK) {
            return Zone::Loopback;
        }
        if !own.is_empty() && (is_at_or_below(name, &own) || name == short) {
            return Zone::Host;
        }
        if below(&METADATA) {
            return Zone::Metadata;
        }
        if below(&PRIVATE) || !name.contains('.') { Zone::Private } else { Zone::Public }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_to_the_machine_that_asks_is_known_as_it_is_written() {
        for (name, zone) in [
            ("example.com", Zone::Public),
            ("1.example.com", Zone::Public),
            ("0xcafe.io", Zone::Public),
            ("localhost.example.com", Zone::Public),
            ("127.0.0.1", Zone::Unspecified),
            ("127.0.0.1.", Zone::Unspecified),
            ("127.1", Zone::Unspecified),
            ("2130706433", Zone::Unspecified),
            ("0x7f000001", Zone::Unspecified),
            ("0xA9FEA9FE", Zone::Unspecified),
            ("0177.0.0.0x1", Zone::Unspecified),
            ("a.0x", Zone::Unspecified),
            ("localhost", Zone::Loopback),
            ("a.LocalHost.", Zone::Loopback),
            ("localhost.localdomain", Zone::Loopback),
            ("devbox", Zone::Host),
            ("devbox.corp.example", Zone::Host),
            ("a.devbox.corp.example", Zone::Host),
            ("metadata.google.internal", Zone::Metadata),
            ("metadata", Zone::Metadata),
            ("printer.local", Zone::Private),
            ("git.corp.internal", Zone::Private),
            ("wiki", Zone::Private),
        ] {
            assert_eq!(Zone::of_name(&Name::new(name).unwrap(), "DevBox.corp.example"), zone, "{name}");
        }
        assert_eq!(Zone::of_name(&Name::new("a.example").unwrap(), ""), Zone::Public);
    }
}
