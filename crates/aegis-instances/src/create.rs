//! Creating instances.

use std::sync::Arc;

use crate::actor::Actor;
use crate::at_rest::moment::{Moment, Origin};
use crate::error::InstanceError;
use crate::lifecycle::Lifecycle;
use crate::manager::{Context, InstanceHandle, Instances};
use crate::now_ms;
use crate::ports::Wanted;
use crate::record::Record;
use crate::spec::{InstanceSpec, host_memory_mib};

/// Makes what an instance has from a moment of another one.
async fn place(
    context: &Arc<Context>,
    id: &str,
    moment: Option<Arc<Moment>>,
) -> Result<Option<Origin>, InstanceError> {
    let Some(moment) = moment else { return Ok(None) };
    let (home, id) = (context.home.clone(), id.to_owned());
    let placed = tokio::task::spawn_blocking(move || moment.place(&home, &id)).await;
    placed.map_err(|_| InstanceError::ShuttingDown)?.map_err(InstanceError::Disk)
}

/// Removes that again.
fn remove(context: &Context, id: &str, placed: bool) {
    if placed {
        // What is not there need not be removed; the hourly sweep tries again.
        let _left = (std::fs::remove_file(context.home.disk(id)), context.home.remove_run_dir(id));
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
        ports: Vec<Wanted>,
        groups: Vec<String>,
    ) -> Result<InstanceHandle, InstanceError> {
        self.create_from(handle, spec, ports, groups, None).await
    }

    /// The same for one that goes on from a moment of another one.
    ///
    /// # Errors
    /// As of [`Instances::create`]; [`InstanceError::Disk`].
    pub(crate) async fn create_from(
        &self,
        handle: Option<String>,
        spec: InstanceSpec,
        ports: Vec<Wanted>,
        groups: Vec<String>,
        origin: Option<Arc<Moment>>,
    ) -> Result<InstanceHandle, InstanceError> {
        self.check_room()?;
        let this = self.clone();
        let id = format!("inst-{}", ulid::Ulid::generate().to_string().to_ascii_lowercase());
        // Whoever asked may go away; what is begun is done whole.
        let made = tokio::spawn(async move {
            let context = this.context();
            // What is made of it is no stray, though nobody knows of it yet.
            let _coming = context.announce(&id);
            let placed = origin.is_some();
            let made = match place(context, &id, origin).await {
                Ok(origin) => this.make(&id, handle, spec, &ports, &groups, origin).await,
                Err(error) => Err(error),
            };
            made.inspect_err(|_| {
                context.groups.forget(&id);
                remove(context, &id, placed);
            })
        });
        made.await.unwrap_or(Err(InstanceError::ShuttingDown))
    }

    async fn make(
        &self,
        id: &str,
        handle: Option<String>,
        mut spec: InstanceSpec,
        ports: &[Wanted],
        groups: &[String],
        origin: Option<Origin>,
    ) -> Result<InstanceHandle, InstanceError> {
        if *self.closing.borrow() {
            return Err(InstanceError::ShuttingDown);
        }
        spec.check(host_memory_mib())?;
        spec.network.groups = self.context().groups.join_all(groups, id, handle.as_deref().unwrap_or(id))?;
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
        let (mut actor, reference) = Actor::new(Arc::clone(self.context()), record, Vec::new());
        // Before anybody knows of it: whoever comes to its ports wakes it.
        actor.go_on_from(origin);
        actor.open_ports(ports)?;
        actor.publish();
        let stored = self.context().registry.insert(actor.row(), Some(actor.event("created"))).await;
        stored.inspect_err(|_| actor.close_ports())?;
        self.context().enter(id, handle.as_deref(), reference.clone());
        if *self.closing.borrow() {
            // Whoever ends them all may have looked before this one was there.
            actor.daemon_ends();
        }
        Ok(self.launch(actor, reference, ephemeral))
    }
}
