//! Images for instances, and which of them are needed.

use std::collections::BTreeMap;

use aegis_images::{Digest, HeldImage, ImageReference, InUse};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::new_instance::PullPolicy;

impl Engine {
    /// Images that instances need, with the instances' names.
    #[must_use]
    pub fn image_users(&self) -> BTreeMap<Digest, Vec<String>> {
        let mut all: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for view in self.instances().list() {
            if let Some(digest) = view.spec.image.as_ref().and_then(|image| image.digest.parse().ok()) {
                all.entry(digest).or_default().push(view.name().to_owned());
            }
        }
        all
    }

    /// Images that instances and snapshots need, each with one that does. Blocks.
    #[must_use]
    pub fn images_in_use(&self) -> InUse {
        let of_snapshots = self.instances().machines().snapshots().images();
        let of_snapshots = of_snapshots
            .into_iter()
            .filter_map(|(image, name)| Some((image.digest.parse().ok()?, format!("snapshot {name}"))));
        let users = self.image_users();
        let of_instances = users.into_iter().filter_map(|(digest, mut names)| Some((digest, names.pop()?)));
        of_snapshots.chain(of_instances).collect()
    }

    /// The image for a new instance, held until that is stored.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn obtain_image(&self, name: &str, policy: PullPolicy) -> Result<HeldImage, EngineError> {
        let images = self.images();
        let held = match (policy, images.find(name)) {
            (PullPolicy::Never, found) => return Ok(found?),
            (PullPolicy::Missing, Ok(held)) => return Ok(held),
            (PullPolicy::Missing, Err(_)) => {
                self.instances().check_room()?;
                images.ensure(name).await?
            }
            (PullPolicy::Always, _) => {
                self.instances().check_room()?;
                let reference: ImageReference = name.parse()?;
                aegis_images::pulled(images.pull(&reference)).await?;
                images.find(name)?
            }
        };
        self.keep_image_budget();
        Ok(held)
    }

    /// Removes images that nobody needs, in the background, where there is too much of them.
    pub fn keep_image_budget(&self) {
        let this = self.clone();
        self.tasks().spawn_blocking(move || match this.images().keep_budget(|| this.images_in_use()) {
            Ok(gone) if gone.bytes > 0 => {
                tracing::info!(bytes = gone.bytes, "images removed to keep the budget");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "images not removed"),
        });
    }
}
