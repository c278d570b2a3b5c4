//! `aegis network`, and the options that say what a new instance may reach.

use std::io::stdout;
use std::path::PathBuf;

use aegis_api::network::{
    CheckRequest, NetworkEntry, NetworkInfo, NetworkLimits, NetworkPolicy, NetworkRequest,
};
use clap::{Args, Subcommand};

use crate::Context;
use crate::arguments::{Format, OutputFormat};
use crate::failure::Failure;
use crate::output::{self, READER_GONE, pass_on};
use crate::render::columns;
use crate::values;

/// What a new instance may reach.
#[derive(Debug, Args)]
pub struct Options {
    /// What it may reach where no rule says otherwise: none; public, the internet and nothing nearer; or open, all but
    /// this host [default: public, or none with --allow]
    #[arg(long, value_name = "PRESET", value_parser = ["none", "public", "open"])]
    pub network: Option<String>,
    /// Let it reach a name, *.NAME, an address, a range, or public, private, link-local, metadata or any, as
    /// WHAT[:PORT[-PORT]][/PROTOCOL] with tcp, udp, icmp or raw; may be repeated
    #[arg(long, value_name = "WHAT")]
    pub allow: Vec<String>,
    /// Do not let it reach that, even if --allow does; may be repeated
    #[arg(long, value_name = "WHAT")]
    pub deny: Vec<String>,
    /// File with a policy: default = "none" and rules = ["allow WHAT", "deny WHAT"]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["network", "allow", "deny"])]
    pub network_policy: Option<PathBuf>,
    /// Let it reach this TCP port of the host's loopback interface, as host.aegis:PORT; may be repeated
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub host_port: Vec<u16>,
    /// Let its programs trust the certificate authorities that this host trusts
    #[arg(long)]
    pub trust_host_cas: bool,
    /// Make it a member of a group: members reach each other as HANDLE.GROUP, whatever else they may reach; may be
    /// repeated
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Most bytes in a second, each way, with a unit such as 10m
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    pub max_bandwidth: Option<u64>,
    /// Most packets of it in a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_packets: Option<u32>,
    /// Most connections and other flows at a time [default: 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_flows: Option<u32>,
    /// Most names that it asks for in a second [default: 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_queries: Option<u32>,
}

/// A policy in a file.
fn read_policy(path: &PathBuf) -> Result<NetworkPolicy, Failure> {
    let told = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
    toml::from_str(&text).map_err(|error| told(&error))
}

impl Options {
    /// As the API takes it; `None` if nothing is said.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn request(self) -> Result<Option<NetworkRequest>, Failure> {
        let policy = self.network_policy.as_ref().map(read_policy).transpose()?;
        let rules = self.deny.iter().map(|what| format!("deny {what}"));
        let rules: Vec<String> = rules.chain(self.allow.iter().map(|what| format!("allow {what}"))).collect();
        let only = (!self.allow.is_empty()).then(|| "none".to_owned());
        let (default, rules) = match policy {
            Some(policy) => (Some(policy.default), Some(policy.rules)),
            None => (self.network.or(only), (!rules.is_empty()).then_some(rules)),
        };
        let limits = NetworkLimits {
            bandwidth: self.max_bandwidth,
            packets: self.max_packets,
            flows: self.max_flows,
            queries: self.max_queries,
        };
        // A preset alone is whole: it takes no rules of the daemon's configuration along.
        let rules = rules.or_else(|| default.is_some().then(Vec::new));
        let request = NetworkRequest {
            default,
            rules,
            host_ports: self.host_port,
            limits,
            trust_host_cas: self.trust_host_cas,
            groups: self.group,
        };
        Ok((request != NetworkRequest::default()).then_some(request))
    }
}

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
    host: String,
    port: Option<u16>,
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

/// Executes `aegis network`.
///
/// # Errors
/// If the daemon refuses.
pub async fn network(context: &Context, command: NetworkCommand) -> Result<i32, Failure> {
    match command {
        NetworkCommand::Show(arguments) => {
            let info = context.client().network(&arguments.instance).await?;
            match arguments.format.output {
                OutputFormat::Json => output::json(&info),
                OutputFormat::Text => output::line(described(&info)),
            }
        }
        NetworkCommand::Allow(arguments) => change(context, "allow", &arguments).await,
        NetworkCommand::Deny(arguments) => change(context, "deny", &arguments).await,
        NetworkCommand::Apply(arguments) => {
            let policy = read_policy(&arguments.file)?;
            let info = context.client().set_network(&arguments.instance, &policy).await?;
            output::line(rules(&info))
        }
        NetworkCommand::Join(Membership { instance, group }) => {
            output::line(memberships(&context.client().join_group(&instance, &group).await?))
        }
        NetworkCommand::Leave(Membership { instance, group }) => {
            output::line(memberships(&context.client().leave_group(&instance, &group).await?))
        }
        NetworkCommand::Groups(format) => groups(context, &format).await,
        NetworkCommand::Check(arguments) => check(context, arguments).await,
        NetworkCommand::Log(arguments) => log(context, &arguments).await,
    }
}

