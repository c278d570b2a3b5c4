//! What instances may reach.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_api::handle;
use aegis_api::instance::CreateInstance;
use aegis_api::network::{
    CheckReply, CheckRequest, CheckStep, Group, GroupMember, GroupPlace, NetworkCounters, NetworkEntry,
    NetworkInfo, NetworkLimits, NetworkPolicy, NetworkRequest, RuleRequest,
};
use aegis_gateway::control::Reply;
use aegis_gateway::{Counters, Entry, Limits, Settings, What};
use aegis_instances::Conversation;
use aegis_instances::manager::InstanceHandle;
use aegis_instances::network::groups::{Member, Membership};
use aegis_instances::network::{NetworkChange, NetworkSpec};
use aegis_policy::{Direction, Name, Policy, Protocol, Ruling, SyntaxError};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use serde::Deserialize;
use utoipa::IntoParams;

use super::convert::{parse, timestamp};
use super::failure::Failure;
use crate::App;
use crate::config::NetworkDefaults;

/// How long the host may take to resolve a name that is checked.
const LOOK_UP: Duration = Duration::from_secs(5);

fn malformed(error: SyntaxError) -> Failure {
    Failure::invalid(error.0)
}

/// Names that mean something else already.
const NO_GROUPS: [&str; 2] = ["aegis", "localhost"];

/// Checks a group's name: the rule is that for handles.
fn check_group(name: &str) -> Result<(), Failure> {
    handle::check(name).map_err(|error| {
        Failure::invalid(format!("the group {name:?}: {error}; names of groups follow the same rule"))
    })?;
    if NO_GROUPS.contains(&name) {
        return Err(Failure::invalid(format!("no group can be named {name:?}")));
    }
    Ok(())
}

/// What a request asks for, over what instances get that ask for nothing.
///
/// # Errors
/// For the first part that makes no sense.
pub(super) fn spec(request: &CreateInstance, defaults: &NetworkDefaults) -> Result<NetworkSpec, Failure> {
    let Some(NetworkRequest { default, rules, host_ports, limits, trust_host_cas, groups }) =
        &request.network
    else {
        let NetworkDefaults { policy, trust_host_cas } = defaults.clone();
        return Ok(NetworkSpec { policy, trust_host_cas, ..NetworkSpec::default() });
    };
    groups.iter().try_for_each(|group| check_group(group))?;
    let default = default.as_deref().map(str::parse).transpose().map_err(malformed)?;
    let rules =
        rules.as_ref().map(|rules| rules.iter().map(|rule| rule.parse()).collect::<Result<Vec<_>, _>>());
    let bounds = Limits::default();
    Ok(NetworkSpec {
        policy: Policy {
            default: default.unwrap_or(defaults.policy.default),
            rules: rules.transpose().map_err(malformed)?.unwrap_or_else(|| defaults.policy.rules.clone()),
        },
        host_ports: host_ports.clone(),
        trust_host_cas: *trust_host_cas || defaults.trust_host_cas,
        // Its places in them are found when it is made.
        groups: Vec::new(),
        limits: Limits {
            flows: limits.flows.map_or(bounds.flows, |flows| flows as usize),
            queries: limits.queries.unwrap_or(bounds.queries),
            packets: limits.packets,
            bandwidth: limits.bandwidth,
        },
    })
}

pub(super) fn policy(policy: &Policy) -> NetworkPolicy {
    NetworkPolicy {
        default: policy.default.as_str().to_owned(),
        rules: policy.rules.iter().map(ToString::to_string).collect(),
    }
}

fn limits(limits: &Limits) -> NetworkLimits {
    NetworkLimits {
        bandwidth: limits.bandwidth,
        packets: limits.packets,
        flows: u32::try_from(limits.flows).ok(),
        queries: Some(limits.queries),
    }
}

pub(super) fn counters(counters: Counters) -> NetworkCounters {
    let Counters {
        packets_out,
        bytes_out,
        packets_in,
        bytes_in,
        lost,
        flows,
        open_flows,
        denied,
        queries,
        limited,
        dropped,
    } = counters;
    NetworkCounters {
        bytes_out,
        bytes_in,
        packets_out,
        packets_in,
        lost,
        flows,
        open_flows,
        denied,
        queries,
        limited,
        dropped,
    }
}

/// What an instance may reach, and what its network has done.
#[utoipa::path(get, path = "/v1/instances/{id}/network", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = NetworkInfo), (status = 404, body = ErrorBody)))]
pub(super) async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<NetworkInfo>, Failure> {
    Ok(Json(info(&app.instances.find(&id)?).await))
}

fn places(groups: &[Membership]) -> Vec<GroupPlace> {
    let place = |one: &Membership| GroupPlace { group: one.group.clone(), address: one.address.to_string() };
    groups.iter().map(place).collect()
}

/// All groups and their members.
#[utoipa::path(get, path = "/v1/groups", responses((status = 200, body = Vec<Group>)))]
pub(super) async fn groups(State(app): State<App>) -> Json<Vec<Group>> {
    let member = |one: &Member| GroupMember {
        id: one.id.clone(),
        name: one.name.clone(),
        address: one.address.to_string(),
    };
    let directory = app.instances.groups();
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
pub(super) async fn join(
    State(app): State<App>,
    Path((id, group)): Path<(String, String)>,
) -> Result<Json<NetworkInfo>, Failure> {
    check_group(&group)?;
    change(&app, &id, NetworkChange::Join(group)).await
}

/// Ends an instance's membership of a group, at once: connections between them end. The group ends with its last member.
#[utoipa::path(delete, path = "/v1/instances/{id}/network/groups/{group}",
    params(("id" = String, description = "Id or handle."), ("group" = String, description = "The group's name.")),
    responses((status = 200, body = NetworkInfo), (status = 404, body = ErrorBody)))]
