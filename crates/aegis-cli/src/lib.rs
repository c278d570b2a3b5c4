//! The command line: arguments in, API calls, terminal out.

pub mod arguments;
mod byte_size;
pub mod commands;
mod context;
pub mod failure;
pub mod markdown;
pub mod output;
pub mod render;
pub mod session;
pub mod terminal;
mod text;
mod user_file;

pub use context::Context;
