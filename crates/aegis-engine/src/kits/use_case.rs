//! Requests for instances that name a kit.

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

    /// A request with what it leaves to its kit.
    pub(crate) async fn apply_kit(
        &self,
        request: NewInstance,
    ) -> Result<(NewInstance, Option<KitUse>), EngineError> {
        let Some(name) = request.kit.clone() else { return Ok((request, None)) };
        let (found, wanted) = (self.kits().clone(), name.clone());
        let kit = spawn_blocking(move || found.find(&wanted)).await.unwrap_or_default();
        let kit = kit.ok_or_else(|| EngineError::KitMissing(name.clone()))?;
        let manifest =
            kit.manifest.map_err(|broken| EngineError::KitBroken { name, problem: broken.to_string() })?;
        let (request, used) = apply(&manifest, request)?;
        Ok((request, Some(used)))
    }
}
