//! What every command needs.

use std::path::PathBuf;

use crate::failure::Failure;
use aegis_client::Client;

/// What every command needs.
#[derive(Debug, Clone)]
pub struct Context {
    /// The home directory.
    pub home: PathBuf,
}

impl Context {
    /// Reads `AEGIS_HOME`, or else `HOME`. Nothing else of the environment matters to the client.
    #[must_use]
    pub fn read() -> Context {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let default = || set("HOME").unwrap_or_default().join(".aegis");
        let home = set("AEGIS_HOME").unwrap_or_else(default);
        Context { home: std::path::absolute(&home).unwrap_or(home) }
    }

    /// Refuses a home of another user: its daemon would be that user's, and be told what is this one's.
    ///
    /// # Errors
    /// If it is one.
    pub fn check(&self) -> Result<(), Failure> {
        use std::os::unix::fs::MetadataExt;
        // One that is not there yet is made by this user.
        let Ok(found) = std::fs::metadata(&self.home) else { return Ok(()) };
        if found.uid() == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        let text = format!("{} belongs to another user (uid {})", self.home.display(), found.uid());
        Err(Failure { hint: Some("set AEGIS_HOME to a directory of your own".into()), ..Failure::new(text) })
    }

    /// A client of this home's daemon.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.home.join("aegisd.sock"))
    }
}
