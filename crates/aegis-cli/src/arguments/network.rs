//! `aegis network`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::arguments::format::Format;

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Show what an instance may reach, and what its network has done
    Show(Instance),
    /// Let an instance reach something, from now on
    Allow(Change),
    /// Do not let an instance reach something, from now on; what is connected there ends
    Deny(Change),
    /// Replace what an instance may reach by the policy in a file
    Apply(Apply),
    /// Make an instance a member of a group, from now on; the group need not exist
    Join(Membership),
    /// End an instance's membership of a group; what is connected between them ends
    Leave(Membership),
    /// List groups and their members
    Groups(Format),
    /// Show what would happen, and which rule decides
    Check(Check),
    /// Show the decisions of an instance's network: what, where to, by which rule, how many bytes
    Log(Log),
}

/// One instance.
#[derive(Debug, Args)]
pub struct Instance {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// A change of one instance's rules.
#[derive(Debug, Args)]
pub struct Change {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// A name, *.NAME, an address, a range, or public, private, link-local, metadata, group or any:
    /// WHAT[:PORT[-PORT]][/PROTOCOL] with tcp, udp, icmp or raw; the last change comes before all earlier rules
    #[arg(value_name = "WHAT", required = true)]
    pub what: Vec<String>,
    /// For connections that other instances of its groups open to it
    #[arg(long = "in")]
    pub inward: bool,
}

/// An instance and a group.
#[derive(Debug, Args)]
pub struct Membership {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// The group's name
    #[arg(value_name = "GROUP")]
    pub group: String,
}

/// A policy for an instance.
#[derive(Debug, Args)]
pub struct Apply {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// File with default = "none" and rules = ["allow WHAT", "deny WHAT"]
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Options of `network check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// A URL, or HOST:PORT, or a host alone for an echo
    #[arg(value_name = "URL", value_parser = target)]
    pub target: Target,
    /// UDP instead of TCP
    #[arg(long)]
    pub udp: bool,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `network log`.
#[derive(Debug, Args)]
pub struct Log {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// Go on with what is decided, until interrupted or the instance stops
    #[arg(short, long)]
    pub follow: bool,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address.
    pub host: String,
    /// Port, if it is known.
    pub port: Option<u16>,
}

/// Ports of schemes that need none.
const SCHEMES: [(&str, u16); 6] =
    [("http", 80), ("https", 443), ("ws", 80), ("wss", 443), ("ssh", 22), ("ftp", 21)];

fn target(text: &str) -> Result<Target, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest.split(['/', '?', '#']).next().unwrap_or_default()),
        None => (None, text),
    };
    let rest = rest.rsplit('@').next().unwrap_or_default();
    let usual = match scheme {
        None => None,
        Some(scheme) => {
            let known = SCHEMES.into_iter().find(|(name, _)| *name == scheme.to_ascii_lowercase());
            known.map(|(_, port)| port)
        }
    };
    let (host, port) =
        match (rest.strip_prefix('[').and_then(|rest| rest.split_once(']')), rest.matches(':').count()) {
            (Some((host, after)), _) => (host, after.strip_prefix(':')),
            (None, 1) => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
            (None, _) => (rest, None),
        };
    let port = match port {
        Some(port) => Some(port.parse().map_err(|_| format!("{port:?} is no port"))?),
        None => usual,
    };
    match (host, scheme, port) {
        ("", ..) => Err("expected a URL, HOST:PORT or HOST".to_owned()),
        (_, Some(scheme), None) => Err(format!("the port of {scheme}:// is not known; write it")),
        _ => Ok(Target { host: host.to_owned(), port }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_urls_or_hosts() {
        let parsed = |text: &str| target(text).map(|target| (target.host, target.port));
        for (text, host, port) in [
            ("https://169.254.169.254/", "169.254.169.254", Some(443)),
            ("http://u:p@a.example:8080/x?y", "a.example", Some(8080)),
            ("a.example:22", "a.example", Some(22)),
            ("https://[2001:db8::1]/", "2001:db8::1", Some(443)),
            ("[2001:db8::1]:53", "2001:db8::1", Some(53)),
            ("2001:db8::1", "2001:db8::1", None),
            ("10.0.0.1", "10.0.0.1", None),
        ] {
            assert_eq!(parsed(text), Ok((host.to_owned(), port)), "{text}");
        }
        for text in ["", "gopher://x/", "a:b", "a:70000"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
