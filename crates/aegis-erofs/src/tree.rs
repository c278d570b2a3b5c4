//! The file tree between archives and image: everything but the contents of regular files is in memory.

mod edit;
mod file_tree;
mod node;
mod path;
mod walk;

pub use file_tree::FileTree;
pub use node::{Content, Device, Directory, Metadata, Mtime, Name, Node, NodeId, Xattrs};
pub(crate) use path::components;
