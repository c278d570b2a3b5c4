//! What is wrong with a specification.

use thiserror::Error;

/// A value out of range. The sentence names it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SpecError(pub String);
