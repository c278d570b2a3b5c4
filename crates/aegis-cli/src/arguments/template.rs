//! `aegis template`.

use clap::Subcommand;

use crate::arguments::format::Format;

/// What to do with templates.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List templates
    List(Format),
    /// Remove all templates; the next starts make new ones
    Prune(Format),
}