pub(super) async fn leave(
    State(app): State<App>,
    Path((id, group)): Path<(String, String)>,
) -> Result<Json<NetworkInfo>, Failure> {
    let view = app.instances.find(&id)?.view();
    if !view.spec.network.groups.iter().any(|place| place.group == group) {
        let text = format!("the instance is no member of a group {group:?}");
        return Err(Failure(ApiError::new(ErrorCode::NotFound, text).hint("see: aegis network groups")));
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
        policy: policy(&view.spec.network.policy),
        host_ports: view.spec.network.host_ports.clone(),
        groups: places(&view.spec.network.groups),
        limits: limits(&view.spec.network.limits),
        counters: instance.network_counters().await.map(counters),
    }
}

/// Replaces what an instance may reach, at once: flows that may not be any more end.
#[utoipa::path(put, path = "/v1/instances/{id}/network", request_body = NetworkPolicy,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = NetworkInfo), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn replace(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<NetworkInfo>, Failure> {
    let NetworkPolicy { default, rules } = parse(&body)?;
    let rules = rules.iter().map(|rule| rule.parse()).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    let policy = Policy { default: default.parse().map_err(malformed)?, rules };
    change(&app, &id, NetworkChange::Replace(policy)).await
}

/// Adds a rule before all others, in the place of the same rule or its contrary. It is in force at once.
#[utoipa::path(post, path = "/v1/instances/{id}/network/rules", request_body = RuleRequest,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = NetworkInfo), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn prefer(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<NetworkInfo>, Failure> {
    let RuleRequest { rule } = parse(&body)?;
    change(&app, &id, NetworkChange::Prefer(rule.parse().map_err(malformed)?)).await
}

async fn change(app: &App, id: &str, change: NetworkChange) -> Result<Json<NetworkInfo>, Failure> {
    let instance = app.instances.find(id)?;
    instance.change_network(change).await?;
    Ok(Json(info(&instance).await))
}

/// What would happen, and which rule decides.
#[utoipa::path(post, path = "/v1/instances/{id}/network/check", request_body = CheckRequest,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = CheckReply), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn check(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<CheckReply>, Failure> {
    let CheckRequest { host, port, protocol } = parse(&body)?;
    let protocol =
        Protocol::of(&protocol).ok_or_else(|| Failure::invalid("the protocol is tcp, udp or icmp"))?;
    let view = app.instances.find(&id)?.view();
    let network = view.spec.network.clone();
    let groups = app.instances.groups().seen_by(&view.id);
    let settings =
        Settings { policy: network.policy, host_ports: network.host_ports, groups, ..Settings::default() };
    if let Ok(address) = host.parse::<IpAddr>() {
        let ruling = aegis_gateway::check(&settings, protocol, SocketAddr::new(address, port), None);
        return Ok(Json(CheckReply { allowed: ruling.allows(), steps: vec![step(host, &ruling)] }));
    }
    let name = Name::new(&host).map_err(malformed)?;
    let mut members = settings.groups.iter().flat_map(|group| &group.members);
    if let Some((_, address)) = members.find(|(member, _)| *member == name) {
        let ruling =
            aegis_gateway::check(&settings, protocol, SocketAddr::new((*address).into(), port), None);
        return Ok(Json(CheckReply { allowed: ruling.allows(), steps: vec![step(host, &ruling)] }));
    }
    let asked = settings.policy.resolves(&name);
    let mut steps = vec![step(host.clone(), &asked)];
    let mut allowed = false;
    if asked.allows() {
        for address in look_up(&host).await {
            let ruling =
                aegis_gateway::check(&settings, protocol, SocketAddr::new(address, port), Some(name.clone()));
            allowed |= ruling.allows();
            steps.push(step(address.to_string(), &ruling));
        }
    }
    Ok(Json(CheckReply { steps, allowed }))
}

fn step(what: String, ruling: &Ruling) -> CheckStep {
    CheckStep { what, action: ruling.action.as_str().to_owned(), because: ruling.because.to_string() }
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
pub(super) struct Selection {
    /// Go on with what is decided, until the machine ends.
    follow: bool,
}

/// The last decisions of an instance's gateway, oldest first; at most 1024 of them, since the machine was booted.
#[utoipa::path(get, path = "/v1/instances/{id}/network/log",
    params(("id" = String, description = "Id or handle."), Selection),
    responses((status = 200, content_type = "application/x-ndjson", body = NetworkEntry), (status = 404, body = ErrorBody)))]
pub(super) async fn log(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(selection): Query<Selection>,
) -> Result<Response, Failure> {
    let instance = app.instances.find(&id)?;
    let (mut sender, body) = Channel::<Bytes>::new(8);
    let follower = instance.follow_network(selection.follow).await;
    let end = app.end.clone();
    app.streams.spawn(async move {
        let Some(follower) = follower else { return };
        tokio::select! {
            () = tell(follower, &mut sender) => {}
            () = end.wanted.cancelled() => {}
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response())
}

async fn tell(mut gateway: Conversation, sender: &mut Sender<Bytes>) {
    while let Ok(Reply::Entry(entry)) = gateway.next().await {
        let mut json = serde_json::to_vec(&told(entry)).unwrap_or_default();
        json.push(b'\n');
        if sender.send_data(json.into()).await.is_err() {
            return;
        }
    }
}

fn told(entry: Entry) -> NetworkEntry {
    NetworkEntry {
        seq: entry.seq,
        ts: timestamp(i64::try_from(entry.at_ms).unwrap_or(i64::MAX)),
        what: match entry.what {
            What::Flow => "flow",
            What::End => "end",
            What::Name => "name",
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
