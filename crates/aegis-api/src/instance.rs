//! Instances: creating, describing, acting on them.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::image::PullPolicy;
use crate::network::{NetworkPolicy, NetworkRequest};
use crate::ports::{EndpointInfo, Expose};
use crate::workspace::{HostDirectory, HostMount};

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// A time after which an idle instance rests: milliseconds, or `"never"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum IdleTime {
    /// Milliseconds.
    Ms(u64),
    /// The word `never`.
    Never(Never),
}

/// The word `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Never {
    /// Not at all.
    Never,
}

/// When a command is executed again after its end. Written `no`, `on-failure`, `on-failure:N` or `always`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Restart {
    /// Never.
    No,
    /// When it failed: at most so many times in a row, if a number is given.
    OnFailure(Option<u32>),
    /// However it ended.
    Always,
}

/// A text that is no restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected no, on-failure, on-failure:N or always")]
pub struct NoRestart;

impl FromStr for Restart {
    type Err = NoRestart;

    fn from_str(text: &str) -> Result<Restart, NoRestart> {
        match text.split_once(':') {
            None if text == "no" => Ok(Restart::No),
            None if text == "on-failure" => Ok(Restart::OnFailure(None)),
            None if text == "always" => Ok(Restart::Always),
            Some(("on-failure", number)) => number
                .parse()
                .ok()
                .filter(|most| *most > 0)
                .map(|most| Restart::OnFailure(Some(most)))
                .ok_or(NoRestart),
            _ => Err(NoRestart),
        }
    }
}

impl TryFrom<String> for Restart {
    type Error = NoRestart;

    fn try_from(text: String) -> Result<Restart, NoRestart> {
        text.parse()
    }
}

impl From<Restart> for String {
    fn from(restart: Restart) -> String {
        match restart {
            Restart::No => "no".to_owned(),
            Restart::OnFailure(None) => "on-failure".to_owned(),
            Restart::OnFailure(Some(most)) => format!("on-failure:{most}"),
            Restart::Always => "always".to_owned(),
        }
    }
}

/// Body of `POST /v1/instances`. What is absent gets the default; unknown fields are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateInstance {
    /// Program and arguments. Empty together with the handle of an existing instance: boot that one.
    pub command: Vec<String>,
    /// The same in base64, instead of `command`, where a word is no UTF-8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command_base64: Vec<String>,
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
    /// Disable the instance for good this many milliseconds after its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lifetime_ms: Option<u64>,
    /// Boot its machines, even where a template would start them sooner.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_template: bool,
    /// Give the command a terminal of this size.
    pub tty: Option<TerminalSize>,
    /// Connect the command's standard input to whoever attaches.
    pub stdin: bool,
    /// Delete the instance when its command has ended, or when nobody has been attached for 10 seconds.
    pub ephemeral: bool,
    /// Ports that are to be reachable from the host.
    pub exposes: Vec<Expose>,
    /// From the last use to the pause; default 60 s for an instance with ports, else never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_pause_ms: Option<IdleTime>,
    /// From the pause until the machine goes to disk; default 10 min for an instance with ports, else never. One with
    /// secrets never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_hibernate_ms: Option<IdleTime>,
    /// From the pause to the stop; default 20 min for an instance with ports, else never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_stop_ms: Option<IdleTime>,
    /// From a connection's last byte until it does not count as use any more; default never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_connections_after_ms: Option<IdleTime>,
    /// When the command is executed again after its end: `no`, `on-failure`, `on-failure:N` or `always`; default `no`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub restart: Option<Restart>,
    /// Image whose file system the instance has: a reference, or first digits of a digest; default the base root file
    /// system. The instance stays with what the name means when it is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the image is asked for at its registry; default `missing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<PullPolicy>,
    /// Leave out the environment that the image gives.
    pub no_image_env: bool,
    /// Names of secrets that its processes get as environment variables, or `*` for all that there are at each boot and
    /// exec; default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The directory of the host that it sees at `/workspace`; default a private one, which is on its own disk and
    /// deleted with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<HostDirectory>,
    /// Kit, which fills in what is absent here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kit: Option<String>,
    /// What it may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkRequest>,
    /// More directories of the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<HostMount>,
    /// Directories, absolute, in which the client followed symbolic links to arrive at the sources of `workspace` and
    /// `mounts`. Where a guest could put them they are refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub followed: Vec<String>,
    /// Go on from this snapshot, with the settings of the instance that it was taken of. Beside it only a handle, ports
    /// and `share_workspace` can be given; the reply comes when it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// With `from`: see the same directories of the host as that instance.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub share_workspace: bool,
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
    /// The machine is on disk, with its memory.
    Hibernated,
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
            State::Hibernated => "hibernated",
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

