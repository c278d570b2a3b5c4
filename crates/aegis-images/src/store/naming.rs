//! Names of images: what a name means, and giving one.

use super::Images;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image_record::NameRecord;
use crate::reference::{ImageName, ImageReference};

/// Most letters that are otherwise in a name that may be meant.
const MOST_TYPOS: usize = 2;

impl Images {
    /// Gives an image that is on this host a name. One that another image has moves. Blocks.
    ///
    /// # Errors
    /// If the name is none, or is a digest, or there is no such image.
    pub fn tag(&self, image: &str, name: &str) -> Result<Digest, ImageError> {
        let reference = match name.parse()? {
            ImageName::Reference(reference)
                if reference.digest().is_none() && !name.starts_with("sha256:") =>
            {
                reference
            }
            ImageName::Reference(_) | ImageName::Digits(..) => {
                let why = "a digest names a content and cannot be given".to_owned();
                return Err(ImageError::Reference(name.chars().take(100).collect(), why));
            }
        };
        // Held: it stays until it has the name.
        let held = self.find(image)?;
        self.give_name(reference.to_string(), held.record.digest.clone())?;
        Ok(held.record.digest.clone())
    }

    /// The error of a pull, which says so if there is no image of that name on this host either: the name may be
    /// mistyped, and the registry says nothing of that.
    pub(super) fn not_here(&self, wanted: &ImageReference, error: ImageError) -> ImageError {
        let state = self.0.lock();
        let is_here = state.names.contains_key(&wanted.to_string())
            || wanted.digest().is_some_and(|digest| state.records.contains_key(&digest));
        if is_here || !error.is_of_the_registry() {
            return error;
        }
        let near = nearest(wanted, state.names.keys().filter_map(|name| name.parse().ok()));
        ImageError::NotHere { name: wanted.familiar(), near, cause: Box::new(error) }
    }

    /// Whether an image has a name.
    pub(crate) fn has_name(&self, digest: &Digest) -> bool {
        self.0.lock().names.values().any(|named| named == digest)
    }

    /// Writes a name, whatever it meant before. Blocks.
    pub(super) fn give_name(&self, name: String, digest: Digest) -> Result<(), ImageError> {
        // Under the lock: of two who give one name, the later one counts on disk, too.
        let mut state = self.0.lock();
        let at = self.layout().name(&name);
        self.layout().write_json(&at, &NameRecord { name: name.clone(), digest: digest.clone() })?;
        state.names.insert(name, digest);
        Ok(())
    }
}

/// The one of these names that may be meant by another: of the same repository, or of one that is written nearly so.
fn nearest(wanted: &ImageReference, names: impl Iterator<Item = ImageReference>) -> Option<String> {
    let place = |name: &ImageReference| format!("{}/{}", name.registry(), name.repository());
    let (own, own_version) = (place(wanted), wanted.version());
    let allowed = (wanted.repository().rsplit('/').next().unwrap_or_default().len() / 3).min(MOST_TYPOS);
    let rated = names.map(|name| {
        let of_place = strsim::damerau_levenshtein(&own, &place(&name));
        ((of_place, strsim::damerau_levenshtein(own_version, name.version())), name)
    });
    let near = rated.filter(|((of_place, _), _)| *of_place <= allowed);
    near.min_by_key(|(rating, _)| *rating).map(|(_, name)| name.familiar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_may_be_meant_is_found() {
        let here = ["distroless:one", "debian:12", "debian:13", "localhost:5000/box:1", "app:1"];
        let near =
            |wanted: &str| nearest(&wanted.parse().unwrap(), here.iter().map(|name| name.parse().unwrap()));
        for (wanted, expected) in [
            ("distroles:one", Some("distroless:one")),
            ("debain:13", Some("debian:13")),
            ("debian:14", Some("debian:12")),
            ("debian", Some("debian:12")),
            ("localhost:5000/box:2", Some("localhost:5000/box:1")),
            ("apx:1", Some("app:1")),
            ("alpine", None),
            ("foo:1", None),
            ("db:1", None),
        ] {
            assert_eq!(near(wanted).as_deref(), expected, "{wanted}");
        }
    }
}
