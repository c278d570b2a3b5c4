//! `aegis logs`, `aegis events` and `aegis stats`.

use clap::Args;

use crate::arguments::format::Format;
use crate::arguments::value_parsers;

/// Options of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// Go on with what comes, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only about the last N lines
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,
    /// Only what came since then: a duration such as 10m, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = value_parsers::since)]
    pub since: Option<String>,
    /// Begin each line with who wrote it: out| and err| are the command's
    #[arg(long, conflicts_with = "output")]
    pub prefix: bool,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Go on with what happens, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only those after the event of this number; with --follow none between is lost
    #[arg(long, value_name = "NUMBER")]
    pub after: Option<u64>,
    /// Only those of this instance: handle or id, also of a deleted one
    #[arg(value_name = "INSTANCE")]
    pub instance: Option<String>,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Handles or ids; none for all
    #[arg(value_name = "INSTANCE")]
    pub instances: Vec<String>,
    /// Show it once, also on a terminal
    #[arg(long)]
    pub no_stream: bool,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}
