//! `aegis workspace`.

use clap::{Args, Subcommand};

use crate::arguments::format::Format;

/// What to do with workspaces.
#[derive(Debug, Subcommand)]
pub enum WorkspaceCommand {
    /// List workspaces
    List(Format),
    /// Make an empty workspace; one that an instance names is made by itself
    Create(WorkspaceName),
    /// Describe a workspace
    Info(WorkspaceName),
    /// Remove workspaces that no instance sees, with all that is in them
    Remove(WorkspaceNames),
}

/// One workspace.
#[derive(Debug, Args)]
pub struct WorkspaceName {
    /// Its name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// One or more workspaces.
#[derive(Debug, Args)]
pub struct WorkspaceNames {
    /// Names
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}
