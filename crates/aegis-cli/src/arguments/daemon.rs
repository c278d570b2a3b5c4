//! `aegis down`.

use clap::Args;

/// Options of `down`.
#[derive(Debug, Args)]
pub struct Down {
    /// Leave the machines running, for the next daemon to take over
    #[arg(long)]
    pub keep_instances: bool,
}
