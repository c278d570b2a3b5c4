//! `aegis network`, and the options that say what a new instance may reach.

use std::io::stdout;

use aegis_api::network::{CheckRequest, NetworkEntry, NetworkInfo};

use crate::Context;
use crate::arguments::format::{Format, OutputFormat};
use crate::arguments::network::{Change, Check, Log, Membership, NetworkCommand};
use crate::arguments::network_settings::read_policy;
use crate::failure::Failure;
use crate::output::{self, READER_GONE, pass_on};
use crate::render::columns;

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
