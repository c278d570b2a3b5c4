//! All commands.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::arguments::daemon::{Down, Up};
use crate::arguments::format::Format;
use crate::arguments::image::ImageCommand;
use crate::arguments::instance::InstanceCommand;
use crate::arguments::kit::KitCommand;
use crate::arguments::network::NetworkCommand;
use crate::arguments::observe::{Events, Logs, Stats};
use crate::arguments::process::{Copy, Exec, Run};
use crate::arguments::secret::SecretCommand;
use crate::arguments::snapshot::{Fork, SnapshotCommand};
use crate::arguments::template::TemplateCommand;
use crate::arguments::workspace::WorkspaceCommand;

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
    Up(Up),
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
