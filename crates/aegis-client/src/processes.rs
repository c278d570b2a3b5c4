//! Processes in instances: exec, attach, signal.

use aegis_api::instance::{ActionReply, ExecRequest, SignalRequest};
use aegis_api::logs::ExecLine;
use hyper::Method;

use crate::client::Client;
use crate::error::ClientError;
use crate::process_stream::{ProcessReader, ProcessWriter};
use crate::transport::Body;
use crate::url_path::instance_path;

impl Client {
    /// Sends a signal to an instance's command.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn signal(&mut self, name: &str, signal: u8) -> Result<ActionReply, ClientError> {
        self.send(Method::POST, &instance_path(name, "/signal"), Some(&SignalRequest { signal })).await
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
}
