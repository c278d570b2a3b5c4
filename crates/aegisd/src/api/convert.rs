//! Between the API's types and those of the instances.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use aegis_api::handle;
use aegis_api::instance::{
    CreateInstance, DiskUsage, ExecRequest, IdleTime, Instance, NextStep, Restart, State, StopReason,
    TerminalSize, TimedStep, Timings,
};
use aegis_api::ports::{EndpointInfo, Expose, Protocol};
use aegis_api::words;
use aegis_guest_protocol::argument::Argument;
use aegis_guest_protocol::messages::{self, DiskUsageReply};
use aegis_instances::exec::ExecSpec;
use aegis_instances::kit::KitUse;
use aegis_instances::lifecycle;
use aegis_instances::ports::{Endpoint, Wanted};
use aegis_instances::rest::{After, Due, RestSpec};
use aegis_instances::restart::RestartPolicy;
use aegis_instances::root::PinnedImage;
use aegis_instances::secret::ALL;
use aegis_instances::spec::{self, InstanceSpec};
use aegis_instances::{StopReason as Reason, View};

use aegis_store::secrets::names;
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::failure::Failure;
use super::{network, workspaces};
use crate::App;
use crate::config::NetworkDefaults;

/// A body as JSON; an empty one counts as `{}`.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| Failure::invalid(format!("the body does not fit: {error}")))
}

