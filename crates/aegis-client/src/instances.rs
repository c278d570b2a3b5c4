//! Instances: create, list, describe, act, delete, fork, publish ports.

use aegis_api::instance::{ActionReply, CreateInstance, Instance, PruneReply};
use aegis_api::ports::{EndpointInfo, Expose, ExposeRequest};
use aegis_api::snapshot::{ForkReply, ForkRequest};
use aegis_api::status::InstanceStats;
use hyper::Method;

use crate::client::Client;
use crate::error::ClientError;
use crate::url_path::{escape, instance_path};

impl Client {
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
}
