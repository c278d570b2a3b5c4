//! What the daemon takes from its environment. Nothing else reads it.

use std::path::PathBuf;
use std::time::Duration;

use aegis_instances::Config;
use aegis_store::home::Home;

use crate::DaemonError;

/// The environment, read once.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The home directory.
    pub home: Home,
    /// The accelerator that the user insists on (`AEGIS_ACCEL`).
    pub accelerator: Option<String>,
    /// A guest program for the backend without virtualisation (`AEGIS_FAKE_GUEST`); for tests.
    pub fake_guest: Option<PathBuf>,
    /// Settings of instances.
    pub instances: Config,
}

impl Environment {
    /// Reads the environment.
    ///
    /// # Errors
    /// If there is no home directory, or a value makes no sense.
    pub fn read() -> Result<Environment, DaemonError> {
        let get = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let user_home = get("HOME")
            .map(PathBuf::from)
            .ok_or_else(|| DaemonError::Environment("HOME is not set".into()))?;
        let default = user_home.join(".aegis");
        let root = get("AEGIS_HOME").map_or_else(|| default.clone(), PathBuf::from);
        let mut instances = Config::default();
        if let Some(seconds) = get("AEGIS_BOOT_TIMEOUT") {
            let seconds = seconds.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
            let seconds = seconds.ok_or_else(|| {
                DaemonError::Environment("AEGIS_BOOT_TIMEOUT is no number of seconds".into())
            })?;
            instances.boot_timeout = Duration::from_secs(seconds);
        }
        Ok(Environment {
            home: Home::new(root, default),
            accelerator: get("AEGIS_ACCEL").and_then(|value| value.into_string().ok()),
            fake_guest: get("AEGIS_FAKE_GUEST").map(PathBuf::from),
            instances,
        })
    }
}
