//! What is said on the control pipe.

pub mod code;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::argument::Argument;
use crate::rpc::{Call, RpcError};

/// Oldest version of this protocol that this build speaks.
pub const OLDEST_VERSION: u32 = 1;
/// Newest version of this protocol that this build speaks.
pub const NEWEST_VERSION: u32 = 9;

/// Name of the control port.
pub const CONTROL_PORT: &str = "aegis.control";
/// Name of the bulk port.
pub const BULK_PORT: &str = "aegis.bulk";
/// Name of the port on which a machine with shared directories reaches the server of their files.
pub const FILES_PORT: &str = "aegis.files";

/// The workload's standard input and output; its output survives sessions.
pub const WORKLOAD_IO: u32 = 1;
/// The workload's standard error; survives sessions.
pub const WORKLOAD_ERR: u32 = 2;
/// The first stream number that the host may allot to anything else.
pub const FIRST_FREE_STREAM: u32 = 16;

/// First request of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version that the host speaks.
    pub oldest: u32,
    /// Newest version that the host speaks.
    pub newest: u32,
    /// The host's wall clock, nanoseconds since 1970.
    pub unix_time_ns: u64,
    /// Fresh randomness for the guest kernel's pool, hexadecimal.
    pub entropy: String,
    /// The last event that the host has dealt with; 0 for none.
    pub events_seen: u64,
    /// How many bytes of the workload's standard output the host holds.
    pub stdout_held: u64,
    /// How many bytes of the workload's standard error the host holds.
    pub stderr_held: u64,
    /// Whether this guest goes on in the machine of another instance: what it has not told yet is not for this host, its
    /// counts begin anew, and its processes stand still until [`Reidentify`]. Since version 7.
    #[serde(default)]
    pub another: bool,
}

/// Answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The version both speak from now on.
    pub version: u32,
    /// The harness's own version.
    pub harness: String,
    /// Whether a workload was started.
    pub workload_started: bool,
    /// How many bytes of the workload's standard input have arrived.
    pub stdin_held: u64,
}

/// The lower of the two newest versions, if both still speak it.
///
/// # Errors
/// [`code::VERSION`] if they have none in common.
pub fn agree(host: (u32, u32), guest: (u32, u32)) -> Result<u32, RpcError> {
    let version = host.1.min(guest.1);
    if version >= host.0 && version >= guest.0 {
        return Ok(version);
    }
    let text = format!("host speaks protocol {} to {}, guest {} to {}", host.0, host.1, guest.0, guest.1);
    Err(RpcError::new(code::VERSION, text))
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// What to execute, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; the program is looked up in the `PATH` of `env`. What is no UTF-8 since version 9.
    pub command: Vec<Argument>,
    /// Environment, added to the guest's defaults.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: String,
    /// `NAME`, `UID`, either with `:GROUP`.
    pub user: String,
    /// A terminal of this size instead of pipes.
    pub tty: Option<TerminalSize>,
    /// Whether standard input is connected; `/dev/null` otherwise.
    pub stdin: bool,
}

/// Mounts the root, and lets processes be executed before there is a workload, or without one: once in a guest's life.
/// Since version 3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// The guest's host name.
    pub hostname: String,
    /// Directories of the host that it sees; the first one is stream 0 of the port for files.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// The user whom they belong to in the guest.
    pub owner: String,
}

/// Mounts the root, unless that was done by [`Prepare`], and starts the workload: once in a guest's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The guest's host name.
    pub hostname: String,
    /// Directories of the host that it sees, as belonging to the workload's user; the first one is stream 0 of the port
    /// for files. Since version 3.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// How its network card is to be set up, if it has one. Since version 4.
    #[serde(default)]
    pub network: Option<Network>,
    /// The workload.
    pub process: Process,
}

/// The surroundings of a network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its address, and the length of the prefix that it shares with the gateway.
    pub v4: (Ipv4Addr, u8),
    /// The same for IPv6.
    pub v6: (Ipv6Addr, u8),
    /// Where everything goes, and who answers for names.
    pub gateway_v4: Ipv4Addr,
    /// The same for IPv6.
    pub gateway_v6: Ipv6Addr,
    /// Domains in which short names are looked for.
    pub search: Vec<String>,
    /// Certificates of authorities that the host trusts (PEM), for [`AUTHORITIES`].
    #[serde(default)]
    pub authorities: Option<String>,
    /// See [`Addresses`]. Since version 5.
    #[serde(default)]
    pub groups: Vec<(Ipv4Addr, u8)>,
}

