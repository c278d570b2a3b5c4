//! `aegis workspace`, and the values of `--workspace` and `--mount`.

use aegis_api::workspace::Workspace;

use crate::arguments::format::{Format, OutputFormat};
use crate::arguments::workspace::{WorkspaceName, WorkspaceNames};
use crate::byte_size::size;
use crate::failure::Failure;
use crate::render::columns;
use crate::{Context, output};

/// Lists workspaces.
///
/// # Errors
/// If the daemon cannot be asked.
pub async fn list(context: &Context, format: Format) -> Result<i32, Failure> {
    let all = context.client().workspaces().await?;
    match format.output {
        OutputFormat::Json => output::json(&all),
        OutputFormat::Text if all.is_empty() => output::line("No workspaces"),
        OutputFormat::Text => {
            let head = ["WORKSPACE", "USED BY", "PATH"].map(str::to_owned);
            let rows = all.iter().map(|one| [one.name.clone(), users(one), one.path.clone()]);
            output::line(columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
        }
    }
}

fn users(workspace: &Workspace) -> String {
    if workspace.used_by.is_empty() { "-".to_owned() } else { workspace.used_by.join(", ") }
}

/// Makes an empty workspace.
///
/// # Errors
/// If there is one of that name, or the name is none.
pub async fn create(context: &Context, name: &WorkspaceName) -> Result<i32, Failure> {
    let made = context.client().create_workspace(&name.name).await?;
    match name.format.output {
        OutputFormat::Json => output::json(&made),
        OutputFormat::Text => output::line(format!("Workspace {} created", made.name)),
    }
}

/// Describes a workspace.
///
/// # Errors
/// If there is none of that name.
pub async fn info(context: &Context, name: &WorkspaceName) -> Result<i32, Failure> {
    let found = context.client().workspace(&name.name).await?;
    if name.format.output == OutputFormat::Json {
        return output::json(&found);
    }
    output::line(format!(
        "Name:     {}\nPath:     {}\nUsed by:  {}\nEntries:  {}\nSize:     {}",
        found.name,
        found.path,
        users(&found),
        found.entries.unwrap_or(0),
        size(found.bytes.unwrap_or(0)),
    ))
}

/// Removes workspaces. All are tried.
///
/// # Errors
/// If standard output cannot be written.
pub async fn remove(context: &Context, names: &WorkspaceNames) -> Result<i32, Failure> {
    let mut client = context.client();
    output::each(&names.names, async |name| {
        client.remove_workspace(name).await.map(|_| format!("Workspace {name} removed"))
    })
    .await
}
