//! What machines ask for, joined to whoever keeps it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aegis_images::{Digest, Images};
use aegis_machines::image_disks::ImageDiskProvider;
use aegis_machines::secret_values::SecretValues;
use aegis_spec::instance::ALL_SECRETS;
use aegis_store::secrets::Secrets;
use zeroize::Zeroizing;

/// The images, as instances know them.
#[derive(Debug)]
pub struct ImageDisks(pub Images);

impl ImageDiskProvider for ImageDisks {
    fn parts(&self, digest: &str) -> Result<Vec<PathBuf>, String> {
        let parsed = digest.parse::<Digest>();
        parsed.and_then(|digest| self.0.parts(&digest)).map_err(|error| error.to_string())
    }
}

/// The secrets, as instances know them.
#[derive(Debug)]
pub struct StoredSecrets(pub Secrets);

impl SecretValues for StoredSecrets {
    fn values(&self, names: &[String]) -> Result<BTreeMap<String, String>, String> {
        let all = names.iter().any(|name| name == ALL_SECRETS);
        let names = if all { self.0.names() } else { names.to_vec() };
        let value = |name: String| {
            let value = self.0.value(&name).map_err(|error| error.to_string())?;
            Ok((name, (*value).clone()))
        };
        names.into_iter().map(value).collect()
    }

    fn seal(&self, text: &str) -> Result<String, String> {
        self.0.seal(text).map_err(|error| error.to_string())
    }

    fn unseal(&self, sealed: &str) -> Result<Zeroizing<String>, String> {
        self.0.unseal(sealed).map_err(|error| error.to_string())
    }
}