/// What an idle instance does next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NextStep {
    /// `pause` or `stop`.
    pub action: String,
    /// When, if nobody uses it until then.
    pub at: String,
}

/// Body of `POST /v1/instances/{id}/keepalive`: the instance does not rest for that time. The last one counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeepAlive {
    /// For how long, milliseconds: 1 to 86400000; default 30000.
    pub ttl_ms: Option<u64>,
    /// Why; at most 200 characters.
    pub reason: String,
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
    /// Program and arguments; what is no UTF-8 is replaced.
    pub command: Vec<String>,
    /// The same in base64, if a word is no UTF-8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command_base64: Vec<String>,
    /// Open connections to its ports.
    pub active_connections: u32,
    /// Its ports.
    pub endpoints: Vec<EndpointInfo>,
    /// Where its first HTTP port is found by name, if the name router runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Since when it is in its state.
    pub state_since: String,
    /// What it does next if nobody uses it; absent while somebody does, or if it never rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<NextStep>,
    /// What keeps it awake at this moment.
    pub kept_awake_by: Vec<String>,
    /// When its command is executed again after its end.
    #[schema(value_type = String)]
    pub restart: Restart,
    /// When it will be disabled for good, if its lifetime is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_ends_at: Option<String>,
    /// When its command will be executed again, if it is about to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<String>,
    /// What its user should know, e.g. that its command ends again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// When it was created.
    pub created_at: String,
    /// When its record last changed.
    pub updated_at: String,
    /// When it was last seen at work.
    pub last_active_at: String,
    /// When its command was last executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// Where the time of its last start went; absent if the daemon that started it runs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
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
    /// Digest of the image, which stays when its name means another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Workspace; absent for the private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// All directories of the host that it sees, the workspace included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<HostMount>,
    /// What it may reach.
    #[serde(default)]
    pub network: NetworkPolicy,
    /// Names of its secrets; `*` stands for all.
    pub secret_keys: Vec<String>,
    /// Kit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kit: Option<String>,
    /// What holds the processes of its machines on this host, should a guest take one over; a dash behind what the host
    /// does not have, e.g. `seccomp, landlock 6, namespaces –, cgroup –`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<String>,
    /// How full its disk is, as its guest sees it; while it runs, and not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_usage: Option<DiskUsage>,
    /// The process of the host that runs its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// How full an instance's disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskUsage {
    /// What its files take, bytes.
    pub used_bytes: u64,
    /// What there is for files, bytes.
    pub total_bytes: u64,
    /// How many files there are.
    pub used_inodes: u64,
    /// How many there can be.
    pub total_inodes: u64,
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
    /// Ids of those that are old enough, and were left: they are enabled and have ports, so that they merely sleep.
    #[serde(default)]
    pub skipped: Vec<String>,
}

/// Body of `POST /v1/instances/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The same in base64, instead of `command`, where a word is no UTF-8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command_base64: Vec<String>,
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
    /// Keep its output out of the instance's log.
    pub unlogged: bool,
    /// If the instance is stopped and not disabled, execute it in a machine with the instance's file systems that does
    /// not run its command, and ends with this process, which finds `AEGIS_AT_REST` in its environment.
    pub at_rest: bool,
    /// Reply when it has been executed, with the first line alone (202). It goes on by itself, its output goes to the log, and it
    /// does not keep the instance awake.
    pub detach: bool,
}

/// Body of `POST /v1/instances/{id}/signal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Linux signal number.
    pub signal: u8,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn restart_policies_are_written_as_docker_writes_them() {
        for text in ["no", "on-failure", "on-failure:5", "always"] {
            let parsed: Restart = text.parse().unwrap();
            assert_eq!(String::from(parsed), text);
        }
        for bad in ["", "never", "on-failure:0", "on-failure:", "always:3", "on-failure:-1"] {
            assert_eq!(bad.parse::<Restart>(), Err(NoRestart), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,20}") {
            let _parsed = text.parse::<Restart>();
        }
    }
}

/// Where the time of a start went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Timings {
    /// `template`, `fork` or `snapshot` if the machine was started from one, else `boot`.
    pub start: String,
    /// The steps, in order.
    pub steps: Vec<TimedStep>,
}

/// A step of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimedStep {
    /// What it is called.
    pub name: String,
    /// How long it took, microseconds.
    pub us: u64,
}
