//! Paths split into their components.

use crate::error::TreeError;
use crate::limits::Limits;

/// No directory entry can be longer, on Linux and in EROFS.
pub(super) const MAX_NAME: usize = 255;

/// A path split into its components; `.`, `..`, empty components and a leading `/` are gone.
pub(crate) type Components<'p> = Vec<&'p [u8]>;

/// Splits and checks a path. `..` is taken by the letter, as tools clean paths, and stays at the root.
pub(crate) fn components<'p>(limits: &Limits, path: &'p [u8]) -> Result<Components<'p>, TreeError> {
    let limit = limits.max_path_bytes;
    if path.len() > limit {
        return Err(TreeError::Limit { what: "bytes in a path", limit: limit as u64 });
    }
    if path.contains(&0) {
        return Err(TreeError::NulByte);
    }
    let mut components = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            name if name.len() > MAX_NAME => return Err(TreeError::NameTooLong),
            name => components.push(name),
        }
    }
    if components.len() > limits.max_depth {
        return Err(too_deep(limits));
    }
    Ok(components)
}

pub(super) fn too_deep(limits: &Limits) -> TreeError {
    TreeError::Limit { what: "directories in a path", limit: limits.max_depth as u64 }
}