pub(super) fn timestamp(ms: i64) -> String {
    // A time out of range can only come from a broken clock.
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

pub(super) fn state(state: lifecycle::State) -> State {
    match state {
        lifecycle::State::Stopped => State::Stopped,
        lifecycle::State::Starting => State::Starting,
        lifecycle::State::Running => State::Running,
        lifecycle::State::Paused => State::Paused,
        lifecycle::State::Hibernated => State::Hibernated,
    }
}

pub(crate) fn reason(reason: &Reason) -> StopReason {
    StopReason { code: reason.code.clone(), message: reason.message.clone(), console: reason.console.clone() }
}

pub(super) fn size(size: TerminalSize) -> messages::TerminalSize {
    messages::TerminalSize { rows: size.rows, cols: size.cols }
}

pub(super) fn endpoint(endpoint: &Endpoint) -> EndpointInfo {
    EndpointInfo {
        guest_port: endpoint.mapping.guest_port,
        public_port: endpoint.mapping.public_port,
        address: endpoint.mapping.address.to_string(),
        protocol: endpoint.mapping.protocol.clone(),
        problem: endpoint.problem.clone(),
    }
}

pub(super) fn wanted(expose: &Expose) -> Result<Wanted, Failure> {
    if expose.guest_port == 0 || expose.public_port == Some(0) {
        return Err(Failure::invalid("ports are 1 to 65535"));
    }
    Ok(Wanted {
        guest_port: expose.guest_port,
        public_port: expose.public_port,
        address: expose.address(),
        protocol: expose.protocol.to_string(),
    })
}

fn after(time: IdleTime) -> After {
    match time {
        IdleTime::Ms(ms) => After::Ms(ms),
        IdleTime::Never(_) => After::Never,
    }
}

fn policy(restart: Restart) -> RestartPolicy {
    match restart {
        Restart::No => RestartPolicy::No,
        Restart::OnFailure(most) => RestartPolicy::OnFailure(most),
        Restart::Always => RestartPolicy::Always,
    }
}

fn restart(policy: RestartPolicy) -> Restart {
    match policy {
        RestartPolicy::No => Restart::No,
        RestartPolicy::OnFailure(most) => Restart::OnFailure(most),
        RestartPolicy::Always => Restart::Always,
    }
}

fn next_step(due: Due) -> NextStep {
    let action = match due.rung {
        lifecycle::Rung::Pause => "pause",
        lifecycle::Rung::Hibernate => "hibernate",
        lifecycle::Rung::Stop => "stop",
    };
    NextStep { action: action.to_owned(), at: timestamp(due.at_ms) }
}

/// Where the first HTTP port is found by name.
fn url(view: &View, names: Option<SocketAddr>) -> Option<String> {
    let port = names?.port();
    let http = |endpoint: &Endpoint| endpoint.mapping.protocol != Protocol::Tcp.as_str();
    view.endpoints.iter().any(http).then(|| format!("http://{}.localhost:{port}/", view.name()))
}

pub(super) fn instance(app: &App, view: &View) -> Instance {
    let spec = &view.spec;
    Instance {
        id: view.id.clone(),
        handle: view.handle.clone(),
        state: state(view.state),
        enabled: view.enabled,
        command: words::text(&spec.command),
        command_base64: words::base64(&spec.command),
        active_connections: view.usage.counts().connections,
        endpoints: view.endpoints.iter().map(endpoint).collect(),
        url: url(view, app.names),
        state_since: timestamp(view.since_ms),
        next_step: view.next_step().map(next_step),
        kept_awake_by: view.kept_awake_by(),
        restart: restart(spec.restart),
        lifetime_ends_at: view.lifetime_ends_ms.map(timestamp),
        restart_at: view.attempts.next_ms.map(timestamp),
        condition: view.condition(),
        created_at: timestamp(view.created_ms),
        updated_at: timestamp(view.updated_ms),
        last_active_at: timestamp(view.active_ms),
        started_at: view.started_ms.map(timestamp),
        timings: view.timings.as_ref().map(timings),
        stopped_at: view.stopped_ms.map(timestamp),
        exit_code: view.exit_code,
        stop_reason: view.reason.as_ref().map(reason),
        memory_mb: spec.memory_mib,
        vcpus: spec.vcpus,
        disk_mb: spec.disk_mib,
        workdir: spec.workdir.clone(),
        user: spec.user.clone(),
        env_keys: app.instances.variables(spec),
        ephemeral: spec.ephemeral,
        image: spec.image.as_ref().map(|image| image.reference.clone()),
        image_digest: spec.image.as_ref().map(|image| image.digest.clone()),
        workspace: workspaces::of(view),
        mounts: workspaces::all_of(view),
        network: network::policy(&spec.network.policy),
        secret_keys: spec.secrets.clone(),
        kit: spec.kit.as_ref().map(|kit| kit.name.clone()),
        confinement: Some(aegis_jail::Support::of_host().to_string()),
        disk_usage: None,
        pid: app.instances.find(&view.id).ok().and_then(|instance| instance.pid()),
    }
}

pub(super) fn disk_usage(usage: DiskUsageReply) -> DiskUsage {
    DiskUsage {
        used_bytes: usage.used_bytes,
        total_bytes: usage.total_bytes,
        used_inodes: usage.used_inodes,
        total_inodes: usage.total_inodes,
    }
}

pub(super) fn timings(timings: &aegis_instances::machine::timings::Timings) -> Timings {
    let step = |(name, took): &(&str, Duration)| TimedStep {
        name: (*name).to_owned(),
        us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    };
    Timings { start: timings.start.as_str().to_owned(), steps: timings.steps.iter().map(step).collect() }
}

/// What a request for a new instance asks for, with everything absent filled in.
pub(super) fn new_spec(
    request: &CreateInstance,
    rootfs: String,
    image: Option<PinnedImage>,
    kit: Option<KitUse>,
    defaults: &NetworkDefaults,
) -> Result<InstanceSpec, Failure> {
    if let Some(name) = &request.handle {
        check_handle(name)?;
    }
    Ok(InstanceSpec {
        command: command(&request.command, &request.command_base64)?,
        env: request.env.clone(),
        memory_mib: request.memory_mb.unwrap_or(spec::DEFAULT_MEMORY_MIB),
        vcpus: processors(request.vcpus)?,
        disk_mib: request.disk_mb.unwrap_or(spec::DEFAULT_DISK_MIB),
        workdir: request.workdir.clone().unwrap_or_else(|| spec::DEFAULT_WORKDIR.to_owned()),
        user: request.user.clone().unwrap_or_else(|| spec::DEFAULT_USER.to_owned()),
        timeout_ms: request.timeout_ms,
        max_lifetime_ms: request.max_lifetime_ms,
        no_template: request.no_template,
        tty: request.tty.map(size),
        stdin: request.stdin,
        ephemeral: request.ephemeral,
        rootfs,
        image,
        secrets: secret_names(&request.secrets)?,
        mounts: workspaces::mounts(request)?,
        kit,
        network: network::spec(request, defaults)?,
        rest: RestSpec {
            pause: request.idle_pause_ms.map(after),
            hibernate: request.idle_hibernate_ms.map(after),
            stop: request.idle_stop_ms.map(after),
            connections: request.idle_connections_after_ms.map(after),
        },
        restart: request.restart.map_or(RestartPolicy::No, policy),
    })
}

/// The virtual processors that are asked for. A guest with more than the host has waits for itself, and does not come up in
/// time.
fn processors(wanted: Option<u32>) -> Result<u32, Failure> {
    /// As many as every host can stand.
    const FEW: u32 = 2;
    let of_host = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = u32::try_from(of_host).unwrap_or(u32::MAX).max(FEW);
    match wanted {
        None => Ok(spec::DEFAULT_VCPUS),
        Some(wanted) if wanted > most => Err(Failure::invalid(format!(
            "{wanted} virtual processors; this host has {of_host} processors, and {most} are possible"
        ))),
        Some(wanted) => Ok(wanted),
    }
}

/// Each name once; all of them are one name.
fn secret_names(wanted: &[String]) -> Result<Vec<String>, Failure> {
    if wanted.iter().any(|name| name == ALL) {
        return Ok(vec![ALL.to_owned()]);
    }
    if let Some(refusal) = wanted.iter().find_map(|name| names::refusal(name)) {
        return Err(Failure::invalid(refusal));
    }
    Ok(wanted.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect())
}

pub(super) fn check_handle(name: &str) -> Result<(), Failure> {
    handle::check(name).map_err(|error| Failure::invalid(format!("{name:?}: {error}")))
}

/// Whether a request names nothing but an existing instance's handle.
pub(super) fn names_only(request: &CreateInstance) -> bool {
    *request == bare(request)
}

fn bare(request: &CreateInstance) -> CreateInstance {
    CreateInstance { handle: request.handle.clone(), wait: request.wait, ..CreateInstance::default() }
}

/// The size of the disk, if a request names nothing else but an existing instance's handle.
pub(super) fn names_disk(request: &CreateInstance) -> Option<u64> {
    let disk_mb = request.disk_mb;
    disk_mb.filter(|_| *request == CreateInstance { disk_mb, ..bare(request) })
}

/// Whether a request names nothing but an existing instance's handle and directories.
pub(super) fn names_directories(request: &CreateInstance) -> bool {
    let (workspace, mounts) = (request.workspace.clone(), request.mounts.clone());
    *request == CreateInstance { workspace, mounts, ..bare(request) }
}

fn command(text: &[String], base64: &[String]) -> Result<Vec<Argument>, Failure> {
    let words = words::of_request(text, base64).map_err(|error| Failure::invalid(error.to_string()))?;
    Ok(words.into_iter().map(Argument::from).collect())
}

pub(super) fn exec_spec(request: ExecRequest) -> Result<ExecSpec, Failure> {
    Ok(ExecSpec {
        command: command(&request.command, &request.command_base64)?,
        env: request.env,
        workdir: request.workdir,
        user: request.user,
        tty: request.tty.map(size),
        stdin: request.stdin,
        detached: request.detach,
    })
}
