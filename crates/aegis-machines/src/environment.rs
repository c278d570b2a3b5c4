//! The environment of an instance's commands, as far as it is not stored with the instance.

use std::collections::BTreeMap;
use std::sync::Arc;

use aegis_gateway::addressing::{GATEWAY_V4, GUEST_V4, PROXY_PORT};
use aegis_spec::environment::Values;
use aegis_spec::instance::InstanceSpec;
use tokio::sync::watch;

use crate::network::resolvers::Resolvers;
use crate::secret_values::SecretValues;

/// Variables that tell programs of a proxy, and what is reached without it.
const PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Looks up what is not stored with an instance. Clones share what they look it up in.
#[derive(Debug, Clone)]
pub struct EnvironmentSources {
    secrets: Arc<dyn SecretValues>,
    resolvers: watch::Receiver<Arc<Resolvers>>,
}

impl EnvironmentSources {
    /// Secrets from there, and how the host reaches the world.
    #[must_use]
    pub fn new(
        secrets: Arc<dyn SecretValues>,
        resolvers: watch::Receiver<Arc<Resolvers>>,
    ) -> EnvironmentSources {
        EnvironmentSources { secrets, resolvers }
    }

    /// All that there is for an instance's commands at this moment.
    ///
    /// # Errors
    /// A sentence, if one of its secrets is missing or cannot be read.
    pub fn values(&self, spec: &InstanceSpec) -> Result<Values, String> {
        Ok(Values { secrets: self.secrets.values(&spec.secrets)?, ..self.of_host(spec) })
    }

    /// Names of the variables of an instance's command, but for those of its secrets and those that its kit has printed.
    #[must_use]
    pub fn variables(&self, spec: &InstanceSpec) -> Vec<String> {
        spec.environment(&self.of_host(spec)).into_keys().collect()
    }

    fn of_host(&self, spec: &InstanceSpec) -> Values {
        let host = offered(&self.resolvers.borrow(), &spec.network.host_ports);
        Values { host, ..Values::default() }
    }
}

/// What tells programs of the proxy that the gateway offers where the host has one. They reach everything without it:
/// it is for those that want to be told.
fn offered(resolvers: &Resolvers, host_ports: &[u16]) -> BTreeMap<String, String> {
    if resolvers.proxy.is_none() || host_ports.contains(&PROXY_PORT) {
        return BTreeMap::new();
    }
    let proxy = format!("http://{GATEWAY_V4}:{PROXY_PORT}");
    let near = format!("localhost,127.0.0.1,::1,{GUEST_V4}");
    let all = PROXY.map(|name| (name, &proxy)).into_iter().chain(NO_PROXY.map(|name| (name, &near)));
    all.map(|(name, value)| (name.to_owned(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use aegis_gateway::Proxy;

    use super::*;

    #[test]
    fn a_proxy_is_offered_where_the_host_has_one_and_without_its_password() {
        let proxy = Proxy { authorization: Some("Basic dTpw".into()), ..Proxy::default() };
        let with = Resolvers { proxy: Some(proxy), ..Resolvers::default() };
        let found = offered(&with, &[80]);
        assert_eq!(found.get("HTTPS_PROXY").map(String::as_str), Some("http://10.63.0.1:3128"));
        assert_eq!(found.len(), 4);
        assert!(!format!("{found:?}").contains("dTpw"));
        // That port of the host was asked for.
        assert!(offered(&with, &[3128]).is_empty());
        assert!(offered(&Resolvers::default(), &[]).is_empty());
    }
}
