//! Kits of this host, as machines see them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aegis_paths::Dir;

/// What a kit brings along, as it is on the host now.
#[derive(Debug)]
pub struct Contents {
    /// Its directory, opened before it was read what is in there. A guest may share it, and change it meanwhile.
    pub dir: Dir,
    /// Files and trees by their paths below the directory, and where they go in the guest.
    pub files: Vec<(PathBuf, String)>,
    /// Path below the directory of the one whose contents an empty workspace gets.
    pub workspace: Option<PathBuf>,
}

/// Whoever knows the kits of this host.
pub trait Kits: std::fmt::Debug + Send + Sync {
    /// What a kit brings along; `None` if it is not there any more.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    fn contents(&self, name: &str) -> Result<Option<Contents>, String>;

    /// Environment out of what a kit's program printed.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    fn rendered(&self, text: &str) -> Result<BTreeMap<String, String>, String>;
}
