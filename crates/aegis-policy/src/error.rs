//! Errors of this crate.

use thiserror::Error;

/// A text that makes no sense. The sentence names it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);
