//! The kits of this host, and what they bring to guests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aegis_kits::manifest::{self, Broken};
use aegis_kits::{Kit, KitDiscovery};
use aegis_machines::host_directory::kit_shelves;
use aegis_machines::kits::{Contents, Kits};
use aegis_store::home::Home;

use crate::kits::manifest_defaults::defaults;

/// The kits of this host: the user's own, those beside this program, and the system's.
#[derive(Debug, Clone)]
pub struct HostKits(KitDiscovery);

impl HostKits {
    /// Those of this home, beside this program, and of the system.
    #[must_use]
    pub fn new(home: &Home, program: &Path) -> HostKits {
        HostKits(KitDiscovery::new(kit_shelves(home, program.parent())))
    }

    /// All kits by name; one that means nothing to this daemon is broken too.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, Kit> {
        self.0.all().into_iter().map(|(name, kit)| (name, checked(kit))).collect()
    }

    /// A kit by name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Kit> {
        self.0.find(name).map(checked)
    }
}

/// A kit of any path, checked.
#[must_use]
pub fn load(path: &Path) -> Kit {
    checked(Kit::load(path))
}

fn checked(kit: Kit) -> Kit {
    let manifest = kit.manifest.and_then(|manifest| match defaults(&manifest) {
        Ok(_) => Ok(manifest),
        Err(problem) => Err(Broken(problem)),
    });
    Kit { manifest, ..kit }
}

impl Kits for HostKits {
    fn contents(&self, name: &str) -> Result<Option<Contents>, String> {
        let Some((kit, opened)) = self.0.open(name) else { return Ok(None) };
        let manifest = checked(kit).manifest.map_err(|broken| broken.to_string())?;
        let dir = opened.ok_or("its directory is gone")?;
        let file = |file: manifest::File| (PathBuf::from(file.from), file.to);
        Ok(Some(Contents {
            dir,
            files: manifest.files.into_iter().map(file).collect(),
            workspace: manifest.workspace.map(PathBuf::from),
        }))
    }

    fn rendered(&self, text: &str) -> Result<BTreeMap<String, String>, String> {
        manifest::rendered_env(text).map_err(|broken| broken.to_string())
    }
}
