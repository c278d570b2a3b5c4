//! The format of the output.

use clap::{Args, ValueEnum};

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
