//! What a new instance is made of, as `run` and `instance start` take it.

use aegis_api::instance::IdleTime;
use clap::{Args, ValueEnum};

use crate::arguments::host_directory;
use crate::arguments::network_settings::NetworkOptions;

use crate::arguments::value_parsers::{self, Environment, Ports};

/// When to ask the registry for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// If it is not on this host.
    Missing,
    /// Each time.
    Always,
    /// Not at all.
    Never,
}

/// What a new instance is made of.
#[derive(Debug, Args)]
pub struct Settings {
    /// Kit that fills in what is not said here: image, command, environment, ports, limits, idle times
    #[arg(long, value_name = "KIT")]
    pub kit: Option<String>,
    /// Image whose file system the instance has [default: the base root file system]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// When to ask the registry for the image [default: missing]
    #[arg(long, value_enum, value_name = "WHEN", requires = "image")]
    pub pull: Option<Pull>,
    /// Leave out the environment that the image gives
    #[arg(long, requires = "image")]
    pub no_image_env: bool,
    /// A handle: 1 to 40 of a-z, 0-9 and '-'
    #[arg(long, value_name = "HANDLE", value_parser = value_parsers::handle)]
    pub name: Option<String>,
    /// Set an environment variable; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = value_parsers::environment)]
    pub env: Vec<Environment>,
    /// Give processes the secret KEY as an environment variable, or all secrets with '*'; may be repeated
    #[arg(long, value_name = "KEY")]
    pub secret: Vec<String>,
    /// Directory of this host to see at /workspace: the name of a workspace, made at its first use, or a path, which
    /// contains '/' or begins with '.' or '~'; with :ro only to read [default: one of its own, deleted with it]
    #[arg(long, value_name = "NAME|PATH[:ro]", value_parser = host_directory::wanted)]
    pub workspace: Option<host_directory::Wanted>,
    /// Most that may be in the workspace, in MiB or with a unit such as 2g
    #[arg(long, value_name = "SIZE", value_parser = value_parsers::disk, requires = "workspace")]
    pub workspace_quota: Option<u64>,
    /// Another directory of this host to see, a name or path as with --workspace; may be repeated
    #[arg(long, value_name = "HOST:GUEST[:ro]", value_parser = host_directory::mount)]
    pub mount: Vec<host_directory::WantedMount>,
    /// What it may reach.
    #[command(flatten)]
    pub network: NetworkOptions,
    /// Memory, in MiB or with a unit such as 2g [default: 512]
    #[arg(long, value_name = "SIZE", value_parser = value_parsers::memory)]
    pub memory: Option<u32>,
    /// Virtual processors [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: Option<u32>,
    /// Size of the instance's disk, in MiB or with a unit such as 20g [default: 10g]
    #[arg(long, value_name = "SIZE", value_parser = value_parsers::disk)]
    pub disk: Option<u64>,
    /// Working directory [default: /workspace]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User in the guest, NAME or UID, with an optional :GROUP [default: root]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Stop the command after this time, e.g. 30s, 5m, 1h
    #[arg(long, value_name = "DURATION", value_parser = value_parsers::duration_ms)]
    pub timeout: Option<u64>,
    /// Disable the instance for good this long after its creation, however it is used
    #[arg(long, value_name = "DURATION", value_parser = value_parsers::duration_ms)]
    pub max_lifetime: Option<u64>,
    /// Boot its machines, even where a template would start them sooner
    #[arg(long)]
    pub no_template: bool,
    /// Make a port of the guest reachable: [[ADDRESS:]PUBLIC:]GUEST[/PROTOCOL], protocol http, tcp, grpc or ws; ranges
    /// too; may be repeated
    #[arg(long, value_name = "PORT", value_parser = value_parsers::ports)]
    pub expose: Vec<Ports>,
    /// Pause after this time without use, or never [default: 60s with ports, else never]
    #[arg(long, value_name = "DURATION", value_parser = value_parsers::idle)]
    pub idle_pause: Option<IdleTime>,
    /// Put the machine on disk after this time of pause, or never [default: 10m with ports, else never]
    #[arg(long, value_name = "DURATION", value_parser = value_parsers::idle)]
    pub idle_hibernate: Option<IdleTime>,
    /// Stop after this time of pause, or never [default: 20m with ports, else never]
    #[arg(long, value_name = "DURATION", value_parser = value_parsers::idle)]
    pub idle_stop: Option<IdleTime>,
    /// Let a connection that has been silent for this time count as use no more [default: never]
    #[arg(long, value_name = "DURATION", value_parser = value_parsers::idle)]
    pub idle_connections_after: Option<IdleTime>,
}
