//! What the environment of a command is composed of, besides what the specification holds.

use std::collections::BTreeMap;
use std::fmt;

/// What is looked up when a command is executed.
#[derive(Clone, Default)]
pub struct Values {
    /// What the host offers: stronger than the image's, weaker than the kit's.
    pub host: BTreeMap<String, String>,
    /// Secrets.
    pub secrets: BTreeMap<String, String>,
    /// What the kit's program has printed: as strong as the kit's own.
    pub rendered: BTreeMap<String, String>,
}

impl fmt::Debug for Values {
    /// Names alone: the values are nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [&self.host, &self.secrets, &self.rendered].map(|values| values.keys());
        f.debug_list().entries(names.into_iter().flatten()).finish()
    }
}
