//! What each command does, by family.

pub mod copy;
pub mod daemon;
pub mod events;
pub mod exec;
pub mod image;
pub mod instance;
pub mod kit;
pub mod logs;
pub mod network;
pub mod run;
pub mod secret;
pub mod snapshot;
pub mod stats;
pub mod template;
pub mod workspace;
