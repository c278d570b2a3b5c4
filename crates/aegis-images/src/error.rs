//! What can go wrong with images.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// What can go wrong with images. Shared by all who wait for the same pull.
#[derive(Debug, Clone, Error)]
pub enum ImageError {
    /// No image can have this name.
    #[error("{0:?} is no image reference: {1}")]
    Reference(String, String),
    /// Not a digest.
    #[error("{0:?} is no digest of the form sha256:…")]
    Digest(String),
    /// Nothing here has this name.
    #[error("there is no image {0} on this host")]
    Absent(String),
    /// A shortened digest that several images begin with.
    #[error("several images begin with {0}")]
    Ambiguous(String),
    /// The registry does not have it.
    #[error("{registry} has no image {name}")]
    NotFound {
        /// The registry's name.
        registry: String,
        /// The reference.
        name: String,
    },
    /// The registry wants other credentials, or none are good enough.
    #[error("{registry} refuses access to {name}{detail}")]
    Unauthorized {
        /// The registry's name.
        registry: String,
        /// The reference.
        name: String,
        /// Its words.
        detail: String,
    },
    /// The registry answers with an error.
    #[error("{registry} answers {status}{detail}")]
    Registry {
        /// The registry's name.
        registry: String,
        /// Its status.
        status: u16,
        /// Its words.
        detail: String,
    },
    /// The registry cannot be reached, or breaks off again and again.
    #[error("{registry} cannot be reached: {detail}")]
    Unreachable {
        /// The registry's name.
        registry: String,
        /// Why.
        detail: String,
    },
    /// The registry answers, but without TLS.
    #[error("{registry} answers without TLS")]
    WithoutTls {
        /// The registry's name.
        registry: String,
    },
    /// It is not on this host, and its registry does not help.
    #[error("there is no image {name} on this host{}, and {cause}", near.as_ref().map(|near| format!(" (there is {near})")).unwrap_or_default())]
    NotHere {
        /// The reference.
        name: String,
        /// A name on this host that may be meant.
        near: Option<String>,
        /// Why the registry does not help.
        cause: Box<ImageError>,
    },
    /// What the registry or archive says makes no sense, or is too much.
    #[error("the image is not valid: {0}")]
    Invalid(String),
    /// The image does not exist for the guest's processor.
    #[error("{name} has no version for linux/{wanted}; there are: {there}")]
    Platform {
        /// The reference.
        name: String,
        /// The guest's processor.
        wanted: String,
        /// Platforms that it has.
        there: String,
    },
    /// What was sent is not what was promised.
    #[error("the content of {promised} has the digest {found}")]
    Mismatch {
        /// The digest asked for.
        promised: String,
        /// The digest of what came.
        found: String,
    },
    /// A layer cannot be unpacked.
    #[error("layer {layer}: {cause}")]
    Layer {
        /// Its digest, shortened.
        layer: String,
        /// Why.
        cause: String,
    },
    /// An instance needs it.
    #[error("the image {name} is in use by {by}")]
    InUse {
        /// The image.
        name: String,
        /// Who uses it.
        by: String,
    },
    /// Something is missing or damaged in the store.
    #[error("the image {0} is damaged on this host: {1}")]
    Damaged(String, String),
    /// The host cannot store or read it.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// Credentials are configured and cannot be had.
    #[error("the credentials for {registry} cannot be had: {detail}")]
    Credentials {
        /// The registry's name.
        registry: String,
        /// Why.
        detail: String,
    },
    /// The settings make no sense.
    #[error("{0}")]
    Settings(String),
    /// A fault of this crate, or the end of the daemon.
    #[error("the work was broken off")]
    BrokenOff,
}

impl ImageError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ImageError {
        let path = path.into();
        move |source| ImageError::Io { action, path, source: Arc::new(source) }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> ImageError {
        ImageError::Invalid(text.into())
    }

    /// Whether another image may be free of it: it is the fault of this one, and not of the host or a registry.
    pub(crate) fn is_of_the_image(&self) -> bool {
        matches!(
            self,
            ImageError::Invalid(_)
                | ImageError::Platform { .. }
                | ImageError::Mismatch { .. }
                | ImageError::Layer { .. }
                | ImageError::Digest(_)
                | ImageError::NotFound { .. }
        )
    }

    /// Whether a registry does not have an image, or does not say so.
    pub(crate) fn is_of_the_registry(&self) -> bool {
        matches!(
            self,
            ImageError::NotFound { .. }
                | ImageError::Unauthorized { .. }
                | ImageError::Registry { .. }
                | ImageError::Unreachable { .. }
                | ImageError::WithoutTls { .. }
        )
    }

    /// The error for want of room on the host, if that is what an error comes from.
    pub(crate) fn for_want_of_room(
        error: &(dyn std::error::Error + 'static),
        path: &Path,
    ) -> Option<ImageError> {
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        let full = causes.any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
        });
        full.then(|| {
            ImageError::io("cannot write", path)(io::Error::new(
                io::ErrorKind::StorageFull,
                error.to_string(),
            ))
        })
    }

    pub(crate) fn layer(short_digest: &str) -> impl Fn(&dyn std::fmt::Display) -> ImageError + use<> {
        let layer = short_digest.to_owned();
        move |cause| ImageError::Layer { layer: layer.clone(), cause: cause.to_string() }
    }
}
