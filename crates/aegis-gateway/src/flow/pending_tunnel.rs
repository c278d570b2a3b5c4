//! A guest that has asked the offered proxy for a tunnel, and waits for it.

use super::petition::Petition;
use super::terminal::Terminal;

/// A guest that waits for its tunnel.
#[derive(Debug)]
pub(crate) struct Petitioner {
    pub(crate) terminal: Box<Terminal>,
    pub(crate) petition: Petition,
}
