//! `aegis instance`.

use std::ffi::OsString;

use aegis_api::instance::Restart;
use clap::{Args, Subcommand};

use crate::arguments::format::Format;
use crate::arguments::instance_settings::Settings;
use crate::arguments::value_parsers::{self, Ports};

/// What to do with instances.
#[derive(Debug, Subcommand)]
pub enum InstanceCommand {
    /// Create and start an instance; or start an existing one, given its --name alone
    Start(Box<Start>),
    /// List instances
    List(List),
    /// Describe an instance
    Info(Info),
    /// Stop instances; they stay enabled
    Stop(Names),
    /// Stop instances; only an explicit start boots them again
    Disable(Names),
    /// Delete instances with everything that is stored of them
    Delete(Names),
    /// Make instances stand still, keeping their memory
    Pause(Names),
    /// Put instances on disk with their memory, from where they go on
    Hibernate(Names),
    /// Let paused or hibernated instances go on
    Resume(Names),
    /// Stop and start instances
    Restart(Names),
    /// Delete instances that have been stopped for long
    Prune(Prune),
    /// Make ports of an instance reachable from the host, whatever state it is in
    Expose(Expose),
    /// Withdraw ports of an instance; open connections go on
    Unexpose(Unexpose),
}

/// Options of `instance start`.
#[derive(Debug, Args)]
pub struct Start {
    /// The instance.
    #[command(flatten)]
    pub settings: Settings,
    /// Execute the command again after its end: no, on-failure, on-failure:N or always [default: no]
    #[arg(long, value_name = "POLICY", value_parser = value_parsers::restart)]
    pub restart: Option<Restart>,
    /// Go on from a snapshot, as another instance with the same settings
    #[arg(long, value_name = "SNAPSHOT")]
    pub from: Option<String>,
    /// With --from: see the same directories of this host as the instance that it was taken of
    #[arg(long, requires = "from")]
    pub share_workspace: bool,
    /// The command and its arguments; none to start an existing instance
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Options of `instance list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only those with a machine: starting, running, paused
    #[arg(long, conflicts_with = "stopped")]
    pub running: bool,
    /// Only those without: stopped, disabled or not
    #[arg(long)]
    pub stopped: bool,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `instance info`.
#[derive(Debug, Args)]
pub struct Info {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `instance prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Only those that have been stopped for at least this time, e.g. 12h, 7d
    #[arg(long, value_name = "DURATION", value_parser = value_parsers::duration)]
    pub stopped_older_than: String,
    /// Also those that are enabled and have ports, which a connection would wake
    #[arg(long)]
    pub all: bool,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `instance expose`.
#[derive(Debug, Args)]
pub struct Expose {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// [[ADDRESS:]PUBLIC:]GUEST[/PROTOCOL], protocol http, tcp, grpc or ws
    #[arg(required = true, value_name = "PORT", value_parser = value_parsers::ports)]
    pub ports: Vec<Ports>,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `instance unexpose`.
#[derive(Debug, Args)]
pub struct Unexpose {
    /// Handle or id
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// Ports in the guest
    #[arg(required = true, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
}

/// One or more instances.
#[derive(Debug, Args)]
pub struct Names {
    /// Handles or ids
    #[arg(required = true, value_name = "INSTANCE")]
    pub instances: Vec<String>,
}
