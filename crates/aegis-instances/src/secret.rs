//! Secrets of instances: their names are part of a spec, their values only of the environment of processes in the guest.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// The name that stands for all secrets there are.
pub const ALL: &str = "*";

/// Whoever keeps secrets.
pub trait SecretValues: Debug + Send + Sync {
    /// The values of these names; [`ALL`] stands for those of all that there are at this moment.
    ///
    /// # Errors
    /// A sentence, if there is none of a name, or it cannot be read.
    fn values(&self, names: &[String]) -> Result<BTreeMap<String, String>, String>;
}
