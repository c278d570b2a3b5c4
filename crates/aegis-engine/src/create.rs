//! Creating an instance, or starting the one that is meant.

use std::collections::{BTreeMap, BTreeSet};

use aegis_images::{HeldImage, familiar};
use aegis_instances::error::InstanceError;
use aegis_instances::handle::InstanceHandle;
use aegis_instances::ports::additions;
use aegis_instances::view::View;
use aegis_lifecycle::event::Request;
use aegis_machines::secret_values::SecretValues;
use aegis_spec::image::PinnedImage;
use aegis_spec::kit::KitUse;
use aegis_spec::mount::Mount;
use aegis_spec::network::Membership;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::new_instance::NewInstance;

/// What came of a request for an instance.
#[derive(Debug)]
pub enum Outcome {
    /// It was created, and started.
    Created(InstanceHandle),
    /// It was there, and was started.
    Started(InstanceHandle),
}

impl Engine {
    /// Creates an instance and starts it; or starts an existing one, if the request names just its handle, or equals what it
    /// was created with. With `wait` it runs on return.
    ///
    /// # Errors
    /// If a part of the request makes no sense or cannot be had, or it does not start.
    pub async fn create(&self, request: NewInstance, wait: bool) -> Result<Outcome, EngineError> {
        let (request, kit) = self.apply_kit(request).await?;
        let existing = request.handle.as_deref().and_then(|handle| self.instances().find(handle).ok());
        if let Some(existing) = existing {
            let is_meant = self.is_meant(&request, kit.clone(), &existing)?;
            if is_meant || !self.instances().give_way(&existing).await? {
                self.start_existing(&request, is_meant, &existing, wait).await?;
                return Ok(Outcome::Started(existing));
            }
        }
        if let (true, Some(handle)) = (request.names_only() || request.names_disk(), &request.handle) {
            return Err(EngineError::NothingToStart(handle.clone()));
        }
        if let Some(mib) = request.disk_mib {
            self.instances().check_disk(mib)?;
        }
        // Not removed as long as no record says that it is needed.
        let (_held, image) = match &request.image {
            None => (None, None),
            Some(name) => {
                let held = self.obtain_image(name, request.pull.unwrap_or_default()).await?;
                let image = pin(name, &held, request.no_image_env);
                (Some(held), Some(image))
            }
        };
        let rootfs = if image.is_some() { String::new() } else { self.instances().default_rootfs()? };
        let mut spec = request.spec(rootfs, image, kit, self.network_defaults())?;
        // Better now than at the boot.
        self.secrets().values(&spec.secrets).map_err(InstanceError::Secret)?;
        // Not removed either.
        let _claimed = self.claim_directories(&mut spec.mounts, &request.followed)?;
        let groups = request.network.as_ref().map(|network| network.groups.clone()).unwrap_or_default();
        let created = self.instances().create(request.handle.clone(), spec, request.ports, groups).await?;
        begin(&created, wait).await?;
        Ok(Outcome::Created(created))
    }

    /// Whether a request asks for this instance, and not for another one with its handle.
    fn is_meant(
        &self,
        request: &NewInstance,
        kit: Option<KitUse>,
        existing: &InstanceHandle,
    ) -> Result<bool, EngineError> {
        let view = existing.view();
        // Ports of an existing instance change by `expose` and `unexpose` only.
        let exposes_nothing_new =
            additions(&view.endpoints, &request.ports).is_ok_and(|added| added.is_empty());
        Ok(!request.ephemeral
            && (request.names_only()
                || request.names_disk()
                || sees_the_same(request, &view)
                || self.same_as(request, kit, &view)?)
            && exposes_nothing_new)
    }

    /// Whether a request asks for what an instance is. What it may reach may have changed since, unless that is asked for;
    /// and the size of its disk may change with it.
    fn same_as(&self, request: &NewInstance, kit: Option<KitUse>, view: &View) -> Result<bool, EngineError> {
        let (rootfs, image) = (view.spec.rootfs.clone(), same_image(request, view));
        let mut wanted = request.spec(rootfs, image, kit, self.network_defaults())?;
        for (mount, known) in wanted.mounts.iter_mut().zip(&view.spec.mounts) {
            // A request names directories; which they were is the instance's affair.
            mount.identity = known.identity;
        }
        wanted.disk_mib = view.spec.disk_mib;
        let network = &view.spec.network;
        match &request.network {
            None => wanted.network = network.clone(),
            Some(choice) if is_in(&network.groups, &choice.groups) => {
                wanted.network.groups = network.groups.clone();
            }
            Some(_) => {}
        }
        Ok(wanted == *view.spec)
    }

    async fn start_existing(
        &self,
        request: &NewInstance,
        is_meant: bool,
        existing: &InstanceHandle,
        wait: bool,
    ) -> Result<(), EngineError> {
        let view = existing.view();
        if !is_meant {
            return Err(InstanceError::HandleExists(view.name().to_owned()).into());
        }
        if let Some(mib) = request.disk_mib {
            if mib > view.spec.disk_mib {
                self.instances().check_disk(mib)?;
            }
            existing.grow_disk(mib).await?;
        }
        if !request.names_only() {
            // Whoever names its directories once more means those that are there now.
            let mut mounts = view.spec.mounts.clone();
            let _claimed = self.claim_directories(&mut mounts, &request.followed)?;
            existing.renew_directories(mounts.iter().map(|mount| mount.identity).collect()).await?;
        }
        begin(existing, wait).await
    }
}

async fn begin(instance: &InstanceHandle, wait: bool) -> Result<(), EngineError> {
    if wait {
        instance.request(Request::Start).await?;
    } else {
        instance.begin_start().await?;
    }
    Ok(())
}

/// Whether a request names an instance's directories of the host and nothing else: to have it see what is there now.
fn sees_the_same(request: &NewInstance, view: &View) -> bool {
    let unnoted = |mount: &Mount| Mount { identity: None, ..mount.clone() };
    let known: Vec<Mount> = view.spec.mounts.iter().map(unnoted).collect();
    request.names_directories() && request.mounts == known
}

/// Whether these are all groups that an instance is in.
fn is_in(places: &[Membership], groups: &[String]) -> bool {
    let places: BTreeSet<&String> = places.iter().map(|place| &place.group).collect();
    places == groups.iter().collect()
}

fn pin(name: &str, held: &HeldImage, without_env: bool) -> PinnedImage {
    let env = if without_env { BTreeMap::new() } else { held.record.env.clone() };
    PinnedImage { reference: familiar(name), digest: held.record.digest.to_string(), env }
}

/// The image that an instance has already, if that is the one asked for.
fn same_image(request: &NewInstance, view: &View) -> Option<PinnedImage> {
    let asked = request.image.as_deref().map(familiar);
    let pinned = view.spec.image.clone().filter(|image| asked.as_ref() == Some(&image.reference));
    let without_env = |image: PinnedImage| {
        if request.no_image_env { PinnedImage { env: BTreeMap::new(), ..image } } else { image }
    };
    pinned.map(without_env)
}
