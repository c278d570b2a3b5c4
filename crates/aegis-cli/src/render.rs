//! Instances as text.

use aegis_api::instance::{Instance, State};

fn state(instance: &Instance) -> String {
    let word = instance.state.as_str();
    if instance.state == State::Stopped && !instance.enabled {
        format!("{word} (disabled)")
    } else {
        word.to_owned()
    }
}

/// Texts in columns; the last is not padded.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
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
fn shell_line(command: &[String]) -> String {
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

/// A description of an instance.
#[must_use]
pub fn info(instance: &Instance) -> String {
    let or_dash =
        |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
    let ports = instance.endpoints.iter().map(|endpoint| endpoint.guest_port.to_string()).collect::<Vec<_>>();
    let endpoints = instance
        .endpoints
        .iter()
        .map(|one| format!("\n  :{} → :{} ({})", one.guest_port, one.public_port, one.protocol))
        .collect::<String>();
    let fields: [(&str, String); 16] = [
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
    ];
    let line = |(label, value): &(&str, String)| {
        let label = format!("{label}:");
        format!("{label:<13}{value}")
    };
    fields.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Instance {
        Instance {
            id: "inst-1".into(),
            handle: Some("web".into()),
            state: State::Stopped,
            enabled: false,
            command: vec!["sh".into(), "-c".into(), "echo it's".into()],
            active_connections: 0,
            endpoints: vec![],
            created_at: "2026-01-02T03:04:05Z".into(),
            updated_at: "2026-01-02T03:04:05Z".into(),
            last_active_at: "2026-01-02T03:04:06Z".into(),
            started_at: None,
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
            workspace: None,
            secret_keys: vec![],
            kit: None,
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
Reason:      -";
        assert_eq!(info(&sample()), expected);
    }
}
