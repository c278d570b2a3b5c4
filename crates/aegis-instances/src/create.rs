//! Creating instances.

use std::sync::Arc;

use aegis_lifecycle::state_machine::Lifecycle;
use aegis_machines::checkpoint::capture::{Checkpoint, CheckpointSource};
use aegis_machines::clock::now_ms;
use aegis_machines::host_memory::host_memory_mib;
use aegis_spec::instance::InstanceSpec;
use aegis_store::home::Home;

use crate::actor::Actor;
use crate::error::InstanceError;
use crate::handle::InstanceHandle;
use crate::instances::Instances;
use crate::ports::PortRequest;
use crate::record::Record;

/// Makes what an instance has from a checkpoint of another one.
async fn place(
    home: &Home,
    id: &str,
    checkpoint: Option<Arc<Checkpoint>>,
) -> Result<Option<CheckpointSource>, InstanceError> {
    let Some(checkpoint) = checkpoint else { return Ok(None) };
    let (home, id) = (home.clone(), id.to_owned());
    let placed = tokio::task::spawn_blocking(move || checkpoint.place(&home, &id)).await;
    placed.map_err(|_| InstanceError::ShuttingDown)?.map_err(InstanceError::Disk)
}

/// Removes that again.
fn remove(home: &Home, id: &str, placed: bool) {
    if placed {
        // What is not there need not be removed; the hourly sweep tries again.
        let _left = (std::fs::remove_file(home.disk(id)), home.remove_run_dir(id));
    }
}

impl Instances {
    /// Creates an instance; it is stopped, its ports are open, and it is a member of these groups.
    ///
    /// # Errors
    /// If a value is out of range, the handle or a port is taken, or the host lacks something. Nothing is stored then.
    pub async fn create(
        &self,
        handle: Option<String>,
        spec: InstanceSpec,
        ports: Vec<PortRequest>,
        groups: Vec<String>,
    ) -> Result<InstanceHandle, InstanceError> {
        self.create_from(handle, spec, ports, groups, None).await
    }

    /// The same for one that goes on from a checkpoint of another one.
    ///
    /// # Errors
    /// As of [`Instances::create`]; [`InstanceError::Disk`].
    pub(crate) async fn create_from(
        &self,
        handle: Option<String>,
        spec: InstanceSpec,
        ports: Vec<PortRequest>,
        groups: Vec<String>,
        origin: Option<Arc<Checkpoint>>,
    ) -> Result<InstanceHandle, InstanceError> {
        self.check_room()?;
        let this = self.clone();
        let id = format!("inst-{}", ulid::Ulid::generate().to_string().to_ascii_lowercase());
        // Whoever asked may go away; what is begun is done whole.
        let made = tokio::spawn(async move {
            let deps = this.deps();
            let home = deps.machines.home();
            // What is made of it is no stray, though nobody knows of it yet.
            let _reserved = deps.machines.ids().reserve(&id);
            let placed = origin.is_some();
            let made = match place(home, &id, origin).await {
                Ok(origin) => this.make(&id, handle, spec, &ports, &groups, origin).await,
                Err(error) => Err(error),
            };
            made.inspect_err(|_| {
                deps.groups.forget(&id);
                remove(home, &id, placed);
            })
        });
        made.await.unwrap_or(Err(InstanceError::ShuttingDown))
    }

    async fn make(
        &self,
        id: &str,
        handle: Option<String>,
        mut spec: InstanceSpec,
        ports: &[PortRequest],
        groups: &[String],
        origin: Option<CheckpointSource>,
    ) -> Result<InstanceHandle, InstanceError> {
        if self.is_closing() {
            return Err(InstanceError::ShuttingDown);
        }
        spec.check(host_memory_mib())?;
        spec.network.groups = self.deps().groups.join_all(groups, id, handle.as_deref().unwrap_or(id))?;
        let now = now_ms();
        let ephemeral = spec.ephemeral;
        let record = Record {
            id: id.to_owned(),
            handle: handle.clone(),
            spec: Arc::new(spec),
            life: Lifecycle::stopped(true, 0, None),
            exit_code: None,
            created_ms: now,
            active_ms: now,
            stopped_ms: Some(now),
            started_ms: None,
            // A copy has what its origin has done.
            last_started_ms: origin.is_some().then_some(now),
            since_ms: now,
            awake_ms: 0,
        };
        let (mut actor, reference) = Actor::new(Arc::clone(self.deps()), record, Vec::new());
        // Before anybody knows of it: whoever comes to its ports wakes it.
        actor.go_on_from(origin);
        actor.open_ports(ports)?;
        actor.publish();
        let stored = self.deps().registry.insert(actor.row(), Some(actor.event("created"))).await;
        stored.inspect_err(|_| actor.close_ports())?;
        self.deps().table.insert(id, handle.as_deref(), reference.clone());
        if self.is_closing() {
            // Whoever ends them all may have looked before this one was there.
            actor.daemon_ends();
        }
        Ok(self.launch(actor, reference, ephemeral))
    }
}
