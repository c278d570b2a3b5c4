//! `aegis secret`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::arguments::format::Format;

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
