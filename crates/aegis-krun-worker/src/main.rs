//! One machine of libkrun's: a process that becomes its monitor.
//!
//! ```text
//! aegis-krun-worker CONFIGURATION
//! ```
//!
//! `CONFIGURATION` is the path of a file that says what the machine is ([`configuration::Configuration`]). What its guest prints on
//! its console is the process's standard output; what the monitor says is its standard error. The process ends when the machine
//! does, with status 0, or with 1 if it could not be made. It asks nobody for permissions: whoever starts it confines it.

mod configuration;
mod context;

use std::process::ExitCode;

use configuration::Configuration;
use context::Context;

fn run(path: &str) -> Result<(), String> {
    let text = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let configuration: Configuration =
        serde_json::from_slice(&text).map_err(|error| format!("cannot read {path}: {error}"))?;
    let context = Context::new().map_err(|error| format!("cannot make a machine: {error}"))?;
    let made = configuration.apply(&context);
    made.map_err(|(what, error)| format!("{what}: {error}"))?;
    Err(format!("the machine does not start: {}", context.enter()))
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--version"), None) => {
            println!("aegis-krun-worker {}, libkrun {}", env!("CARGO_PKG_VERSION"), context::VERSION);
            return ExitCode::SUCCESS;
        }
        (Some(path), None) => run(path),
        _ => Err("usage: aegis-krun-worker CONFIGURATION".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
