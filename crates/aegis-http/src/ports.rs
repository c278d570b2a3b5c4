//! Ports of instances, and leases that keep them awake.

use aegis_api::error::ErrorBody;
use aegis_api::instance::{ActionReply, KeepAlive};
use aegis_api::ports::{EndpointInfo, ExposeRequest};
use aegis_lifecycle::idle_policy::Lease;
use aegis_lifecycle::idle_policy::MOST_REASON;
use aegis_machines::clock::now_ms;
use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;

use crate::api_failure::ApiFailure;
use crate::body::parse;
use crate::mapping;
use crate::state::ApiState;

/// Lease of a request that names no time, milliseconds.
const DEFAULT_LEASE_MS: u64 = 30_000;
/// Longest lease, milliseconds.
const MOST_LEASE_MS: u64 = 24 * 60 * 60 * 1000;

/// Makes ports of an instance reachable from the host, in any state of the instance: all of them or none. What is
/// exposed already in the same way stays as it is.
#[utoipa::path(post, path = "/v1/instances/{id}/expose", request_body = ExposeRequest,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = Vec<EndpointInfo>), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn expose(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Vec<EndpointInfo>>, ApiFailure> {
    let request: ExposeRequest = parse(&body)?;
    let ports = request.exposes.iter().map(mapping::port_request).collect::<Result<Vec<_>, _>>()?;
    let instance = app.engine.instances().find(&id)?;
    let guest_ports: Vec<u16> = ports.iter().map(|port| port.guest_port).collect();
    instance.expose(ports).await?;
    let view = instance.view();
    let asked = view.endpoints.iter().filter(|endpoint| guest_ports.contains(&endpoint.mapping.guest_port));
    Ok(Json(asked.map(mapping::endpoint).collect()))
}

/// Withdraws a port of the guest, if it is exposed. Connections that are open go on.
#[utoipa::path(delete, path = "/v1/instances/{id}/expose/{guest_port}",
    params(("id" = String, description = "Id or handle."), ("guest_port" = u16, description = "Port in the guest.")),
    responses((status = 200, body = ActionReply), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn unexpose(
    State(app): State<ApiState>,
    Path((id, guest_port)): Path<(String, String)>,
) -> Result<Json<ActionReply>, ApiFailure> {
    let port = guest_port.parse().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| ApiFailure::invalid(format!("{guest_port:?} is no port")))?;
    let instance = app.engine.instances().find(&id)?;
    instance.unexpose(port).await?;
    Ok(Json(ActionReply { id: instance.view().id.clone(), status: "unexposed".to_owned() }))
}

/// Keeps an instance from resting for a while. The last request counts.
#[utoipa::path(post, path = "/v1/instances/{id}/keepalive", request_body = KeepAlive,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn keep_alive(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<ActionReply>, ApiFailure> {
    let KeepAlive { ttl_ms, reason } = parse(&body)?;
    let ttl_ms = ttl_ms.unwrap_or(DEFAULT_LEASE_MS);
    if ttl_ms == 0 || ttl_ms > MOST_LEASE_MS {
        return Err(ApiFailure::invalid(format!("a lease lasts 1 to {MOST_LEASE_MS} ms")));
    }
    if reason.chars().count() > MOST_REASON || reason.chars().any(char::is_control) {
        return Err(ApiFailure::invalid(format!(
            "a reason has at most {MOST_REASON} characters, on one line"
        )));
    }
    let instance = app.engine.instances().find(&id)?;
    instance.lease(Some(Lease::lasting(ttl_ms, reason, now_ms()))).await?;
    Ok(Json(ActionReply { id: instance.view().id.clone(), status: "kept_alive".to_owned() }))
}

/// Ends an instance's lease.
#[utoipa::path(delete, path = "/v1/instances/{id}/keepalive", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(crate) async fn release(
    State(app): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, ApiFailure> {
    let instance = app.engine.instances().find(&id)?;
    instance.lease(None).await?;
    Ok(Json(ActionReply { id: instance.view().id.clone(), status: "released".to_owned() }))
}
