//! Instances: creating, describing, acting on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// Body of `POST /v1/instances`. What is absent gets the default; unknown fields are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateInstance {
    /// Program and arguments. Empty together with the handle of an existing instance: boot that one.
    pub command: Vec<String>,
    /// A name, unique on this host.
    pub handle: Option<String>,
    /// Environment of the command, and of every `exec`.
    pub env: BTreeMap<String, String>,
    /// Memory, MiB; default 512.
    pub memory_mb: Option<u32>,
    /// Virtual processors; default 1.
    pub vcpus: Option<u32>,
    /// Size of the instance's disk, MiB; default 10240. Sparse: only what is written takes space.
    pub disk_mb: Option<u64>,
    /// Working directory; default `/workspace`.
    pub workdir: Option<String>,
    /// User in the guest, `NAME` or `UID`, with an optional `:GROUP`; default `root`.
    pub user: Option<String>,
    /// Stop the command after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Give the command a terminal of this size.
    pub tty: Option<TerminalSize>,
    /// Connect the command's standard input to whoever attaches.
    pub stdin: bool,
    /// Delete the instance when its command has ended, or when nobody has been attached for 10 seconds.
    pub ephemeral: bool,
    /// Reply when the command has been executed, or the boot has failed, instead of at once.
    pub wait: bool,
}

/// State of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No machine.
    Stopped,
    /// The machine boots; the command has not been executed yet.
    Starting,
    /// The command has been executed.
    Running,
    /// The machine stands still, its memory kept.
    Paused,
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
        }
    }
}

/// Why an instance is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopReason {
    /// A stable word, e.g. `exited`, `stopped`, `kernel_panic`, `vmm_died`, `out_of_memory`, `boot_timeout`.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// The end of the guest's console, where that explains something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
}

/// A port that is reachable from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointInfo {
    /// Port in the guest.
    pub guest_port: u16,
    /// Port on the host.
    pub public_port: u16,
    /// `http`, `tcp`, `grpc` or `ws`.
    pub protocol: String,
}

/// An instance, as lists and descriptions show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Its handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Its state.
    pub state: State,
    /// Whether the daemon may boot it. A disabled instance is started only by an explicit start.
    pub enabled: bool,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Open connections to its ports.
    pub active_connections: u32,
    /// Its ports.
    pub endpoints: Vec<EndpointInfo>,
    /// When it was created.
    pub created_at: String,
    /// When its record last changed.
    pub updated_at: String,
    /// When it was last seen at work.
    pub last_active_at: String,
    /// When its command was last executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it stopped, if it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<String>,
    /// Exit code of the last run of its command: 0–255, 128 + n for signal n.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// Memory, MiB.
    pub memory_mb: u32,
    /// Virtual processors.
    pub vcpus: u32,
    /// Size of its disk, MiB.
    pub disk_mb: u64,
    /// Working directory.
    pub workdir: String,
    /// User in the guest.
    pub user: String,
    /// Names of its environment variables, without their values.
    pub env_keys: Vec<String>,
    /// Whether it is deleted when its command ends.
    pub ephemeral: bool,
    /// Image reference; absent for the base root file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Workspace; absent for the private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Names of its secrets.
    pub secret_keys: Vec<String>,
    /// Kit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kit: Option<String>,
}

/// Reply to the verbs `start`, `stop`, `pause`, `resume`, `disable`, `restart` and to `DELETE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionReply {
    /// The instance's id.
    pub id: String,
    /// What it is now: a state, `disabled`, or `deleted`.
    pub status: String,
}

/// Reply to `POST /v1/instances/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneReply {
    /// How many instances were deleted.
    pub pruned: usize,
    /// Their ids.
    pub ids: Vec<String>,
}

/// Body of `POST /v1/instances/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment, added to the instance's.
    pub env: BTreeMap<String, String>,
    /// Working directory; default the instance's.
    pub workdir: Option<String>,
    /// User; default the instance's.
    pub user: Option<String>,
    /// Kill the process after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Give the process a terminal of this size.
    pub tty: Option<TerminalSize>,
    /// Connect standard input.
    pub stdin: bool,
}

/// Body of `POST /v1/instances/{id}/signal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Linux signal number.
    pub signal: u8,
}
