//! Network policies, groups and decision logs of instances.

use aegis_api::network::{CheckReply, CheckRequest, Group, NetworkInfo, NetworkPolicy, RuleRequest};
use hyper::Method;

use crate::client::Client;
use crate::error::ClientError;
use crate::logs::NetworkLines;
use crate::url_path::{group_path, instance_path};

impl Client {
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
}
