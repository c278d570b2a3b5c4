//! How far a pull has come, to be looked at whenever somebody likes.

use crate::digest::Digest;
use crate::error::ImageError;

/// What happens to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Others come first.
    Waiting,
    /// It is being fetched.
    Downloading,
    /// It is being unpacked.
    Unpacking,
    /// It is there.
    Ready,
}

/// How far one layer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// Its digest.
    pub digest: Digest,
    /// Bytes of it that are here.
    pub done: u64,
    /// Its size.
    pub total: u64,
    /// What happens to it.
    pub stage: Stage,
}

/// How far a pull has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The layers, lowest first; empty until they are known.
    pub layers: Vec<LayerProgress>,
    /// How it ended: the digest of the image's manifest.
    pub outcome: Option<Result<Digest, ImageError>>,
}
