//! What instances may reach.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_api::network::{
    CheckReply, CheckRequest, CheckStep, Group, GroupMember, GroupPlace, NetworkEntry, NetworkInfo,
    NetworkPolicy, RuleRequest,
};
use aegis_engine::network_choice::check_group;
use aegis_gateway::control::Reply;
use aegis_gateway::{DecisionEntry, EntryKind, Settings};
use aegis_instances::handle::InstanceHandle;
use aegis_machines::network::gateway_client::GatewayClient;
use aegis_machines::network::groups::Member;
use aegis_policy::{Direction, Name, Policy, Protocol, SyntaxError, Verdict};
use aegis_spec::network::{Membership, NetworkChange};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api_failure::ApiFailure;
use crate::body::{parse, timestamp};
use crate::mapping::{network_counters, network_limits, network_policy};
use crate::state::ApiState;

/// How long the host may take to resolve a name that is checked.
const LOOK_UP: Duration = Duration::from_secs(5);

fn malformed(error: SyntaxError) -> ApiFailure {
    ApiFailure::invalid(error.0)
}

/// What an instance may reach, and what its network has done.
#[utoipa::path(get, path = "/v1/instances/{id}/network", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = NetworkInfo), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(
    State(app): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<NetworkInfo>, ApiFailure> {
    Ok(Json(info(&app.engine.instances().find(&id)?).await))
}

fn places(groups: &[Membership]) -> Vec<GroupPlace> {
    let place = |one: &Membership| GroupPlace { group: one.group.clone(), address: one.address.to_string() };
    groups.iter().map(place).collect()
}

/// All groups and their members.
#[utoipa::path(get, path = "/v1/groups", responses((status = 200, body = Vec<Group>)))]
pub(crate) async fn groups(State(app): State<ApiState>) -> Json<Vec<Group>> {
    let member = |one: &Member| GroupMember {
        id: one.id.clone(),
        name: one.name.clone(),
        address: one.address.to_string(),
    };
    let directory = app.engine.instances().groups();
    let all = directory
        .all()
        .iter()
        .map(|(name, members)| Group { name: name.clone(), members: members.iter().map(member).collect() });
    Json(all.collect())
}

/// Makes an instance a member of a group, at once. The group need not exist.
#[utoipa::path(put, path = "/v1/instances/{id}/network/groups/{group}",
    params(("id" = String, description = "Id or handle."), ("group" = String, description = "The group's name.")),
    responses((status = 200, body = NetworkInfo), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody)))]
pub(crate) async fn join(
    State(app): State<ApiState>,
    Path((id, group)): Path<(String, String)>,
) -> Result<Json<NetworkInfo>, ApiFailure> {
    check_group(&group)?;
    change(&app, &id, NetworkChange::Join(group)).await
}

/// Ends an instance's membership of a group, at once: connections between them end. The group ends with its last member.
#[utoipa::path(delete, path = "/v1/instances/{id}/network/groups/{group}",
    params(("id" = String, description = "Id or handle."), ("group" = String, description = "The group's name.")),
    responses((status = 200, body = NetworkInfo), (status = 404, body = ErrorBody)))]
pub(crate) async fn leave(
    State(app): State<ApiState>,
    Path((id, group)): Path<(String, String)>,
) -> Result<Json<NetworkInfo>, ApiFailure> {
    let view = app.engine.instances().find(&id)?.view();
    if !view.spec.network.groups.iter().any(|place| place.group == group) {
        let text = format!("the instance is no member of a group {group:?}");
        return Err(ApiFailure(ApiError::new(ErrorCode::NotFound, text).hint("see: aegis network groups")));
    }
    change(&app, &id, NetworkChange::Leave(group)).await
}

async fn info(instance: &InstanceHandle) -> NetworkInfo {
    let view = instance.view();
    let state = match instance.network_is_up() {
        Some(true) => "up",
        Some(false) => "down",
        None => "off",
    };
    NetworkInfo {
        id: view.id.clone(),
        state: state.to_owned(),
        policy: network_policy(&view.spec.network.policy),
        host_ports: view.spec.network.host_ports.clone(),
        groups: places(&view.spec.network.groups),
        limits: network_limits(&view.spec.network.limits),
        counters: instance.network_counters().await.map(network_counters),
    }
}

/// Replaces what an instance may reach, at once: flows that may not be any more end.
#[utoipa::path(put, path = "/v1/instances/{id}/network", request_body = NetworkPolicy,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = NetworkInfo), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn replace(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<NetworkInfo>, ApiFailure> {
    let NetworkPolicy { default, rules } = parse(&body)?;
    let rules = rules.iter().map(|rule| rule.parse()).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    let policy = Policy { default: default.parse().map_err(malformed)?, rules };
    change(&app, &id, NetworkChange::Replace(policy)).await
}

