//! The groups that an instance is in: who is there, by name and by address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use aegis_policy::Name;
use serde::{Deserialize, Serialize};

/// A group that the instance is a member of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The instance's own address in it.
    pub own: Ipv4Addr,
    /// All members, by their whole names (`web.crew`), the instance too.
    pub members: Vec<(Name, Ipv4Addr)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    own: Vec<Ipv4Addr>,
    by_name: HashMap<Name, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, Name>,
}

impl Groups {
    pub(crate) fn new(groups: &[Group]) -> Groups {
        let members = || groups.iter().flat_map(|group| &group.members);
        Groups {
            own: groups.iter().map(|group| group.own).collect(),
            by_name: members().cloned().collect(),
            by_address: members().map(|(name, address)| (*address, name.clone())).collect(),
        }
    }

    /// The guest's addresses in its groups.
    pub(crate) fn own(&self) -> &[Ipv4Addr] {
        &self.own
    }

    /// The address of a member.
    pub(crate) fn address(&self, name: &Name) -> Option<Ipv4Addr> {
        self.by_name.get(name).copied()
    }

    /// The member with an address, unless it is the guest itself.
    pub(crate) fn other(&self, address: IpAddr) -> Option<&Name> {
        match address {
            IpAddr::V4(address) if !self.own.contains(&address) => self.by_address.get(&address),
            _ => None,
        }
    }
}
