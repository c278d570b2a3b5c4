//! The commands and their options. Help, completions, man pages and docs/CLI.md are made from this.

use std::ffi::OsString;
use std::path::PathBuf;

use aegis_api::instance::Restart;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::network::NetworkCommand;
pub use crate::settings::{Pull, Settings};
use crate::snapshot::{Fork, SnapshotCommand};
use crate::template::TemplateCommand;
use crate::values::{self, Environment, Ports};

/// Runs commands in microVMs of their own.
#[derive(Debug, Parser)]
#[command(name = "aegis", version, infer_subcommands = false, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the daemon
    Up,
    /// Stop the daemon, and all instances gracefully
    Down(Down),
    /// Show whether the daemon runs, and on what
    Status(Format),
    /// Look whether this machine has what Aegis needs
    Doctor(Format),
    /// Print the version
    Version,
    /// Run a command in a machine that ends with it
    Run(Box<Run>),
    /// Execute a command in an instance, resuming it if it is paused
    Exec(Exec),
    /// Copy files and trees between this host and an instance, whether it runs, is paused or stopped. Exits with 24 if
    /// files went meanwhile and are left out, with 23 if some could not be read
    Cp(Copy),
    /// Show an instance's log
    Logs(Logs),
    /// Show what happened to instances: all that is kept, or with --follow what happens from now on
    Events(Events),
    /// Show what instances use: processor, memory, disk, network, connections
    Stats(Stats),
    /// Manage instances
    Instance {
        /// What to do with them.
        #[command(subcommand)]
        command: InstanceCommand,
    },
    /// Show and change what instances may reach
    Network {
        /// What to do with it.
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Manage images
    Image {
        /// What to do with them.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Manage secrets
    Secret {
        /// What to do with them.
        #[command(subcommand)]
        command: SecretCommand,
    },
    /// Manage workspaces: directories of this host that instances see
    Workspace {
        /// What to do with them.
        #[command(subcommand)]
        command: WorkspaceCommand,
    },
    /// Make running instances of one as it stands, which share its memory until they write to it
    Fork(Fork),
    /// Manage snapshots: instances as they stood, from which others go on
    Snapshot {
        /// What to do with them.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Manage templates: machines that have just come up, from which others are started
    Template {
        /// What to do with them.
        #[command(subcommand)]
        command: TemplateCommand,
    },
    /// Show kits: presets for instances
    Kit {
        /// What to do with them.
        #[command(subcommand)]
        command: KitCommand,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages to a directory
    Man {
        /// The directory.
        dir: PathBuf,
    },
    /// Print the reference of all commands as Markdown
    #[command(hide = true)]
    MarkdownHelp,
}

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

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Fetch an image from its registry, or look there for a newer one
    Pull(ImagePull),
    /// List images
    List(Format),
    /// Describe an image
    Info(ImageInfo),
    /// Take names of images away, and the images with their last names
    Remove(ImageNames),
    /// Remove images without names that no instance needs
    Prune(ImagePrune),
    /// Take over images from an archive: of `docker save`, or an OCI layout; plain or compressed
    Load(ImageLoad),
    /// Write images as an archive, which `docker load` takes too
    Save(ImageSave),
}

/// What to do with secrets.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set a secret; asks for the value if none is given
    Set(SecretSet),
    /// List the names of secrets
    List(Format),
    /// Delete secrets
    Delete(SecretKeys),
    /// Seal all secrets anew with a new master key
    Rekey,
}

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

/// What to do with kits.
#[derive(Debug, Subcommand)]
pub enum KitCommand {
    /// List kits, broken ones with what is wrong
    List(Format),
    /// Describe a kit
    Info(KitName),
    /// Check a manifest, wherever it is
    Validate(KitPath),
}

/// One kit.
#[derive(Debug, Args)]
pub struct KitName {
    /// Its name
    #[arg(value_name = "KIT")]
    pub name: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// A manifest.
#[derive(Debug, Args)]
pub struct KitPath {
    /// The manifest, or a directory with a kit.toml or kit.json
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Choice of the output's format.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}

/// Options of `down`.
#[derive(Debug, Args)]
pub struct Down {
    /// Leave the machines running, for the next daemon to take over
    #[arg(long)]
    pub keep_instances: bool,
}

/// Options of `image pull`.
#[derive(Debug, Args)]
pub struct ImagePull {
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// [REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]
    #[arg(value_name = "IMAGE")]
    pub reference: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `image info`.
#[derive(Debug, Args)]
pub struct ImageInfo {
    /// Reference, or the first digits of the digest
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// One or more images.
#[derive(Debug, Args)]
pub struct ImageNames {
    /// References, or first digits of digests
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// Options of `image prune`.
#[derive(Debug, Args)]
pub struct ImagePrune {
    /// Also those with names
    #[arg(long)]
    pub all: bool,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `image load`.
#[derive(Debug, Args)]
pub struct ImageLoad {
    /// Archive, or directory with an OCI layout [default: standard input]
    #[arg(short, long, value_name = "PATH")]
    pub input: Option<PathBuf>,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `image save`.
#[derive(Debug, Args)]
pub struct ImageSave {
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// References, or first digits of digests
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// Options of `secret set`.
#[derive(Debug, Args)]
pub struct SecretSet {
    /// Take the value from a file, without its last line end
    #[arg(long, value_name = "FILE", conflicts_with_all = ["value", "from_env"])]
    pub from_file: Option<PathBuf>,
    /// Take the value from the environment variable of the same name
    #[arg(long, conflicts_with = "value")]
    pub from_env: bool,
    /// Name: at most 128 of A-Z, a-z, 0-9 and _, no digit first
    #[arg(value_name = "KEY")]
    pub key: String,
    /// The value, which others see in the list of processes; - for standard input
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    pub value: Option<String>,
}

/// One or more secrets.
#[derive(Debug, Args)]
pub struct SecretKeys {
    /// Names
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<String>,
}

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

/// Options of `instance start`.
#[derive(Debug, Args)]
pub struct Start {
    /// The instance.
    #[command(flatten)]
    pub settings: Settings,
    /// Execute the command again after its end: no, on-failure, on-failure:N or always [default: no]
    #[arg(long, value_name = "POLICY", value_parser = values::restart)]
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

/// Options of `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Its streams.
    #[command(flatten)]
    pub interaction: Interaction,
    /// Return when the command has been executed; it goes on, and its output goes to the log
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub detach: bool,
    /// Set an environment variable; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::environment)]
    pub env: Vec<Environment>,
    /// Working directory [default: the instance's]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User in the guest [default: the instance's]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// End the command after this time, e.g. 30s, 5m, 1h
    #[arg(long, value_name = "DURATION", value_parser = values::duration_ms)]
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
    #[arg(long, value_name = "WHEN", value_parser = values::since)]
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
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
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
    #[arg(required = true, value_name = "PORT", value_parser = values::ports)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_belongs_to_the_command() {
        let arguments =
            Arguments::try_parse_from(["aegis", "run", "--env", "A=B", "--", "ls", "--help"]).unwrap();
        let Command::Run(run) = arguments.command else { panic!("not run") };
        assert_eq!(run.command, ["ls", "--help"]);
    }
}
