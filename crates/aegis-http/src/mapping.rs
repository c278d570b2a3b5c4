//! Between the API's types and those of the instances.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aegis_api::command_encoding;
use aegis_api::handle;
use aegis_api::image::PullPolicy;
use aegis_api::instance::{
    CreateInstance, DiskUsage, ExecRequest, IdleTime, Instance, NextStep, Restart, State, StopReason,
    TerminalSize, TimedStep, Timings,
};
use aegis_api::network::{NetworkCounters, NetworkLimits, NetworkPolicy};
use aegis_api::ports::{EndpointInfo, Expose, Protocol};
use aegis_api::workspace::{self, HostMount};
use aegis_engine::kits::manifest_defaults;
use aegis_engine::network_choice::NetworkChoice;
use aegis_engine::new_instance::{NewInstance, PullPolicy as Pull};
use aegis_gateway::Counters;
use aegis_guest_protocol::argument::Argument;
use aegis_guest_protocol::messages::{self, DiskUsageReply};
use aegis_instances::ports::{Endpoint, PortRequest};
use aegis_instances::view::View;
use aegis_lifecycle::event as lifecycle;
use aegis_lifecycle::idle_policy::{After, DueSleep, IdleSpec};
use aegis_lifecycle::restart_policy::RestartPolicy;
use aegis_lifecycle::stop_reason::StopReason as Reason;
use aegis_policy::{Limits, Policy};
use aegis_spec::exec::ExecSpec;
use aegis_spec::mount::{Mount, Source};

use crate::api_failure::ApiFailure;
use crate::body::timestamp;
use crate::state::ApiState;

