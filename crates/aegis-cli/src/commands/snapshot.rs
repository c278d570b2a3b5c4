//! `aegis snapshot` and `aegis fork`.

use aegis_api::snapshot::{ForkRequest, Snapshot, SnapshotRequest};

use crate::arguments::format::{Format, OutputFormat};
use crate::arguments::snapshot::{Create, Fork, Name, SnapshotCommand};
use crate::byte_size::size;
use crate::failure::Failure;
use crate::render::{self, columns};
use crate::{Context, output};

/// Does what is to be done with snapshots.
///
/// # Errors
/// If the daemon cannot be asked, or refuses.
pub async fn snapshot(context: &Context, command: SnapshotCommand) -> Result<i32, Failure> {
    match command {
        SnapshotCommand::Create(arguments) => create(context, arguments).await,
        SnapshotCommand::List(format) => list(context, &format).await,
        SnapshotCommand::Info(name) => info(context, &name).await,
        SnapshotCommand::Delete(names) => {
            let mut client = context.client();
            output::each(&names.names, async |name| {
                client.delete_snapshot(name).await.map(|_| format!("Snapshot {name} deleted"))
            })
            .await
        }
        SnapshotCommand::Restore(name) => restore(context, &name).await,
    }
}

async fn create(context: &Context, arguments: Create) -> Result<i32, Failure> {
    let request = SnapshotRequest {
        instance: arguments.instance.clone(),
        name: arguments.name,
        disk_only: arguments.disk_only,
        with_secrets: arguments.with_secrets,
    };
    let taken = context.client().take_snapshot(&request).await?;
    if arguments.format.output == OutputFormat::Json {
        return output::json(&taken);
    }
    output::line(format!("Snapshot {} of {} taken: {}", taken.name, arguments.instance, contents(&taken)))
}

/// What is in a snapshot.
fn contents(snapshot: &Snapshot) -> String {
    let disk = format!("disk {}", size(snapshot.disk_bytes));
    match snapshot.memory_bytes {
        Some(bytes) => format!("{disk}, memory {}", size(bytes)),
        None => disk,
    }
}

async fn list(context: &Context, format: &Format) -> Result<i32, Failure> {
    let all = context.client().snapshots().await?;
    if format.output == OutputFormat::Json {
        return output::json(&all);
    }
    if all.is_empty() {
        return output::line("No snapshots.");
    }
    let row = |one: &Snapshot| {
        let of = one.handle.as_ref().unwrap_or(&one.instance);
        let memory = one.memory_bytes.map_or_else(|| "-".to_owned(), size);
        [one.name.clone(), of.clone(), size(one.disk_bytes), memory, one.created_at.clone()]
    };
    let head = ["NAME", "INSTANCE", "DISK", "MEMORY", "CREATED"].map(str::to_owned);
    output::line(columns(&std::iter::once(head).chain(all.iter().map(row)).collect::<Vec<_>>()))
}

async fn info(context: &Context, name: &Name) -> Result<i32, Failure> {
    let found = context.client().snapshot(&name.name).await?;
    if name.format.output == OutputFormat::Json {
        return output::json(&found);
    }
    let of = found.handle.as_ref().map_or(found.instance.clone(), |of| format!("{of} ({})", found.instance));
    let memory = found.memory_bytes.map_or_else(|| "none".to_owned(), size);
    let rows = [
        ["Name".to_owned(), found.name],
        ["Instance".to_owned(), of],
        ["Disk".to_owned(), size(found.disk_bytes)],
        ["Memory".to_owned(), memory],
        ["Created".to_owned(), found.created_at],
    ];
    output::line(columns(&rows))
}

async fn restore(context: &Context, name: &Name) -> Result<i32, Failure> {
    let restored = context.client().restore_snapshot(&name.name).await?;
    if name.format.output == OutputFormat::Json {
        return output::json(&restored);
    }
    output::line(format!("Snapshot {} restored: {} is {}", name.name, restored.id, restored.status))
}

/// Forks an instance.
///
/// # Errors
/// If the daemon cannot be asked, or refuses.
pub async fn fork(context: &Context, arguments: Fork) -> Result<i32, Failure> {
    let request = ForkRequest {
        count: Some(arguments.count),
        prefix: arguments.name,
        exposes: arguments.expose.into_iter().flat_map(|ports| ports.0).collect(),
        share_workspace: arguments.share_workspace,
        with_secrets: arguments.with_secrets,
    };
    let forked = context.client().fork(&arguments.instance, &request).await?;
    if arguments.format.output == OutputFormat::Json {
        return output::json(&forked);
    }
    let mut lines = Vec::new();
    for child in &forked.instances {
        lines.push(format!("Instance started: {}", child.handle.as_ref().unwrap_or(&child.id)));
        lines.extend(child.endpoints.iter().map(render::endpoint));
    }
    output::line(lines.join("\n"))
}
