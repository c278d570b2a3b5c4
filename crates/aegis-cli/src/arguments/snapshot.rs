//! `aegis snapshot` and `aegis fork`.

use clap::{Args, Subcommand};

use crate::arguments::format::Format;
use crate::arguments::value_parsers::{self, Ports};

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot of an instance: its disk and, if it is not stopped, its memory
    Create(Create),
    /// List snapshots
    List(Format),
    /// Describe a snapshot
    Info(Name),
    /// Delete snapshots; what was started from them goes on
    Delete(Names),
    /// Put the instance that a snapshot was taken of back to where it was then; what it has done since is lost
    Restore(Name),
}

/// Options of `snapshot create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Leave its memory out: what is started from the snapshot boots
    #[arg(long)]
    pub disk_only: bool,
    /// Let the secrets that are in its memory be in the snapshot
    #[arg(long, conflicts_with = "disk_only")]
    pub with_secrets: bool,
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// Name of the snapshot, spelled like a handle [default: INSTANCE-NUMBER]
    #[arg(value_name = "NAME", value_parser = value_parsers::handle)]
    pub name: Option<String>,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// One snapshot.
#[derive(Debug, Args)]
pub struct Name {
    /// Its name
    #[arg(value_name = "SNAPSHOT")]
    pub name: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// One or more snapshots.
#[derive(Debug, Args)]
pub struct Names {
    /// Names
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub names: Vec<String>,
}

/// Options of `fork`.
#[derive(Debug, Args)]
pub struct Fork {
    /// How many children
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub count: u32,
    /// What their handles begin with; they are PREFIX-1, PREFIX-2 and so on [default: the instance's handle]
    #[arg(long, value_name = "PREFIX", value_parser = value_parsers::handle)]
    pub name: Option<String>,
    /// Make a port of each child reachable: [[ADDRESS:]PUBLIC:]GUEST[/PROTOCOL]; may be repeated [default: none]
    #[arg(long, value_name = "PORT", value_parser = value_parsers::ports)]
    pub expose: Vec<Ports>,
    /// Let them see the same directories of this host, at the same time
    #[arg(long)]
    pub share_workspace: bool,
    /// Let them have the secrets that are in the instance's memory
    #[arg(long)]
    pub with_secrets: bool,
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}