async fn change(context: &Context, action: &str, arguments: &Change) -> Result<i32, Failure> {
    let mut client = context.client();
    let inward = if arguments.inward { "in " } else { "" };
    let mut code = 0;
    for what in &arguments.what {
        let info = client.prefer_rule(&arguments.instance, format!("{action} {inward}{what}")).await?;
        if arguments.what.last() == Some(what) {
            code = output::line(rules(&info))?;
        }
    }
    Ok(code)
}

async fn groups(context: &Context, format: &Format) -> Result<i32, Failure> {
    let groups = context.client().groups().await?;
    if format.output == OutputFormat::Json {
        return output::json(&groups);
    }
    if groups.is_empty() {
        return output::line("No groups.");
    }
    let rows = groups.iter().flat_map(|group| {
        group
            .members
            .iter()
            .map(|one| [format!("{}.{}", one.name, group.name), one.address.clone(), one.id.clone()])
    });
    let head = ["NAME", "ADDRESS", "INSTANCE"].map(str::to_owned);
    output::line(columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

/// The groups that an instance is in.
fn memberships(info: &NetworkInfo) -> String {
    match info.groups.as_slice() {
        [] => "in no group".to_owned(),
        places => places
            .iter()
            .map(|one| format!("in {} as {}", one.group, one.address))
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

/// The rules in their order, and what comes after them.
fn rules(info: &NetworkInfo) -> String {
    let mut lines = info.policy.rules.clone();
    lines.push(format!("otherwise: {}", info.policy.default));
    lines.join("\n")
}

fn described(info: &NetworkInfo) -> String {
    let mut rows = vec![["State".to_owned(), info.state.clone()]];
    rows.extend(info.policy.rules.iter().map(|rule| ["Rule".to_owned(), rule.clone()]));
    rows.push(["Otherwise".to_owned(), info.policy.default.clone()]);
    for port in &info.host_ports {
        rows.push(["Host port".to_owned(), format!("{port}, as host.aegis:{port}")]);
    }
    for place in &info.groups {
        rows.push(["Group".to_owned(), format!("{}, as {}", place.group, place.address)]);
    }
    if let Some(bandwidth) = info.limits.bandwidth {
        rows.push(["Bandwidth".to_owned(), format!("{bandwidth} bytes/s each way")]);
    }
    if let Some(packets) = info.limits.packets {
        rows.push(["Packets".to_owned(), format!("{packets} in a second")]);
    }
    if let Some(counters) = &info.counters {
        rows.push([
            "Out".to_owned(),
            format!("{} bytes, {} packets", counters.bytes_out, counters.packets_out),
        ]);
        rows.push(["In".to_owned(), format!("{} bytes, {} packets", counters.bytes_in, counters.packets_in)]);
        rows.push(["Flows".to_owned(), format!("{} open, {} so far", counters.open_flows, counters.flows)]);
        rows.push(["Denied".to_owned(), counters.denied.to_string()]);
        rows.push(["Limited".to_owned(), counters.limited.to_string()]);
        rows.push(["Names".to_owned(), format!("{} asked for", counters.queries)]);
        for (kind, count) in &counters.dropped {
            rows.push(["Dropped".to_owned(), format!("{count} {kind}")]);
        }
    }
    columns(&rows)
}

async fn check(context: &Context, arguments: Check) -> Result<i32, Failure> {
    let Check { instance, target, udp, format } = arguments;
    let protocol = match (target.port, udp) {
        (None, _) => "icmp",
        (_, true) => "udp",
        (_, false) => "tcp",
    };
    let request =
        CheckRequest { host: target.host, port: target.port.unwrap_or(0), protocol: protocol.to_owned() };
    let reply = context.client().check_network(&instance, &request).await?;
    let code = match format.output {
        OutputFormat::Json => output::json(&reply)?,
        OutputFormat::Text => {
            let row = |step: &aegis_api::network::CheckStep| {
                [step.action.clone(), step.what.clone(), step.because.clone()]
            };
            output::line(columns(&reply.steps.iter().map(row).collect::<Vec<_>>()))?
        }
    };
    // As `test` does: scripts ask too.
    Ok(if code == 0 && !reply.allowed { 1 } else { code })
}

async fn log(context: &Context, arguments: &Log) -> Result<i32, Failure> {
    let mut lines = context.client().network_log(&arguments.instance, arguments.follow).await?;
    let mut out = stdout();
    if arguments.format.output == OutputFormat::Json {
        while let Some(line) = lines.next_line().await? {
            if !pass_on(&mut out, &[&line[..], b"\n"].concat())? {
                return Ok(READER_GONE);
            }
        }
        return Ok(0);
    }
    while let Some(entry) = lines.next_entry().await? {
        if !pass_on(&mut out, format!("{}\n", told(&entry)).as_bytes())? {
            return Ok(READER_GONE);
        }
    }
    Ok(0)
}

fn told(entry: &NetworkEntry) -> String {
    let place = match (&entry.name, &entry.address) {
        (Some(name), Some(address)) => format!("{name} ({address})"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => "?".to_owned(),
    };
    let NetworkEntry { ts, what, protocol, port, action, because, bytes_out, bytes_in, .. } = entry;
    match what.as_str() {
        "name" => format!("{ts} {action} name {place}: {because}"),
        "end" => format!("{ts} end {protocol} {place} port {port}: {bytes_out} bytes out, {bytes_in} in"),
        _ => format!("{ts} {action} {} {protocol} {place} port {port}: {because}", entry.direction),
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
