//! What a request or a kit says about the network of an instance.

use aegis_api::handle;
use aegis_api::network::NetworkRequest;
use aegis_policy::{Limits, Policy, Preset, Rule, SyntaxError};
use aegis_spec::network::NetworkSpec;

use crate::error::EngineError;

/// Names that mean something else already.
const NO_GROUPS: [&str; 2] = ["aegis", "localhost"];

/// Checks a group's name: the rule is that for handles.
///
/// # Errors
/// [`EngineError::Invalid`].
pub fn check_group(name: &str) -> Result<(), EngineError> {
    handle::check(name).map_err(|error| {
        EngineError::Invalid(format!("the group {name:?}: {error}; names of groups follow the same rule"))
    })?;
    if NO_GROUPS.contains(&name) {
        return Err(EngineError::Invalid(format!("no group can be named {name:?}")));
    }
    Ok(())
}

/// What instances may reach that were told nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDefaults {
    /// The policy.
    pub policy: Policy,
    /// Whether their programs trust the authorities that the host trusts.
    pub trust_host_cas: bool,
}

/// What is chosen; what is absent is as the defaults say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkChoice {
    /// What happens where no rule matches.
    pub default: Option<Preset>,
    /// Rules, in order.
    pub rules: Option<Vec<Rule>>,
    /// TCP ports of the host's loopback interface that it sees.
    pub host_ports: Vec<u16>,
    /// Its bounds.
    pub limits: Limits,
    /// Whether its programs are to trust the authorities that the host trusts.
    pub trust_host_cas: bool,
    /// Names of the groups that it is to be in.
    pub groups: Vec<String>,
}

fn malformed(error: SyntaxError) -> EngineError {
    EngineError::Invalid(error.0)
}

impl TryFrom<&NetworkRequest> for NetworkChoice {
    type Error = EngineError;

    fn try_from(request: &NetworkRequest) -> Result<NetworkChoice, EngineError> {
        let NetworkRequest { default, rules, host_ports, limits, trust_host_cas, groups } = request;
        groups.iter().try_for_each(|group| check_group(group))?;
        let parse =
            |rules: &Vec<String>| rules.iter().map(|rule| rule.parse()).collect::<Result<Vec<_>, _>>();
        let bounds = Limits::default();
        Ok(NetworkChoice {
            default: default.as_deref().map(str::parse).transpose().map_err(malformed)?,
            rules: rules.as_ref().map(parse).transpose().map_err(malformed)?,
            host_ports: host_ports.clone(),
            limits: Limits {
                flows: limits.flows.map_or(bounds.flows, |flows| flows as usize),
                queries: limits.queries.unwrap_or(bounds.queries),
                packets: limits.packets,
                bandwidth: limits.bandwidth,
            },
            trust_host_cas: *trust_host_cas,
            groups: groups.clone(),
        })
    }
}

impl NetworkDefaults {
    /// The network of an instance with this choice. Its places in groups are found when it is made.
    #[must_use]
    pub fn spec(&self, choice: Option<&NetworkChoice>) -> NetworkSpec {
        let NetworkDefaults { policy, trust_host_cas } = self;
        let Some(choice) = choice else {
            let trust_host_cas = *trust_host_cas;
            return NetworkSpec { policy: policy.clone(), trust_host_cas, ..NetworkSpec::default() };
        };
        NetworkSpec {
            policy: Policy {
                default: choice.default.unwrap_or(policy.default),
                rules: choice.rules.clone().unwrap_or_else(|| policy.rules.clone()),
            },
            host_ports: choice.host_ports.clone(),
            trust_host_cas: choice.trust_host_cas || *trust_host_cas,
            groups: Vec::new(),
            limits: choice.limits.clone(),
        }
    }
}
