//! The daemon itself.

use aegis_api::error::ErrorBody;
use aegis_api::status::{CapabilitiesInfo, DiskInfo, InstanceCounts, ShutdownReply, ShutdownRequest, Status};
use aegis_machines::disk_space::DiskReport;
use aegis_store::free_space::Level;
use axum::Json;
use axum::extract::State;
use bytes::Bytes;

use crate::api_failure::ApiFailure;
use crate::body::parse;
use crate::state::ApiState;

/// How the daemon is, and what it runs on.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
pub(crate) async fn status(State(app): State<ApiState>) -> Json<Status> {
    let capabilities = app.vmm.capabilities();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let disk = app.engine.instances().disk_report();
    let mut warnings = app.warnings.to_vec();
    warnings.extend(disk.as_ref().and_then(overcommitted));
    Json(Status {
        status: "running".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        home: app.home.to_string(),
        backend: app.vmm.name().to_owned(),
        capabilities: CapabilitiesInfo {
            pause_resume: capabilities.pause,
            persistent_pause: capabilities.save,
            accelerator: capabilities.accelerator,
            accelerator_reason: capabilities.accelerator_reason,
        },
        instances: InstanceCounts {
            total: count(app.engine.instances().list().len()),
            live: count(app.engine.instances().live().len()),
        },
        disk: disk.as_ref().map(disk_info),
        warnings,
    })
}

/// That the instances' disks may come to need more than there is.
fn overcommitted(report: &DiskReport) -> Option<String> {
    (report.promised > report.room.free_bytes).then(|| {
        format!(
            "instances' disks may grow by {} MiB, and {} MiB are free: those that fill the disk are paused before it is full",
            report.promised >> 20,
            report.room.free_bytes >> 20
        )
    })
}

/// The host's disk, as the API tells it.
#[must_use]
pub fn disk_info(report: &DiskReport) -> DiskInfo {
    let DiskReport { room, floors, level, reserve, promised } = report;
    let level = match level {
        Level::Ample => "ample",
        Level::Low => "low",
        Level::Full => "full",
    };
    DiskInfo {
        free_bytes: room.free_bytes,
        floor_bytes: floors.bytes,
        free_inodes: (room.total_inodes > 0).then_some(room.free_inodes),
        floor_inodes: floors.inodes,
        reserve_bytes: *reserve,
        promised_bytes: *promised,
        level: level.to_owned(),
    }
}

/// Ends the daemon, after the reply.
#[utoipa::path(post, path = "/v1/shutdown", request_body = ShutdownRequest,
    responses((status = 200, body = ShutdownReply), (status = 400, body = ErrorBody)))]
pub(crate) async fn shutdown(
    State(app): State<ApiState>,
    body: Bytes,
) -> Result<Json<ShutdownReply>, ApiFailure> {
    let ShutdownRequest { keep_instances } = parse(&body)?;
    let live = if keep_instances { Vec::new() } else { app.engine.instances().live() };
    app.shutdown.request(keep_instances);
    Ok(Json(ShutdownReply { stopping: live.iter().map(|view| view.name().to_owned()).collect() }))
}
