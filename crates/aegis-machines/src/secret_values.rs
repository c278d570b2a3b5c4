//! Secrets of instances: their names are part of a spec, their values only of the environment of processes in the guest.

use std::collections::BTreeMap;
use std::fmt::Debug;

use zeroize::Zeroizing;

/// Whoever keeps secrets.
pub trait SecretValues: Debug + Send + Sync {
    /// The values of these names; [`ALL_SECRETS`](aegis_spec::instance::ALL_SECRETS) stands for those of all that there are at this moment.
    ///
    /// # Errors
    /// A sentence, if there is none of a name, or it cannot be read.
    fn values(&self, names: &[String]) -> Result<BTreeMap<String, String>, String>;

    /// Seals a text so that only whoever keeps these secrets can read it.
    ///
    /// # Errors
    /// A sentence, if there is no key for that.
    fn seal(&self, text: &str) -> Result<String, String>;

    /// The text that was sealed.
    ///
    /// # Errors
    /// A sentence, if it was not sealed here, or the key has changed.
    fn unseal(&self, sealed: &str) -> Result<Zeroizing<String>, String>;
}
