//! Typed client of the daemon, over its unix socket.

pub mod daemon;
mod events;
mod images;
mod lines;
mod logs;
mod process;
mod transport;

use std::path::PathBuf;

use aegis_api::error::ApiError;
use aegis_api::instance::{ActionReply, CreateInstance, ExecRequest, Instance, PruneReply, SignalRequest};
use aegis_api::kit::{Kit, ValidateKit};
use aegis_api::logs::ExecLine;
use aegis_api::network::{CheckReply, CheckRequest, Group, NetworkInfo, NetworkPolicy, RuleRequest};
use aegis_api::ports::{EndpointInfo, Expose, ExposeRequest};
use aegis_api::secret::{RekeyReply, SecretReply, SecretValue};
use aegis_api::snapshot::{ForkReply, ForkRequest, Snapshot, SnapshotRequest};
use aegis_api::status::{InstanceStats, ShutdownReply, ShutdownRequest, Status};
use aegis_api::template::Template;
use aegis_api::workspace::{CreateWorkspace, Workspace, WorkspaceReply};
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use events::{Events, Told};
pub use images::{Download, Loaded, Pull};
use lines::Lines;
pub use logs::{JsonLines, LogLines, NetworkLines};
pub use process::{ProcessReader, ProcessWriter};
pub use transport::Upload;
use transport::{Body, Connection};

/// A request's failure.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("aegisd is not running")]
    NotRunning,
    /// The daemon refused.
    #[error(transparent)]
    Api(ApiError),
    /// The connection broke.
    #[error("the connection to aegisd broke: {0}")]
    Io(#[from] std::io::Error),
    /// The daemon talks nonsense.
    #[error("aegisd answered with something else than was asked for: {0}")]
    Protocol(String),
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        ClientError::Io(std::io::Error::other(error))
    }
}

impl From<serde_json::Error> for ClientError {
    fn from(error: serde_json::Error) -> Self {
        ClientError::Protocol(error.to_string())
    }
}

/// Which part of a log.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Go on with what comes.
    pub follow: bool,
    /// About the last so many lines.
    pub tail: Option<usize>,
    /// Only what came at or after this time, RFC 3339.
    pub since: Option<String>,
}

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Those after this number; 0 for all that are kept, `None` for those that happen from now on.
    pub after: Option<u64>,
    /// Go on with what happens.
    pub follow: bool,
    /// Only those of the instance with this id or handle.
    pub instance: Option<String>,
}

/// The daemon. Keeps one connection open for requests that follow each other.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    connection: Option<Connection>,
}

impl Client {
    /// A client of the daemon that listens on `socket`. Connects when needed.
    #[must_use]
    pub fn new(socket: PathBuf) -> Client {
        Client { socket, connection: None }
    }

