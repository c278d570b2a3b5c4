//! Taking over what an earlier daemon left: records, and machines that still run.

use std::sync::Arc;

use aegis_lifecycle::event::{Request, State};
use aegis_lifecycle::state_machine::Lifecycle;
use aegis_lifecycle::stop_reason::StopReason;
use aegis_machines::checkpoint::hibernation;
use aegis_machines::clock::now_ms;
use aegis_registry::InstanceRow;
use aegis_spec::instance::InstanceSpec;
use aegis_vmm::{Machine, MachineHandle};

use crate::actor::{Actor, disk_pressure};
use crate::instances::Instances;
use crate::record::Record;

/// Takes over all rows. One that makes no sense is left alone and reported: a newer daemon may have written it.
pub(crate) async fn recover(instances: &Instances, rows: Vec<InstanceRow>) {
    let handles = rows.iter().filter_map(machine_handle);
    let known: Vec<i32> = handles.map(|handle| handle.process.pid).collect();
    let deps = instances.deps();
    for name in deps.machines.end_strays(&known).await {
        tracing::warn!(name, "ended a machine that no record knows");
    }
    let mut understood = Vec::new();
    for row in rows {
        match serde_json::from_str::<InstanceSpec>(&row.spec) {
            Ok(spec) => understood.push((row, spec)),
            Err(error) => tracing::error!(id = row.id, %error, "record not understood, left alone"),
        }
    }
    // Gateways that still run are told of all members at once: those that are missing they would part from.
    for (row, spec) in &understood {
        deps.groups.enter(&spec.network.groups, &row.id, row.handle.as_deref().unwrap_or(&row.id));
    }
    for (row, spec) in understood {
        recover_one(instances, row, spec).await;
    }
}

async fn recover_one(instances: &Instances, row: InstanceRow, spec: InstanceSpec) {
    let deps = instances.deps();
    let machine = find_machine(instances, &row).await;
    let paused = match &machine {
        Some(machine) => machine.is_paused().await.unwrap_or(row.state == "paused"),
        None => false,
    };
    let was_live = row.state != "stopped";
    let rested = matches!(row.state.as_str(), "paused" | "hibernated");
    let on_disk =
        machine.is_none() && rested && hibernation::is_there(deps.machines.home(), &row.id, row.boot);
    if !on_disk && let Err(error) = deps.machines.forget_hibernated(&row.id) {
        tracing::warn!(id = row.id, %error, "a machine's memory was not removed");
    }
    let filled = disk_pressure::filled(&row).filter(|_| paused);
    let life = match &machine {
        Some(_) if filled.is_some() => Lifecycle::recovered(row.enabled, row.boot, paused).held(),
        Some(_) => Lifecycle::recovered(row.enabled, row.boot, paused),
        None if on_disk => Lifecycle::hibernated(row.enabled, row.boot),
        // What is on disk is a cache.
        None if row.state == "hibernated" => {
            Lifecycle::stopped(row.enabled, row.boot, Some(StopReason::idle()))
        }
        None if was_live => Lifecycle::stopped(row.enabled, row.boot, Some(lost(&row))),
        None => {
            let reason = row.stop_reason.as_deref().and_then(|json| serde_json::from_str(json).ok());
            Lifecycle::stopped(row.enabled, row.boot, reason)
        }
    };
    let ephemeral = spec.ephemeral;
    let now = now_ms();
    let mappings = serde_json::from_str(&row.ports).unwrap_or_else(|error| {
        tracing::error!(id = row.id, %error, "ports not understood, and closed");
        Vec::new()
    });
    let record = Record {
        id: row.id.clone(),
        handle: row.handle.clone(),
        spec: Arc::new(spec),
        life,
        exit_code: row.exit_code,
        created_ms: row.created_at_ms,
        // Whoever used it when the last daemon ended is about to come back.
        active_ms: if machine.is_some() && !paused { now } else { row.last_active_at_ms },
        stopped_ms: if machine.is_some() || on_disk { None } else { row.stopped_at_ms.or(Some(now)) },
        started_ms: row.started_at_ms,
        last_started_ms: row.started_at_ms,
        since_ms: if machine.is_some() || on_disk {
            row.updated_at_ms
        } else {
            row.stopped_at_ms.unwrap_or(now)
        },
        awake_ms: row.started_at_ms.unwrap_or(0),
    };
    let (mut actor, reference) = Actor::new(Arc::clone(deps), record, mappings);
    actor.was_filled(filled);
    match machine {
        Some(machine) => actor.adopt(machine, paused),
        None if on_disk => actor.go_on(),
        None if was_live => {
            actor.plan_restart();
            reference.output.log_system("stopped: the machine was gone when the daemon started");
            if let Err(error) = deps.registry.update(actor.row(), Some(actor.event("stopped"))).await {
                tracing::error!(id = row.id, %error, "record not stored");
            }
        }
        None => actor.plan_restart(),
    }
    actor.publish();
    deps.table.insert(&row.id, row.handle.as_deref(), reference.clone());
    let instance = instances.launch(actor, reference, ephemeral);
    if !row.enabled && instance.view().state != State::Stopped {
        // The last daemon died while it did that. Owned by the instance: ends with its machine.
        tokio::spawn(async move { instance.request(Request::Disable).await });
    }
}

fn lost(row: &InstanceRow) -> StopReason {
    if row.state == "starting" {
        return StopReason::new("boot_failed", "the daemon died while it was starting");
    }
    StopReason::new("vmm_died", "the machine's process was gone when the daemon started")
}

async fn find_machine(instances: &Instances, row: &InstanceRow) -> Option<Arc<dyn Machine>> {
    instances.machines().recover(&row.id, &machine_handle(row)?).await
}

fn machine_handle(row: &InstanceRow) -> Option<MachineHandle> {
    serde_json::from_str(row.vm.as_deref()?).ok()
}