/// The card is to have these addresses beside its own, each with the length of the prefix that it shares with others,
/// and no more. Since version 5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// At most 16.
    pub groups: Vec<(Ipv4Addr, u8)>,
}

/// Asks how full the instance's disk is. Since version 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {}

/// Answer to [`DiskUsage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsageReply {
    /// What its files take, bytes.
    pub used_bytes: u64,
    /// What there is for files, bytes.
    pub total_bytes: u64,
    /// How many files there are.
    pub used_inodes: u64,
    /// How many there can be.
    pub total_inodes: u64,
}

/// Where a guest finds the authorities that the host trusts, if it is to.
pub const AUTHORITIES: &str = "/etc/ssl/certs/aegis-host.pem";

/// A directory of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Where it is in the guest.
    pub at: String,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// Starts another process beside the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The host's number for it, not used before in this session.
    pub exec_id: u64,
    /// The process.
    pub process: Process,
    /// Stream of its standard input and output.
    pub io: u32,
    /// Stream of its standard error; silent with a terminal.
    pub err: u32,
    /// Whether it goes on without the session, and its output is dropped then; else it is hung up. Since version 9.
    #[serde(default)]
    pub detached: bool,
}

/// Connects a stream to a TCP port of the guest: `127.0.0.1`, then `::1`. Answered when it is connected; the stream's
/// windows are [`crate::flow::CONNECTION_WINDOW`]. Since version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// The stream.
    pub stream: u32,
    /// The port.
    pub port: u16,
    /// For how long a refusal is not taken as an answer, milliseconds: the server may still be about to listen.
    pub patience_ms: u64,
}

/// Answer to [`Run`] and [`Exec`]: the command has been executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its process id in the guest.
    pub pid: u32,
}

/// A process that the host started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The workload.
    Workload,
    /// An [`Exec`], by its number.
    Exec(u64),
}

/// Sends a signal to a process group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Whose group.
    pub target: Target,
    /// Linux signal number.
    pub signal: i32,
}

/// Changes the size of a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// Whose terminal.
    pub target: Target,
    /// The new size.
    pub size: TerminalSize,
}

/// Makes all processes of the guest stand still, before its machine does. The next [`Hello`], [`Health`] or [`Shutdown`]
/// lets them go on, after the clock is right: none of them sees a clock that stood still. Since version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Whether all that they have written is to be on the disks when this is answered. Since version 6.
    #[serde(default)]
    pub sync: bool,
}

/// The machine is about to be copied: everything is written to the disks, and what each copy would have to do by itself is
/// done. Since version 7.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {}

/// How a machine came to stand where another one stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The other one went on, too.
    Fork,
    /// It was started from a snapshot.
    Snapshot,
}

impl Cause {
    /// The word for it, as programs in [`HOOKS`] get it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Fork => "fork",
            Cause::Snapshot => "snapshot",
        }
    }
}

/// Where a guest has programs that are executed when it has become another instance, before anything else goes on.
pub const HOOKS: &str = "/etc/aegis/resume.d";

/// Makes a guest another instance, after a [`Hello`] that said so: names, numbers and random numbers of its own, then the
/// programs in [`HOOKS`], then its processes go on. Since version 7.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reidentify {
    /// The guest's host name.
    pub hostname: String,
    /// See [`Addresses`].
    pub groups: Vec<(Ipv4Addr, u8)>,
    /// How it came about.
    pub cause: Cause,
    /// Fresh randomness, hexadecimal.
    pub entropy: String,
}

/// The machine is about to be saved, for others to be started from it, each with disks of its own: the guest lets go of
/// what those do not share. Before [`Prepare`] and [`Run`], which take it up again. Since version 6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {}

/// Does once what [`Run`] does, and leaves nothing of it but that the root disk is mounted: a guest that is to wait for its
/// instance has then executed everything that its start takes. The instance's disk may be another one afterwards. Since
/// version 8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prewarm {
    /// What to do. Nobody is interested in how its command fails, and it cannot have shares.
    pub run: Run,
}