    async fn send<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = Body::json(body)?;
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_open() => connection,
            _ => Connection::open(&self.socket).await?,
        };
        let reply = connection.request(method, path, body).await?;
        let bytes = transport::whole(reply).await?;
        self.connection = Some(connection);
        Ok(serde_json::from_slice(&bytes)?)
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, None::<&()>).await
    }

    /// How the daemon is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Ends the daemon.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn shutdown(&mut self, keep_instances: bool) -> Result<ShutdownReply, ClientError> {
        self.send(Method::POST, "/v1/shutdown", Some(&ShutdownRequest { keep_instances })).await
    }

    /// Creates an instance, or starts an existing one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create(&mut self, request: &CreateInstance) -> Result<Instance, ClientError> {
        self.send(Method::POST, "/v1/instances", Some(request)).await
    }

    /// All instances.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&mut self) -> Result<Vec<Instance>, ClientError> {
        self.get("/v1/instances").await
    }

    /// One instance.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn describe(&mut self, name: &str) -> Result<Instance, ClientError> {
        self.get(&instance_path(name, "")).await
    }

    /// Deletes an instance.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&mut self, name: &str) -> Result<ActionReply, ClientError> {
        self.send(Method::DELETE, &instance_path(name, ""), None::<&()>).await
    }

    /// One of the verbs `start`, `stop`, `pause`, `resume`, `disable`, `restart`. Waits until it is done.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn act(&mut self, name: &str, verb: &str) -> Result<ActionReply, ClientError> {
        let path = instance_path(name, &format!("/{verb}?wait=true"));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// Forks an instance.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fork(&mut self, name: &str, request: &ForkRequest) -> Result<ForkReply, ClientError> {
        self.send(Method::POST, &instance_path(name, "/fork"), Some(request)).await
    }

    /// Takes a snapshot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn take_snapshot(&mut self, request: &SnapshotRequest) -> Result<Snapshot, ClientError> {
        self.send(Method::POST, "/v1/snapshots", Some(request)).await
    }

    /// All snapshots.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshots(&mut self) -> Result<Vec<Snapshot>, ClientError> {
        self.get("/v1/snapshots").await
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshot(&mut self, name: &str) -> Result<Snapshot, ClientError> {
        self.get(&format!("/v1/snapshots/{}", escape(name))).await
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_snapshot(&mut self, name: &str) -> Result<ActionReply, ClientError> {
        self.send(Method::DELETE, &format!("/v1/snapshots/{}", escape(name)), None::<&()>).await
    }

    /// Puts an instance back to where it was when a snapshot was taken of it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn restore_snapshot(&mut self, name: &str) -> Result<ActionReply, ClientError> {
        self.send(Method::POST, &format!("/v1/snapshots/{}/restore", escape(name)), None::<&()>).await
    }

    /// Deletes all instances that have been stopped for this duration at least, e.g. `7d`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn prune(&mut self, older_than: &str, all: bool) -> Result<PruneReply, ClientError> {
        let path = format!("/v1/instances/prune?older_than={}&all={all}", escape(older_than));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// What each instance uses.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stats(&mut self) -> Result<Vec<InstanceStats>, ClientError> {
        self.send(Method::GET, "/v1/stats", None::<&()>).await
    }

    /// Makes ports of an instance reachable from the host.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn expose(
        &mut self,
        name: &str,
        exposes: Vec<Expose>,
    ) -> Result<Vec<EndpointInfo>, ClientError> {
        self.send(Method::POST, &instance_path(name, "/expose"), Some(&ExposeRequest { exposes })).await
    }

    /// Withdraws a port of an instance's guest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn unexpose(&mut self, name: &str, guest_port: u16) -> Result<ActionReply, ClientError> {
        let path = instance_path(name, &format!("/expose/{guest_port}"));
        self.send(Method::DELETE, &path, None::<&()>).await
    }

    /// What an instance may reach.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn network(&mut self, name: &str) -> Result<NetworkInfo, ClientError> {
        self.get(&instance_path(name, "/network")).await
    }

    /// Adds a rule before all others.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn prefer_rule(&mut self, name: &str, rule: String) -> Result<NetworkInfo, ClientError> {
        self.send(Method::POST, &instance_path(name, "/network/rules"), Some(&RuleRequest { rule })).await
    }

    /// Replaces what an instance may reach.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_network(
        &mut self,
        name: &str,
        policy: &NetworkPolicy,
    ) -> Result<NetworkInfo, ClientError> {
        self.send(Method::PUT, &instance_path(name, "/network"), Some(policy)).await
    }

    /// Makes an instance a member of a group.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn join_group(&mut self, name: &str, group: &str) -> Result<NetworkInfo, ClientError> {
        self.send(Method::PUT, &group_path(name, group), None::<&()>).await
    }

    /// Ends an instance's membership of a group.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leave_group(&mut self, name: &str, group: &str) -> Result<NetworkInfo, ClientError> {
        self.send(Method::DELETE, &group_path(name, group), None::<&()>).await
    }

    /// All templates.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn templates(&mut self) -> Result<Vec<Template>, ClientError> {
        self.get("/v1/templates").await
    }

    /// Removes all templates, and returns them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn prune_templates(&mut self) -> Result<Vec<Template>, ClientError> {
        self.send(Method::POST, "/v1/templates/prune", None::<&()>).await
    }

    /// All groups.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn groups(&mut self) -> Result<Vec<Group>, ClientError> {
        self.get("/v1/groups").await
    }

    /// What would happen.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn check_network(
        &mut self,
        name: &str,
        request: &CheckRequest,
    ) -> Result<CheckReply, ClientError> {
        self.send(Method::POST, &instance_path(name, "/network/check"), Some(request)).await
    }

    /// What was decided, as JSON lines.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn network_log(&self, name: &str, follow: bool) -> Result<NetworkLines, ClientError> {
        let path = instance_path(name, &format!("/network/log?follow={follow}"));
        Ok(NetworkLines::new(self.lines(&path).await?))
    }

    /// Sends a signal to an instance's command.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn signal(&mut self, name: &str, signal: u8) -> Result<ActionReply, ClientError> {
        self.send(Method::POST, &instance_path(name, "/signal"), Some(&SignalRequest { signal })).await
    }

    /// An instance's log.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn logs(&self, name: &str, query: &LogQuery) -> Result<LogLines, ClientError> {
        let mut path = instance_path(name, &format!("/logs?follow={}", query.follow));
        if let Some(tail) = query.tail {
            path = format!("{path}&tail={tail}");
        }
        if let Some(since) = &query.since {
            path = format!("{path}&since={}", escape(since));
        }
        Ok(LogLines::new(self.lines(&path).await?))
    }

    /// What happens to instances.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self, query: &EventQuery) -> Result<Events, ClientError> {
        let mut path = format!("/v1/events?follow={}", query.follow);
        if let Some(after) = query.after {
            path = format!("{path}&after={after}");
        }
        if let Some(instance) = &query.instance {
            path = format!("{path}&instance={}", escape(instance));
        }
        Ok(Events::new(self.lines(&path).await?))
    }

    /// Names of all secrets.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn secrets(&mut self) -> Result<Vec<String>, ClientError> {
        self.get("/v1/secrets").await
    }

    /// Sets a secret.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_secret(&mut self, key: &str, value: String) -> Result<SecretReply, ClientError> {
        self.send(Method::PUT, &format!("/v1/secrets/{}", escape(key)), Some(&SecretValue { value })).await
    }

    /// Deletes a secret.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_secret(&mut self, key: &str) -> Result<SecretReply, ClientError> {
        self.send(Method::DELETE, &format!("/v1/secrets/{}", escape(key)), None::<&()>).await
    }

    /// Seals all secrets anew, with a new master key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rekey(&mut self) -> Result<RekeyReply, ClientError> {
        self.send(Method::POST, "/v1/secrets/rekey", None::<&()>).await
    }

    /// All kits.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kits(&mut self) -> Result<Vec<Kit>, ClientError> {
        self.get("/v1/kits").await
    }

    /// One kit, with its manifest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kit(&mut self, name: &str) -> Result<Kit, ClientError> {
        self.get(&format!("/v1/kits/{}", escape(name))).await
    }

    /// Checks a manifest at an absolute path.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn validate_kit(&mut self, path: String) -> Result<Kit, ClientError> {
        self.send(Method::POST, "/v1/kits/validate", Some(&ValidateKit { path })).await
    }

    /// All workspaces.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn workspaces(&mut self) -> Result<Vec<Workspace>, ClientError> {
        self.get("/v1/workspaces").await
    }

    /// Makes an empty workspace.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_workspace(&mut self, name: &str) -> Result<Workspace, ClientError> {
        let body = CreateWorkspace { name: name.to_owned() };
        self.send(Method::POST, "/v1/workspaces", Some(&body)).await
    }

    /// One workspace, with what is in it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn workspace(&mut self, name: &str) -> Result<Workspace, ClientError> {
        self.get(&format!("/v1/workspaces/{}", escape(name))).await
    }

    /// Removes a workspace with all that is in it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_workspace(&mut self, name: &str) -> Result<WorkspaceReply, ClientError> {
        self.send(Method::DELETE, &format!("/v1/workspaces/{}", escape(name)), None::<&()>).await
    }

    async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let mut connection = Connection::open(&self.socket).await?;
        let reply = connection.request(Method::GET, path, Body::empty()).await?;
        Ok(Lines::new(transport::checked(reply).await?, connection))
    }

    /// Executes a process in an instance and connects to its standard streams.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exec(
        &self,
        name: &str,
        exec: &ExecRequest,
    ) -> Result<(ProcessReader, ProcessWriter), ClientError> {
        self.upgrade(&instance_path(name, "/exec"), Body::json(Some(exec))?).await
    }

    /// Executes a process that goes on by itself: `exec.detach` is to be set.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exec_detached(&mut self, name: &str, exec: &ExecRequest) -> Result<ExecLine, ClientError> {
        self.send(Method::POST, &instance_path(name, "/exec"), Some(exec)).await
    }

    /// Connects to the standard streams of an instance's command, of whose output the first bytes are `held`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn attach(
        &self,
        name: &str,
        held: [u64; 2],
    ) -> Result<(ProcessReader, ProcessWriter), ClientError> {
        let path = instance_path(name, &format!("/attach?stdout={}&stderr={}", held[0], held[1]));
        self.upgrade(&path, Body::empty()).await
    }

    async fn upgrade(&self, path: &str, body: Body) -> Result<(ProcessReader, ProcessWriter), ClientError> {
        let connection = Connection::open(&self.socket).await?;
        Ok(process::split(connection.upgrade(path, body).await?))
    }
}

fn instance_path(name: &str, rest: &str) -> String {
    format!("/v1/instances/{}{rest}", escape(name))
}

fn group_path(name: &str, group: &str) -> String {
    instance_path(name, &format!("/network/groups/{}", escape(group)))
}

/// Percent-encodes what is not plain in a path or query.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        assert_eq!(instance_path("../a b", "/stop"), "/v1/instances/..%2Fa%20b/stop");
    }
}
