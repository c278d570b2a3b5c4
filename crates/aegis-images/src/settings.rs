//! What users configure about images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aegis_erofs::Limits;

/// How one registry is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// HTTP without TLS.
    pub plain_http: bool,
    /// A file with certificates (PEM) that are trusted besides the system's.
    pub ca: Option<PathBuf>,
}

/// What users configure about images.
#[derive(Clone, Debug)]
pub struct Settings {
    /// By registry, as in a reference: `HOST[:PORT]`.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// The proxy for all registries; without it `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` count.
    pub proxy: Option<String>,
    /// Bytes on disk above which what no instance and no name needs is removed.
    pub disk_budget: u64,
    /// What one image may at most unpack to.
    pub limits: Limits,
    /// The processor that images must be for, as OCI names it (`amd64`, `arm64`).
    pub architecture: String,
}

impl Settings {
    /// Settings for this processor, with everything else as documented.
    #[must_use]
    pub fn for_architecture(architecture: &str) -> Settings {
        Settings {
            registries: BTreeMap::new(),
            proxy: None,
            disk_budget: 20 << 30,
            limits: Limits { max_data_bytes: 16 << 30, ..Limits::default() },
            architecture: architecture.to_owned(),
        }
    }
}
