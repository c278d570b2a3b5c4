//! The daemon: HTTP API handlers and the composition of all parts.

use std::io::Write;
use std::process::ExitCode;

use aegisd::environment::{Environment, TRY_KVM};
use clap::{Parser, Subcommand, ValueEnum};

/// The Aegis daemon. Without a command it serves its API in the foreground until SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(name = "aegisd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Looks whether this machine has what it takes; needs no running daemon.
    Doctor {
        /// Text for people, or a JSON array.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Prints the API's OpenAPI document.
    Openapi,
    /// Looks whether a machine works with this host's KVM; prints what is wrong.
    #[command(name = TRY_KVM, hide = true)]
    TryKvm,
    /// Serves directories to the guest at the other end of standard input, until its machine has ended.
    #[command(hide = true)]
    ServeFiles {
        /// Name of the machine, for process lists.
        #[arg(long)]
        name: String,
        /// The directories, JSON.
        exports: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::ServeFiles { exports, .. }) => return finish(aegisd::serve_files(exports)),
        Some(Command::TryKvm) => return finish(aegis_vmm::kvm_trial::try_here().or_else(|why| print(&why))),
        _ => {}
    }
    if let Err(error) = aegis_sys::child::reserve_numbers() {
        return fail(&aegisd::DaemonError::Environment(format!("cannot reserve descriptors: {error}")));
    }
    let environment = match Environment::read() {
        Ok(environment) => environment,
        Err(error) => return fail(&error),
    };
    let done = match arguments.command {
        None | Some(Command::ServeFiles { .. } | Command::TryKvm) => aegisd::serve(&environment),
        Some(Command::Openapi) => print(&aegisd::openapi_json()),
        Some(Command::Doctor { output }) => {
            let findings = aegisd::doctor::examine(&environment);
            print(&match output {
                Format::Json => serde_json::to_string_pretty(&findings).unwrap_or_default(),
                Format::Text => aegisd::doctor::render(&findings),
            })
        }
    };
    finish(done)
}

fn finish(done: Result<(), aegisd::DaemonError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn print(text: &str) -> Result<(), aegisd::DaemonError> {
    writeln!(std::io::stdout(), "{}", text.trim_end()).map_err(aegisd::DaemonError::io("print"))
}

fn fail(error: &aegisd::DaemonError) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _mute = writeln!(std::io::stderr(), "aegisd: {}", error.chain());
    ExitCode::FAILURE
}
