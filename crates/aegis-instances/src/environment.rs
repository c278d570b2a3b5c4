//! The environment of an instance's commands, as far as it is not stored with the instance.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aegis_gateway::addressing::{GATEWAY_V4, GUEST_V4, PROXY_PORT};
use tokio::sync::watch;

use crate::manager::{Context, Instances};
use crate::network::resolvers::Resolvers;
use crate::secret::SecretValues;
use crate::spec::InstanceSpec;

/// Variables that tell programs of a proxy, and what is reached without it.
const PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// What is looked up when a command is executed.
#[derive(Clone, Default)]
pub struct Values {
    /// What the host offers: stronger than the image's, weaker than the kit's.
    pub host: BTreeMap<String, String>,
    /// Secrets.
    pub secrets: BTreeMap<String, String>,
    /// What the kit's program has printed: as strong as the kit's own.
    pub rendered: BTreeMap<String, String>,
}

impl fmt::Debug for Values {
    /// Names alone: the values are nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [&self.host, &self.secrets, &self.rendered].map(|values| values.keys());
        f.debug_list().entries(names.into_iter().flatten()).finish()
    }
}

/// Whoever knows them.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    secrets: Arc<dyn SecretValues>,
    resolvers: watch::Receiver<Arc<Resolvers>>,
}

impl Sources {
    pub(crate) fn of(context: &Context) -> Sources {
        Sources { secrets: Arc::clone(&context.secrets), resolvers: context.resolvers.clone() }
    }

    /// All that there is for an instance's commands at this moment.
    ///
    /// # Errors
    /// A sentence, if one of its secrets is missing or cannot be read.
    pub(crate) fn values(&self, spec: &InstanceSpec) -> Result<Values, String> {
        let host = offered(&self.resolvers.borrow(), &spec.network.host_ports);
        Ok(Values { host, secrets: self.secrets.values(&spec.secrets)?, rendered: BTreeMap::new() })
    }
}

impl Instances {
    /// Names of the variables of an instance's command, but for those of its secrets and those that its kit has printed.
    #[must_use]
    pub fn variables(&self, spec: &InstanceSpec) -> Vec<String> {
        let host = offered(&self.context().resolvers.borrow(), &spec.network.host_ports);
        spec.environment(&Values { host, ..Values::default() }).into_keys().collect()
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
