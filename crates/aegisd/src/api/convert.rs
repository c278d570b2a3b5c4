//! Between the API's types and those of the instances.

use aegis_api::handle;
use aegis_api::instance::{CreateInstance, ExecRequest, Instance, State, StopReason, TerminalSize};
use aegis_guest_protocol::messages;
use aegis_instances::exec::ExecSpec;
use aegis_instances::lifecycle;
use aegis_instances::spec::{self, InstanceSpec};
use aegis_instances::{StopReason as Reason, View};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::failure::Failure;

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
    }
}

pub(crate) fn reason(reason: &Reason) -> StopReason {
    StopReason { code: reason.code.clone(), message: reason.message.clone(), console: reason.console.clone() }
}

pub(super) fn size(size: TerminalSize) -> messages::TerminalSize {
    messages::TerminalSize { rows: size.rows, cols: size.cols }
}

pub(super) fn instance(view: &View) -> Instance {
    let spec = &view.spec;
    Instance {
        id: view.id.clone(),
        handle: view.handle.clone(),
        state: state(view.state),
        enabled: view.enabled,
        command: spec.command.clone(),
        active_connections: 0,
        endpoints: Vec::new(),
        created_at: timestamp(view.created_ms),
        updated_at: timestamp(view.updated_ms),
        last_active_at: timestamp(view.active_ms),
        started_at: view.started_ms.map(timestamp),
        stopped_at: view.stopped_ms.map(timestamp),
        exit_code: view.exit_code,
        stop_reason: view.reason.as_ref().map(reason),
        memory_mb: spec.memory_mib,
        vcpus: spec.vcpus,
        disk_mb: spec.disk_mib,
        workdir: spec.workdir.clone(),
        user: spec.user.clone(),
        env_keys: spec.env.keys().cloned().collect(),
        ephemeral: spec.ephemeral,
        image: None,
        workspace: None,
        secret_keys: Vec::new(),
        kit: None,
    }
}

/// What a request for a new instance asks for, with everything absent filled in.
pub(super) fn new_spec(request: &CreateInstance, rootfs: String) -> Result<InstanceSpec, Failure> {
    if let Some(name) = &request.handle {
        handle::check(name).map_err(|error| Failure::invalid(format!("{name:?}: {error}")))?;
    }
    Ok(InstanceSpec {
        command: request.command.clone(),
        env: request.env.clone(),
        memory_mib: request.memory_mb.unwrap_or(spec::DEFAULT_MEMORY_MIB),
        vcpus: request.vcpus.unwrap_or(spec::DEFAULT_VCPUS),
        disk_mib: request.disk_mb.unwrap_or(spec::DEFAULT_DISK_MIB),
        workdir: request.workdir.clone().unwrap_or_else(|| spec::DEFAULT_WORKDIR.to_owned()),
        user: request.user.clone().unwrap_or_else(|| spec::DEFAULT_USER.to_owned()),
        timeout_ms: request.timeout_ms,
        tty: request.tty.map(size),
        stdin: request.stdin,
        ephemeral: request.ephemeral,
        rootfs,
    })
}

/// Whether a request names nothing but an existing instance's handle.
pub(super) fn names_only(request: &CreateInstance) -> bool {
    let bare =
        CreateInstance { handle: request.handle.clone(), wait: request.wait, ..CreateInstance::default() };
    *request == bare
}

pub(super) fn exec_spec(request: ExecRequest) -> ExecSpec {
    ExecSpec {
        command: request.command,
        env: request.env,
        workdir: request.workdir,
        user: request.user,
        tty: request.tty.map(size),
        stdin: request.stdin,
    }
}
