//! Instances as text.

use std::borrow::Cow;

use aegis_api::instance::{Instance, PruneReply, State};
use aegis_api::ports::EndpointInfo;

use crate::text;

fn state(instance: &Instance) -> String {
    let word = instance.state.as_str();
    if instance.state == State::Stopped && !instance.enabled {
        format!("{word} (disabled)")
    } else {
        word.to_owned()
    }
}

/// Texts in columns; the last is not padded.
#[must_use]
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[Cow<'_, str>; N]> =
        rows.iter().map(|row| std::array::from_fn(|column| text::field(&row[column]))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[Cow<'_, str>; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A table of instances.
#[must_use]
pub fn list(instances: &[Instance]) -> String {
    if instances.is_empty() {
        return "No instances".to_owned();
    }
    let head = ["ID", "HANDLE", "STATE", "CONNS"].map(str::to_owned);
    let rows = instances.iter().map(|instance| {
        let handle = instance.handle.clone().unwrap_or_else(|| "-".to_owned());
        [instance.id.clone(), handle, state(instance), instance.active_connections.to_string()]
    });
    columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// A command as a shell would take it.
pub fn shell_line(command: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let quote = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Where a client finds a port.
#[must_use]
pub fn url(endpoint: &EndpointInfo) -> String {
    let scheme = match endpoint.protocol.as_str() {
        "grpc" => "http",
        other => other,
    };
    let socket = endpoint.socket();
    if scheme == "tcp" { format!("tcp://{socket}") } else { format!("{scheme}://{socket}/") }
}

/// A port of the guest and where it is found.
#[must_use]
pub fn endpoint(one: &EndpointInfo) -> String {
    let problem = one.problem.as_ref().map(|problem| format!(" — closed: {problem}")).unwrap_or_default();
    format!(":{} → {} ({}){problem}", one.guest_port, one.socket(), one.protocol)
}

/// What became of old instances.
#[must_use]
pub fn pruned(reply: &PruneReply) -> String {
    let mut text = match reply.pruned {
        1 => "Pruned 1 stopped instance".to_owned(),
        count => format!("Pruned {count} stopped instances"),
    };
    for id in &reply.skipped {
        text = format!("{text}\nLeft {id}: it sleeps until somebody connects; delete it, too, with --all");
    }
    text
}

/// A description of an instance.
#[must_use]
pub fn info(instance: &Instance) -> String {
    let or_dash =
        |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
    let ports = instance.endpoints.iter().map(|endpoint| endpoint.guest_port.to_string()).collect::<Vec<_>>();
    let endpoints = instance.endpoints.iter().map(|one| format!("\n  {}", endpoint(one))).collect::<String>();
    let next = instance.next_step.as_ref().map(|next| format!("{} at {}", next.action, next.at));
    let again = instance.restart_at.as_ref().map(|at| format!("restart at {at}"));
    let next = next.or(again);
    let fields: [(&str, String); 26] = [
        ("ID", instance.id.clone()),
        ("State", instance.state.as_str().to_owned()),
        ("Handle", or_dash(instance.handle.clone())),
        ("Command", shell_line(&instance.command)),
        ("Ports", or_dash(Some(ports.join(", ")))),
        ("Endpoints", or_dash(Some(endpoints))),
        ("Connections", instance.active_connections.to_string()),
        ("Created", instance.created_at.clone()),
        ("Last Active", instance.last_active_at.clone()),
        ("Enabled", if instance.enabled { "yes" } else { "no" }.to_owned()),
        ("Image", or_dash(instance.image.clone())),
        ("Workspace", or_dash(instance.workspace.clone())),
        ("Secrets", or_dash(Some(instance.secret_keys.join(", ")))),
        ("Kit", or_dash(instance.kit.clone())),
        ("Exit code", or_dash(instance.exit_code.map(|code| code.to_string()))),
        ("Reason", or_dash(instance.stop_reason.as_ref().map(|reason| reason.message.clone()))),
        ("Router", or_dash(instance.url.clone())),
        ("Since", instance.state_since.clone()),
        ("Next step", or_dash(next)),
        ("Awake for", or_dash(Some(instance.kept_awake_by.join(", ")))),
        ("Restart", instance.restart.into()),
        ("Lives until", or_dash(instance.lifetime_ends_at.clone())),
        ("Condition", or_dash(instance.condition.clone())),
        ("Confinement", or_dash(instance.confinement.clone())),
        ("Disk", disk(instance)),
        ("Pid", or_dash(instance.pid.map(|pid| pid.to_string()))),
    ];
    let line = |(label, value): &(&str, String)| {
        let label = format!("{label}:");
        // Only endpoints take several lines.
        let value = if label == "Endpoints:" { text::lines(value) } else { text::field(value) };
        format!("{label:<13}{value}")
    };
    fields.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How large the disk is, and how full if its guest says so. Of files only when they are about to run out before the room.
fn disk(instance: &Instance) -> String {
    let size = format!("{} MiB", instance.disk_mb);
    let Some(usage) = &instance.disk_usage else { return size };
    let percent = |used: u64, total: u64| {
        let rounded_up = (u128::from(used) * 100).div_ceil(u128::from(total.max(1)));
        u8::try_from(rounded_up).unwrap_or(100).min(100)
    };
    let full = percent(usage.used_bytes, usage.total_bytes);
    let files = percent(usage.used_inodes, usage.total_inodes);
    let files = if files > full { format!(", {files}% of its files") } else { String::new() };
    format!("{size}, {full}% full{files}")
}

#[cfg(test)]
mod tests {
    use aegis_api::instance::{DiskUsage, Restart};
    use aegis_api::network::NetworkPolicy;

    use super::*;

    fn sample() -> Instance {
        Instance {
            id: "inst-1".into(),
            handle: Some("web".into()),
            state: State::Stopped,
            enabled: false,
            command: vec!["sh".into(), "-c".into(), "echo it's".into()],
            command_base64: Vec::new(),
            active_connections: 0,
            endpoints: vec![],
            url: None,
            state_since: "2026-01-02T03:04:05Z".into(),
            next_step: None,
            kept_awake_by: vec![],
            restart: Restart::No,
            lifetime_ends_at: None,
            restart_at: None,
            condition: None,
            created_at: "2026-01-02T03:04:05Z".into(),
            updated_at: "2026-01-02T03:04:05Z".into(),
            last_active_at: "2026-01-02T03:04:06Z".into(),
            started_at: None,
            timings: None,
            stopped_at: None,
            exit_code: Some(3),
            stop_reason: None,
            memory_mb: 512,
            vcpus: 1,
            disk_mb: 1024,
            workdir: "/workspace".into(),
            user: "root".into(),
            env_keys: vec![],
            ephemeral: false,
            image: None,
            image_digest: None,
            workspace: None,
            mounts: Vec::new(),
            network: NetworkPolicy::default(),
            secret_keys: vec![],
            kit: None,
            confinement: Some("seccomp, landlock 6, namespaces –, cgroup –".into()),
            disk_usage: None,
            pid: None,
        }
    }

    #[test]
    fn a_list_has_its_columns_in_order() {
        let other = Instance { id: "inst-22".into(), handle: None, enabled: true, ..sample() };
        let expected = "\
ID       HANDLE  STATE               CONNS
inst-1   web     stopped (disabled)  0
inst-22  -       stopped             0";
        assert_eq!(list(&[sample(), other]), expected);
        assert_eq!(list(&[]), "No instances");
    }

    #[test]
    fn a_port_is_shown_with_where_it_is_found() {
        let mut one = EndpointInfo {
            guest_port: 80,
            public_port: 49152,
            address: "127.0.0.1".into(),
            protocol: "http".into(),
            problem: None,
        };
        assert_eq!(endpoint(&one), ":80 → 127.0.0.1:49152 (http)");
        assert_eq!(url(&one), "http://127.0.0.1:49152/");
        one.problem = Some("taken by nc".into());
        one.protocol = "tcp".into();
        one.address = "::1".into();
        assert_eq!(endpoint(&one), ":80 → [::1]:49152 (tcp) — closed: taken by nc");
        assert_eq!(url(&one), "tcp://[::1]:49152");
    }

    #[test]
    fn a_description_has_its_lines_in_order() {
        let expected = "\
ID:          inst-1
State:       stopped
Handle:      web
Command:     sh -c 'echo it'\\''s'
Ports:       -
Endpoints:   -
Connections: 0
Created:     2026-01-02T03:04:05Z
Last Active: 2026-01-02T03:04:06Z
Enabled:     no
Image:       -
Workspace:   -
Secrets:     -
Kit:         -
Exit code:   3
Reason:      -
Router:      -
Since:       2026-01-02T03:04:05Z
Next step:   -
Awake for:   -
Restart:     no
Lives until: -
Condition:   -
Confinement: seccomp, landlock 6, namespaces –, cgroup –
Disk:        1024 MiB
Pid:         -";
        assert_eq!(info(&sample()), expected);
    }

    #[test]
    fn a_disk_says_how_full_it_is_and_of_files_when_they_run_out_first() {
        let full = |used_bytes, used_inodes| {
            let usage = DiskUsage { used_bytes, total_bytes: 1000, used_inodes, total_inodes: 100 };
            disk(&Instance { disk_usage: Some(usage), ..sample() })
        };
        assert_eq!(full(421, 10), "1024 MiB, 43% full");
        assert_eq!(full(1000, 100), "1024 MiB, 100% full");
        assert_eq!(full(10, 99), "1024 MiB, 1% full, 99% of its files");
        assert_eq!(full(u64::MAX, 0), "1024 MiB, 100% full");
    }
}