/// Asks whether the guest is well; also sets the clock and stirs entropy after a pause, and then lets its processes go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The host's wall clock, nanoseconds since 1970; the guest's clock follows it.
    pub unix_time_ns: u64,
    /// Fresh randomness, hexadecimal.
    pub entropy: String,
}

/// Answer to [`Health`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReply {
    /// Processes in the guest that are no kernel threads.
    pub processes: u32,
}

/// Ends the guest: SIGTERM to the workload, grace, SIGKILL to all, sync, unmount, [`Event::Goodbye`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// How long the workload may take, milliseconds.
    pub grace_ms: u64,
}

/// An answer that says nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl ExitStatus {
    /// The exit code as a shell tells it: the code, or 128 + the signal's number.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code.into(),
            ExitStatus::Signal(signal) => 128 + i32::from(signal),
        }
    }
}

/// What the guest tells of its own accord. Numbered; see [`crate::outbox`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The workload ended; its streams are `stdout` and `stderr` bytes long.
    WorkloadExited {
        /// How.
        status: ExitStatus,
        /// Whether the guest ran out of memory and killed something of the workload.
        out_of_memory: bool,
        /// Length of its standard output.
        stdout: u64,
        /// Length of its standard error.
        stderr: u64,
    },
    /// A process of [`Exec`] ended.
    ExecExited {
        /// Which.
        exec_id: u64,
        /// How.
        status: ExitStatus,
    },
    /// The guest worked since the last of these: processor time used, milliseconds.
    Activity {
        /// Over all processors, since the last event of this kind.
        cpu_ms: u64,
        /// Connections that it has opened itself to somewhere outside.
        #[serde(default)]
        connections: u32,
    },
    /// The guest wants to stay awake. The last one counts. Since version 2.
    KeepAlive {
        /// For how long, milliseconds.
        ttl_ms: u64,
        /// Why, in its words.
        reason: String,
    },
    /// The guest does not want to stay awake any more. Since version 2.
    KeepAliveReleased,
    /// The guest has nothing more to do or to lose: the host may end the machine.
    Goodbye {
        /// Whether the file systems were left clean.
        clean: bool,
    },
}

/// Notification `event`: one [`Event`] with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventNote {
    /// Its number.
    pub seq: u64,
    /// The event.
    pub event: Event,
}

/// Notification `ack`: the host has dealt with all events up to `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckNote {
    /// The number.
    pub seq: u64,
}

/// Method name of [`EventNote`].
pub const EVENT: &str = "event";
/// Method name of [`AckNote`].
pub const ACK: &str = "ack";

macro_rules! calls {
    ($($call:ty, $method:literal => $reply:ty;)*) => {
        $(impl Call for $call { const METHOD: &'static str = $method; type Reply = $reply; })*
    };
}

calls! {
    Hello, "hello" => HelloReply;
    Prepare, "prepare" => Done;
    Run, "run" => Started;
    Exec, "exec" => Started;
    DiskUsage, "disk_usage" => DiskUsageReply;
    Connect, "connect" => Done;
    Signal, "signal" => Done;
    Resize, "resize" => Done;
    Freeze, "freeze" => Done;
    Settle, "settle" => Done;
    Prewarm, "rehearse" => Done;
    Sync, "sync" => Done;
    Reidentify, "become" => Done;
    Health, "health" => HealthReply;
    Shutdown, "shutdown" => Done;
    Addresses, "addresses" => Done;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_lower_newest_version_wins_or_nobody(host in (0u32..9, 0u32..9), guest in (0u32..9, 0u32..9)) {
            match agree(host, guest) {
                Ok(version) => prop_assert!(version == host.1.min(guest.1) && version >= host.0 && version >= guest.0),
                Err(error) => prop_assert_eq!(error.code, code::VERSION),
            }
        }

        #[test]
        fn arbitrary_text_as_an_event_never_panics(text in ".{0,200}") {
            drop(serde_json::from_str::<EventNote>(&text));
        }
    }

    #[test]
    fn exit_codes_follow_the_shell() {
        assert_eq!(ExitStatus::Code(42).code(), 42);
        assert_eq!(ExitStatus::Signal(9).code(), 137);
    }
}
