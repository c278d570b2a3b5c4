//! Requests for instances that name a kit.

use std::path::Path;

use aegis_kits::manifest::Manifest;
use aegis_machines::host_directory::DirectoryError;
use aegis_spec::kit::KitUse;
use tokio::task::spawn_blocking;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::kits::manifest_defaults::apply;
use crate::new_instance::NewInstance;

impl Engine {
    /// Names of the instances that were made with a kit.
    #[must_use]
    pub fn kit_users(&self, name: &str) -> Vec<String> {
        let views = self.instances().list();
        let using = views.iter().filter(|view| view.spec.kit.as_ref().is_some_and(|kit| kit.name == name));
        using.map(|view| view.name().to_owned()).collect()
    }

    /// Refuses a kit that a guest may have written, or whose daemons are programs that one may have: they run on the host.
    fn check_kit(
        &self,
        name: &str,
        dir: &Path,
        source: &Path,
        manifest: &Manifest,
    ) -> Result<(), EngineError> {
        let programs = manifest.instance_daemons.iter().filter_map(|daemon| daemon.command.first());
        let programs = programs.map(Path::new).filter(|program| program.is_absolute());
        let parents = [source].into_iter().chain(programs).filter_map(Path::parent);
        for place in parents.chain([dir]) {
            // A link on the way leads where its program is.
            let Ok(place) = place.canonicalize() else { continue };
            if let Err(DirectoryError::Planted { path }) = self.instances().check_followed(&place) {
                return Err(EngineError::KitWritable { name: name.to_owned(), path });
            }
        }
        Ok(())
    }

    /// A request with what it leaves to its kit.
    pub(crate) async fn apply_kit(
        &self,
        request: NewInstance,
    ) -> Result<(NewInstance, Option<KitUse>), EngineError> {
        let Some(name) = request.kit.clone() else { return Ok((request, None)) };
        let (found, wanted) = (self.kits().clone(), name.clone());
        let kit = spawn_blocking(move || found.find(&wanted)).await.unwrap_or_default();
        let kit = kit.ok_or_else(|| EngineError::KitMissing(name.clone()))?;
        let manifest = kit
            .manifest
            .map_err(|broken| EngineError::KitBroken { name: name.clone(), problem: broken.to_string() })?;
        self.check_kit(&name, &kit.dir, &kit.source, &manifest)?;
        let (request, used) = apply(&manifest, request)?;
        Ok((request, Some(used)))
    }
}