/// Adds a rule before all others, in the place of the same rule or its contrary. It is in force at once.
#[utoipa::path(post, path = "/v1/instances/{id}/network/rules", request_body = RuleRequest,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = NetworkInfo), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn prefer(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<NetworkInfo>, ApiFailure> {
    let RuleRequest { rule } = parse(&body)?;
    change(&app, &id, NetworkChange::Prefer(rule.parse().map_err(malformed)?)).await
}

async fn change(app: &ApiState, id: &str, change: NetworkChange) -> Result<Json<NetworkInfo>, ApiFailure> {
    let instance = app.engine.instances().find(id)?;
    instance.change_network(change).await?;
    Ok(Json(info(&instance).await))
}

/// What would happen, and which rule decides.
#[utoipa::path(post, path = "/v1/instances/{id}/network/check", request_body = CheckRequest,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = CheckReply), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn check(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<CheckReply>, ApiFailure> {
    let CheckRequest { host, port, protocol } = parse(&body)?;
    let protocol =
        Protocol::of(&protocol).ok_or_else(|| ApiFailure::invalid("the protocol is tcp, udp or icmp"))?;
    let view = app.engine.instances().find(&id)?.view();
    let network = view.spec.network.clone();
    let groups = app.engine.instances().groups().seen_by(&view.id);
    let settings =
        Settings { policy: network.policy, host_ports: network.host_ports, groups, ..Settings::default() };
    if let Ok(address) = host.parse::<IpAddr>() {
        let verdict = aegis_gateway::check(&settings, protocol, SocketAddr::new(address, port), None);
        return Ok(Json(CheckReply { allowed: verdict.allows(), steps: vec![step(host, &verdict)] }));
    }
    let name = Name::new(&host).map_err(malformed)?;
    let mut members = settings.groups.iter().flat_map(|group| &group.members);
    if let Some((_, address)) = members.find(|(member, _)| *member == name) {
        let verdict =
            aegis_gateway::check(&settings, protocol, SocketAddr::new((*address).into(), port), None);
        return Ok(Json(CheckReply { allowed: verdict.allows(), steps: vec![step(host, &verdict)] }));
    }
    let asked = settings.policy.resolves(&name);
    let mut steps = vec![step(host.clone(), &asked)];
    let mut allowed = false;
    if asked.allows() {
        for address in look_up(&host).await {
            let verdict =
                aegis_gateway::check(&settings, protocol, SocketAddr::new(address, port), Some(name.clone()));
            allowed |= verdict.allows();
            steps.push(step(address.to_string(), &verdict));
        }
    }
    Ok(Json(CheckReply { steps, allowed }))
}

fn step(what: String, verdict: &Verdict) -> CheckStep {
    CheckStep { what, action: verdict.action.as_str().to_owned(), because: verdict.because.to_string() }
}

/// The addresses that this host finds for a name.
async fn look_up(name: &str) -> Vec<IpAddr> {
    match tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(found)) => {
            let mut all: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            all.dedup();
            all
        }
        _ => Vec::new(),
    }
}

/// Which part of the decisions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Selection {
    /// Go on with what is decided, until the machine ends.
    follow: bool,
}

/// The last decisions of an instance's gateway, oldest first; at most 1024 of them, since the machine was booted.
#[utoipa::path(get, path = "/v1/instances/{id}/network/log",
    params(("id" = String, description = "Id or handle."), Selection),
    responses((status = 200, content_type = "application/x-ndjson", body = NetworkEntry), (status = 404, body = ErrorBody)))]
pub(crate) async fn log(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    Query(selection): Query<Selection>,
) -> Result<Response, ApiFailure> {
    let instance = app.engine.instances().find(&id)?;
    let (mut sender, body) = Channel::<Bytes>::new(8);
    let follower = instance.follow_network(selection.follow).await;
    let end = app.shutdown.clone();
    app.streams.spawn(async move {
        let Some(follower) = follower else { return };
        tokio::select! {
            () = tell(follower, &mut sender) => {}
            () = end.requested().cancelled() => {}
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response())
}

async fn tell(mut gateway: GatewayClient, sender: &mut Sender<Bytes>) {
    while let Ok(Reply::Entry(entry)) = gateway.next().await {
        let mut json = serde_json::to_vec(&told(entry)).unwrap_or_default();
        json.push(b'\n');
        if sender.send_data(json.into()).await.is_err() {
            return;
        }
    }
}

fn told(entry: DecisionEntry) -> NetworkEntry {
    NetworkEntry {
        seq: entry.seq,
        ts: timestamp(i64::try_from(entry.at_ms).unwrap_or(i64::MAX)),
        what: match entry.what {
            EntryKind::Flow => "flow",
            EntryKind::End => "end",
            EntryKind::Name => "name",
        }
        .to_owned(),
        direction: if entry.direction == Direction::In { "in" } else { "out" }.to_owned(),
        protocol: entry.protocol.as_str().to_owned(),
        name: entry.name,
        address: entry.address.map(|address| address.to_string()),
        port: entry.port,
        action: entry.action.as_str().to_owned(),
        because: entry.because,
        bytes_out: entry.bytes_out,
        bytes_in: entry.bytes_in,
    }
}
