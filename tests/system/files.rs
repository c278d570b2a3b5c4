//! Files that go in and out, and directories of the host.

mod copies;
mod hot_reload;
mod live_copies;
mod named_directories;
pub(crate) mod workspace_tools;
pub(crate) mod workspaces;
