//! The daemon itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::instance::State;
use crate::network::NetworkCounters;

/// Reply to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Always `running`.
    pub status: String,
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Its home directory.
    pub home: String,
    /// Name of the virtual machine monitor.
    pub backend: String,
    /// What it can do here.
    pub capabilities: CapabilitiesInfo,
    /// Instances by state.
    pub instances: InstanceCounts,
    /// The file system of the home directory; absent if it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskInfo>,
    /// What does not work, or not as far as it could, and what to do: a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The file system of the home directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskInfo {
    /// Free, bytes.
    pub free_bytes: u64,
    /// Below this nothing new is begun, and below half of it instances that grow are paused; bytes.
    pub floor_bytes: u64,
    /// Free inodes; absent where the file system makes them as they are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_inodes: Option<u64>,
    /// The same floor for inodes.
    pub floor_inodes: u64,
    /// What the daemon keeps in reserve, bytes; absent if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve_bytes: Option<u64>,
    /// What the disks of all instances may still take, bytes.
    pub promised_bytes: u64,
    /// `ample`, `low` (nothing new is begun), or `full` (what grows is paused).
    pub level: String,
}

impl DiskInfo {
    /// For people, in one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let (free, floor, promised) =
            (self.free_bytes >> 20, self.floor_bytes >> 20, self.promised_bytes >> 20);
        let reserve = self
            .reserve_bytes
            .map_or("no reserve".to_owned(), |bytes| format!("reserve {} MiB", bytes >> 20));
        let inodes = match self.free_inodes {
            Some(free) if free < self.floor_inodes => format!(", {free} inodes free"),
            _ => String::new(),
        };
        let more = if self.promised_bytes > self.free_bytes { ", more than is free" } else { "" };
        let level = if self.level == "ample" { String::new() } else { format!("{}: ", self.level) };
        format!(
            "{level}{free} MiB free{inodes}, floor {floor} MiB, {reserve}; instances' disks may grow by {promised} MiB{more}"
        )
    }
}

/// What the backend can do on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapabilitiesInfo {
    /// Pause and resume.
    pub pause_resume: bool,
    /// Memory of paused instances on disk.
    pub persistent_pause: bool,
    /// What executes guest code.
    pub accelerator: String,
    /// Why that.
    pub accelerator_reason: String,
}

/// How many instances there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceCounts {
    /// All.
    pub total: u32,
    /// With a machine: starting, running or paused.
    pub live: u32,
}

/// What one instance uses; an element of the reply to `GET /v1/stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceStats {
    /// Its id.
    pub id: String,
    /// Its handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Its state.
    pub state: State,
    /// Processor time of its machine since that started, milliseconds; 0 without one.
    pub cpu_ms: u64,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory of the host that its machine holds, bytes; 0 without one.
    pub memory_bytes: u64,
    /// Memory that the guest has, bytes.
    pub memory_limit_bytes: u64,
    /// What its disk takes of the host's, bytes.
    pub disk_bytes: u64,
    /// Size of its disk, bytes.
    pub disk_limit_bytes: u64,
    /// Bytes that connections to its ports brought, since the daemon started.
    pub received_bytes: u64,
    /// Bytes that connections to its ports took, since the daemon started.
    pub sent_bytes: u64,
    /// Open connections to its ports.
    pub connections: u32,
    /// What its own network has counted since its machine was booted; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkCounters>,
}

/// Body of `POST /v1/shutdown`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownRequest {
    /// Leave the machines running, for the next daemon to take over.
    pub keep_instances: bool,
}

/// Reply to `POST /v1/shutdown`: what the daemon waits for before it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShutdownReply {
    /// Handles, or ids, of the instances that are being stopped.
    pub stopping: Vec<String>,
}

/// One line of `aegisd doctor --output json`, an array of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What was looked at, e.g. `kernel`.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}
