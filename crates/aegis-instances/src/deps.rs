//! What the actors of all instances are given.

use std::sync::Arc;

use aegis_lifecycle::idle_policy::IdleDefaults;
use aegis_machines::machines::Machines;
use aegis_machines::network::groups::Groups;
use aegis_registry::Registry;
use aegis_store::logs::LogLimits;

use crate::metrics::Metrics;
use crate::ports::Ingress;
use crate::table::InstanceTable;

/// What an actor works with.
#[derive(Debug)]
pub(crate) struct ActorDeps {
    /// Makes and ends machines.
    pub(crate) machines: Machines,
    /// What is stored.
    pub(crate) registry: Registry,
    /// All instances.
    pub(crate) table: Arc<InstanceTable>,
    /// Who is in which group.
    pub(crate) groups: Arc<Groups>,
    /// Ports of the host.
    pub(crate) ingress: Arc<dyn Ingress>,
    /// What is counted of all instances together.
    pub(crate) metrics: Metrics,
    /// How much log an instance keeps.
    pub(crate) log_limits: LogLimits,
    /// When instances sleep that were told nothing else.
    pub(crate) idle_defaults: IdleDefaults,
}