pub(crate) fn state(state: lifecycle::State) -> State {
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

pub(crate) fn size(size: TerminalSize) -> messages::TerminalSize {
    messages::TerminalSize { rows: size.rows, cols: size.cols }
}

pub(crate) fn endpoint(endpoint: &Endpoint) -> EndpointInfo {
    EndpointInfo {
        guest_port: endpoint.mapping.guest_port,
        public_port: endpoint.mapping.public_port,
        address: endpoint.mapping.address.to_string(),
        protocol: endpoint.mapping.protocol.clone(),
        problem: endpoint.problem.clone(),
    }
}

pub(crate) fn port_request(expose: &Expose) -> Result<PortRequest, ApiFailure> {
    if expose.guest_port == 0 || expose.public_port == Some(0) {
        return Err(ApiFailure::invalid("ports are 1 to 65535"));
    }
    Ok(manifest_defaults::port_request(expose))
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

fn next_step(due: DueSleep) -> NextStep {
    let action = match due.level {
        lifecycle::SleepLevel::Pause => "pause",
        lifecycle::SleepLevel::Hibernate => "hibernate",
        lifecycle::SleepLevel::Stop => "stop",
    };
    NextStep { action: action.to_owned(), at: timestamp(due.at_ms) }
}

/// Where the first HTTP port is found by name.
fn url(view: &View, names: Option<SocketAddr>) -> Option<String> {
    let port = names?.port();
    let http = |endpoint: &Endpoint| endpoint.mapping.protocol != Protocol::Tcp.as_str();
    view.endpoints.iter().any(http).then(|| format!("http://{}.localhost:{port}/", view.name()))
}

pub(crate) fn instance(app: &ApiState, view: &View) -> Instance {
    let spec = &view.spec;
    Instance {
        id: view.id.clone(),
        handle: view.handle.clone(),
        state: state(view.state),
        enabled: view.enabled,
        command: command_encoding::text(&spec.command),
        command_base64: command_encoding::base64(&spec.command),
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
        env_keys: app.engine.instances().machines().environment().variables(spec),
        ephemeral: spec.ephemeral,
        image: spec.image.as_ref().map(|image| image.reference.clone()),
        image_digest: spec.image.as_ref().map(|image| image.digest.clone()),
        workspace: workspace_of(view),
        mounts: mounts_of(view),
        network: network_policy(&spec.network.policy),
        secret_keys: spec.secrets.clone(),
        kit: spec.kit.as_ref().map(|kit| kit.name.clone()),
        confinement: Some(aegis_jail::Support::of_host().to_string()),
        disk_usage: None,
        pid: app.engine.instances().find(&view.id).ok().and_then(|instance| instance.pid()),
    }
}

pub(crate) fn disk_usage(usage: DiskUsageReply) -> DiskUsage {
    DiskUsage {
        used_bytes: usage.used_bytes,
        total_bytes: usage.total_bytes,
        used_inodes: usage.used_inodes,
        total_inodes: usage.total_inodes,
    }
}

pub(crate) fn timings(timings: &aegis_machines::boot_timings::Timings) -> Timings {
    let step = |(name, took): &(&str, Duration)| TimedStep {
        name: (*name).to_owned(),
        us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    };
    Timings { start: timings.start.as_str().to_owned(), steps: timings.steps.iter().map(step).collect() }
}

/// What a request for an instance asks for.
pub(crate) fn new_instance(request: &CreateInstance) -> Result<NewInstance, ApiFailure> {
    let new = NewInstance {
        handle: request.handle.clone(),
        command: command(&request.command, &request.command_base64)?,
        env: request.env.clone(),
        memory_mib: request.memory_mb,
        vcpus: request.vcpus,
        disk_mib: request.disk_mb,
        workdir: request.workdir.clone(),
        user: request.user.clone(),
        timeout_ms: request.timeout_ms,
        max_lifetime_ms: request.max_lifetime_ms,
        no_template: request.no_template,
        tty: request.tty.map(size),
        stdin: request.stdin,
        ephemeral: request.ephemeral,
        image: request.image.clone(),
        pull: request.pull.map(pull_policy),
        no_image_env: request.no_image_env,
        secrets: request.secrets.clone(),
        mounts: mounts(request)?,
        followed: request.followed.iter().map(PathBuf::from).collect(),
        kit: request.kit.clone(),
        network: request.network.as_ref().map(NetworkChoice::try_from).transpose()?,
        idle: IdleSpec {
            pause: request.idle_pause_ms.map(after),
            hibernate: request.idle_hibernate_ms.map(after),
            stop: request.idle_stop_ms.map(after),
            connections: request.idle_connections_after_ms.map(after),
        },
        restart: request.restart.map(policy),
        ports: request.exposes.iter().map(port_request).collect::<Result<Vec<_>, _>>()?,
    };
    // One that names what is there may name it by its id.
    if !(new.names_only() || new.names_disk() || new.names_directories())
        && let Some(handle) = &new.handle
    {
        check_handle(handle)?;
    }
    Ok(new)
}

fn pull_policy(policy: PullPolicy) -> Pull {
    match policy {
        PullPolicy::Missing => Pull::Missing,
        PullPolicy::Always => Pull::Always,
        PullPolicy::Never => Pull::Never,
    }
}

pub(crate) fn check_handle(name: &str) -> Result<(), ApiFailure> {
    handle::check(name).map_err(|error| ApiFailure::invalid(format!("{name:?}: {error}")))
}

fn command(text: &[String], base64: &[String]) -> Result<Vec<Argument>, ApiFailure> {
    let words =
        command_encoding::of_request(text, base64).map_err(|error| ApiFailure::invalid(error.to_string()))?;
    Ok(words.into_iter().map(Argument::from).collect())
}

pub(crate) fn exec_spec(request: ExecRequest) -> Result<ExecSpec, ApiFailure> {
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

pub(crate) fn network_policy(policy: &Policy) -> NetworkPolicy {
    NetworkPolicy {
        default: policy.default.as_str().to_owned(),
        rules: policy.rules.iter().map(ToString::to_string).collect(),
    }
}

pub(crate) fn network_limits(limits: &Limits) -> NetworkLimits {
    NetworkLimits {
        bandwidth: limits.bandwidth,
        packets: limits.packets,
        flows: u32::try_from(limits.flows).ok(),
        queries: Some(limits.queries),
    }
}

pub(crate) fn network_counters(counters: Counters) -> NetworkCounters {
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

pub(crate) fn check_workspace(name: &str) -> Result<(), ApiFailure> {
    workspace::check_name(name)
        .map_err(|error| ApiFailure::invalid(format!("{name:?} is no name of a workspace: {error}")))
}

fn source(text: &str) -> Result<Source, ApiFailure> {
    if workspace::is_path(text) {
        return Ok(Source::Path(PathBuf::from(text)));
    }
    check_workspace(text)?;
    Ok(Source::Named(text.to_owned()))
}

/// The directories of the host that a request asks for.
fn mounts(request: &CreateInstance) -> Result<Vec<Mount>, ApiFailure> {
    let mut all = Vec::new();
    if let Some(own) = &request.workspace {
        let limit = match own.quota_mb {
            None => None,
            Some(mib) => {
                Some(mib.checked_mul(1 << 20).ok_or_else(|| ApiFailure::invalid("the quota is too large"))?)
            }
        };
        let at = workspace::AT.to_owned();
        all.push(Mount { source: source(&own.source)?, at, read_only: own.read_only, limit, identity: None });
    }
    for HostMount { source: text, at, read_only } in &request.mounts {
        let (source, at, read_only) = (source(text)?, at.clone(), *read_only);
        all.push(Mount { source, at, read_only, limit: None, identity: None });
    }
    Ok(all)
}

/// The text for a source.
fn text(source: &Source) -> String {
    match source {
        Source::Named(name) => name.clone(),
        Source::Path(path) => path.display().to_string(),
    }
}

/// What an instance sees at `/workspace`, if that is not its own.
pub(crate) fn workspace_of(view: &View) -> Option<String> {
    view.spec.mounts.iter().find(|mount| mount.at == workspace::AT).map(|mount| text(&mount.source))
}

/// All that an instance sees.
pub(crate) fn mounts_of(view: &View) -> Vec<HostMount> {
    let one = |mount: &Mount| HostMount {
        source: text(&mount.source),
        at: mount.at.clone(),
        read_only: mount.read_only,
    };
    view.spec.mounts.iter().map(one).collect()
}
