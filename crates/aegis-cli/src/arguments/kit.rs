//! `aegis kit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::arguments::format::Format;

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
