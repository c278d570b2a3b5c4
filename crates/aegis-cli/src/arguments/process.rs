//! `aegis run`, `aegis exec` and `aegis cp`.

use std::ffi::OsString;

use clap::Args;

use crate::arguments::instance_settings::Settings;
use crate::arguments::value_parsers::{self, Environment};

/// Connection of the terminal.
#[derive(Debug, Clone, Copy, Args)]
pub struct Interaction {
    /// Connect standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The instance.
    #[command(flatten)]
    pub settings: Settings,
    /// Its streams.
    #[command(flatten)]
    pub interaction: Interaction,
    /// Say at the end where the time went
    #[arg(long)]
    pub timings: bool,
    /// The command and its arguments
    #[arg(last = true, required_unless_present = "kit", value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Options of `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Its streams.
    #[command(flatten)]
    pub interaction: Interaction,
    /// Return when the command has been executed; its output goes to the log, and it goes on for as
    /// long as the instance is awake, which one with ports is only while somebody uses it
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub detach: bool,
    /// Set an environment variable; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = value_parsers::environment)]
    pub env: Vec<Environment>,
    /// Working directory [default: the instance's]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User in the guest [default: the instance's]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// End the command after this time, e.g. 30s, 5m, 1h
    #[arg(long, value_name = "DURATION", value_parser = value_parsers::duration_ms)]
    pub timeout: Option<u64>,
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Options of `cp`.
#[derive(Debug, Args)]
pub struct Copy {
    /// PATH, or INSTANCE:PATH; of a directory that ends with /. its contents
    #[arg(value_name = "SOURCE")]
    pub source: OsString,
    /// INSTANCE:PATH, or PATH; a directory is copied into, anything else is replaced
    #[arg(value_name = "DESTINATION")]
    pub destination: OsString,
}
