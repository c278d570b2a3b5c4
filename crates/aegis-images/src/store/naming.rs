//! Names of images.

use super::Images;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image_record::NameRecord;

impl Images {
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
