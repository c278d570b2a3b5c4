//! `aegis stats`.

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use aegis_api::status::InstanceStats;

use crate::arguments::format::OutputFormat;
use crate::arguments::observe::Stats;
use crate::failure::Failure;
use crate::render::columns;
use crate::{Context, output};

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Moves the cursor home and clears what is below it (ECMA-48: CUP, ED).
const REDRAW: &str = "\x1b[H\x1b[J";
/// Clears the screen.
const CLEAR: &str = "\x1b[2J";

/// Shows what instances use: again and again on a terminal, else once.
///
/// # Errors
/// If the daemon cannot be asked.
pub async fn stats(context: &Context, arguments: &Stats) -> Result<i32, Failure> {
    let mut client = context.client();
    let wanted = |all: Vec<InstanceStats>| -> Vec<InstanceStats> {
        let named = |one: &InstanceStats| {
            let name = |name: &String| *name == one.id || Some(name) == one.handle.as_ref();
            arguments.instances.is_empty() || arguments.instances.iter().any(name)
        };
        all.into_iter().filter(named).collect()
    };
    let mut before = wanted(client.stats().await?);
    if arguments.format.output == OutputFormat::Json {
        return output::json(&before);
    }
    let live = !arguments.no_stream && stdout().is_terminal();
    let mut looked = Instant::now();
    if live {
        output::bytes(CLEAR.as_bytes())?;
    }
    loop {
        tokio::time::sleep(PERIOD).await;
        let now = wanted(client.stats().await?);
        let text = table(&before, &now, looked.elapsed());
        looked = Instant::now();
        if live {
            output::bytes(REDRAW.as_bytes())?;
        }
        let code = output::line(text)?;
        if !live || code != 0 {
            return Ok(code);
        }
        before = now;
    }
}

/// A size with a unit that leaves at most four digits.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// Processor time between two looks, in percent of one processor.
fn cpu(before: Option<&InstanceStats>, now: &InstanceStats, between: Duration) -> String {
    let used = before.map_or(0, |before| now.cpu_ms.saturating_sub(before.cpu_ms));
    let tenths = u128::from(used) * 1000 / between.as_millis().max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn table(before: &[InstanceStats], now: &[InstanceStats], between: Duration) -> String {
    let old: HashMap<&str, &InstanceStats> = before.iter().map(|one| (one.id.as_str(), one)).collect();
    let head =
        ["INSTANCE", "STATE", "CPU", "MEMORY", "DISK", "NET IN", "NET OUT", "CONNS"].map(str::to_owned);
    let row = |one: &InstanceStats| {
        [
            one.handle.clone().unwrap_or_else(|| one.id.clone()),
            one.state.as_str().to_owned(),
            cpu(old.get(one.id.as_str()).copied(), one, between),
            format!("{} / {}", size(one.memory_bytes), size(one.memory_limit_bytes)),
            format!("{} / {}", size(one.disk_bytes), size(one.disk_limit_bytes)),
            size(one.received_bytes + one.network.as_ref().map_or(0, |network| network.bytes_in)),
            size(one.sent_bytes + one.network.as_ref().map_or(0, |network| network.bytes_out)),
            one.connections.to_string(),
        ]
    };
    columns(&std::iter::once(head).chain(now.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use aegis_api::instance::State;

    use super::*;

    #[test]
    fn a_table_shows_what_was_used_between_two_looks() {
        let before = InstanceStats {
            id: "inst-1".into(),
            handle: Some("web".into()),
            state: State::Running,
            cpu_ms: 1000,
            vcpus: 1,
            memory_bytes: 90 << 20,
            memory_limit_bytes: 512 << 20,
            disk_bytes: 1536,
            disk_limit_bytes: 10 << 30,
            received_bytes: 12,
            sent_bytes: 2048,
            connections: 1,
            network: None,
        };
        let now = InstanceStats { cpu_ms: 1250, ..before.clone() };
        let expected = "\
INSTANCE  STATE    CPU     MEMORY                DISK                NET IN  NET OUT  CONNS
web       running  25.0 %  90.0 MiB / 512.0 MiB  1.5 KiB / 10.0 GiB  12 B    2.0 KiB  1";
        assert_eq!(table(&[before], &[now], Duration::from_secs(1)), expected);
    }
}
