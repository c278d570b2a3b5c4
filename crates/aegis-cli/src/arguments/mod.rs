//! The commands and their options, by family. Help, completions, man pages and docs/CLI.md are made from this.

pub mod command;
pub mod daemon;
mod docker_words;
pub mod format;
pub mod host_directory;
pub mod image;
pub mod instance;
pub mod instance_settings;
pub mod kit;
pub mod network;
pub mod network_settings;
pub mod observe;
pub mod process;
pub mod secret;
pub mod snapshot;
pub mod template;
pub mod tips;
pub mod value_parsers;
pub mod workspace;
