//! Names of images: what a name means, and giving one.

use super::Images;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image_record::NameRecord;
use crate::reference::ImageName;

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
