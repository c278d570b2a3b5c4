//! `aegis up` and `aegis down`.

use clap::Args;

/// Options of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// What makes the machines; as the configuration says, unless set
    #[arg(long, value_name = "NAME", value_parser = ["auto", "qemu", "firecracker", "libkrun"])]
    pub backend: Option<String>,
}

/// Options of `down`.
#[derive(Debug, Args)]
pub struct Down {
    /// Leave the machines running, for the next daemon to take over
    #[arg(long)]
    pub keep_instances: bool,
}
