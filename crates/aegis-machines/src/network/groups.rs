//! Groups: which instances reach each other, and by which addresses.
//!
//! A group exists as long as it has a member. It has a network of its own, and each member an address in that for as
//! long as it is one. Where they are is decided here, in memory, and stored with each member.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use aegis_gateway::Group as Seen;
use aegis_gateway::addressing::{GROUPS, PREFIX_GROUP, PREFIX_GROUPS};
use aegis_policy::Name;
use aegis_spec::network::Membership;
use thiserror::Error;
use tokio::sync::watch;

/// Most groups of one instance.
pub const MOST_GROUPS: usize = 8;
/// Most groups of a host.
const MOST_NETWORKS: u32 = 1 << (PREFIX_GROUP - PREFIX_GROUPS);
/// Most members of a group: all addresses of its network but the first and the last.
const MOST_MEMBERS: u32 = (1 << (32 - PREFIX_GROUP)) - 2;

/// Why an instance cannot join a group.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupError {
    /// It is in too many.
    #[error("an instance is in at most {MOST_GROUPS} groups")]
    TooMany,
    /// The group is full.
    #[error("the group {0:?} has {MOST_MEMBERS} members, and cannot have more")]
    Full(String),
    /// There are too many groups.
    #[error("there are {MOST_NETWORKS} groups, and cannot be more")]
    NoNetwork,
}

/// A member, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its instance's id.
    pub id: String,
    /// The name by which it is reached: its handle, or else its id.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// Who is where. Pure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory(BTreeMap<String, Vec<Member>>);

fn network(address: Ipv4Addr) -> u32 {
    u32::from(address) >> (32 - PREFIX_GROUP)
}

impl Directory {
    /// Takes an instance in, at the first free address. One that is in already keeps its own.
    ///
    /// # Errors
    /// [`GroupError`]. Nothing is changed then.
    fn join(&mut self, group: &str, id: &str, name: &str) -> Result<Membership, GroupError> {
        let place = |address: Ipv4Addr| Membership { group: group.to_owned(), address };
        let members = self.0.get(group).map(Vec::as_slice).unwrap_or_default();
        if let Some(member) = members.iter().find(|member| member.id == id) {
            return Ok(place(member.address));
        }
        if self.of(id).count() >= MOST_GROUPS {
            return Err(GroupError::TooMany);
        }
        let first = network(GROUPS);
        let used: Vec<u32> =
            self.0.values().filter_map(|members| members.first()).map(|one| network(one.address)).collect();
        let network = match members.first() {
            Some(member) => network(member.address),
            None => (first..first + MOST_NETWORKS)
                .find(|network| !used.contains(network))
                .ok_or(GroupError::NoNetwork)?,
        };
        let addresses = (1..=MOST_MEMBERS).map(|host| Ipv4Addr::from(network << (32 - PREFIX_GROUP) | host));
        let mut free = addresses.filter(|address| members.iter().all(|member| member.address != *address));
        let address = free.next().ok_or_else(|| GroupError::Full(group.to_owned()))?;
        self.enter(&place(address), id, name);
        Ok(place(address))
    }

    /// Takes in a member whose address is known.
    fn enter(&mut self, place: &Membership, id: &str, name: &str) {
        let member = Member { id: id.to_owned(), name: name.to_owned(), address: place.address };
        self.0.entry(place.group.clone()).or_default().push(member);
    }

    /// Ends a membership.
    fn leave(&mut self, group: &str, id: &str) {
        self.0.retain(|name, members| {
            if name == group {
                members.retain(|member| member.id != id);
            }
            !members.is_empty()
        });
    }

    /// Ends all memberships of an instance.
    fn forget(&mut self, id: &str) {
        self.0.retain(|_, members| {
            members.retain(|member| member.id != id);
            !members.is_empty()
        });
    }

    fn of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = (&'a str, &'a Member, &'a [Member])> {
        self.0.iter().filter_map(move |(group, members)| {
            let own = members.iter().find(|member| member.id == id)?;
            Some((group.as_str(), own, members.as_slice()))
        })
    }

    /// Names of an instance's groups.
    pub fn of_instance(&self, id: &str) -> Vec<String> {
        self.of(id).map(|(group, ..)| group.to_owned()).collect()
    }

    /// An instance's groups, as its gateway is to see them.
    #[must_use]
    pub fn seen_by(&self, id: &str) -> Vec<Seen> {
        let named = |group: &str, member: &Member| {
            // Both follow the rules for handles, or are ids.
            Some((Name::new(&format!("{}.{group}", member.name)).ok()?, member.address))
        };
        self.of(id)
            .map(|(group, own, members)| Seen {
                own: own.address,
                members: members.iter().filter_map(|member| named(group, member)).collect(),
            })
            .collect()
    }

    /// The member with this address in one of an instance's groups, and the instance's own address there.
    #[must_use]
    pub fn find<'a>(&'a self, id: &'a str, address: Ipv4Addr) -> Option<(&'a Member, Ipv4Addr)> {
        self.of(id).find_map(|(_, own, members)| {
            Some((members.iter().find(|member| member.address == address)?, own.address))
        })
    }

    /// All groups, each with its members.
    #[must_use]
    pub fn all(&self) -> &BTreeMap<String, Vec<Member>> {
        &self.0
    }
}

/// The groups of a daemon's instances.
#[derive(Debug, Default)]
pub struct Groups(watch::Sender<Arc<Directory>>);

impl Groups {
    /// Tells of each change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Directory>> {
        self.0.subscribe()
    }

    /// Who is where now.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.0.borrow())
    }

    fn change(&self, change: impl FnOnce(&mut Directory)) {
        self.0.send_if_modified(|directory| {
            let mut after = Directory::clone(directory);
            change(&mut after);
            let changed = after != **directory;
            if changed {
                *directory = Arc::new(after);
            }
            changed
        });
    }

    /// Takes an instance in everywhere, or nowhere.
    pub fn join_all(&self, groups: &[String], id: &str, name: &str) -> Result<Vec<Membership>, GroupError> {
        let joined = groups.iter().map(|group| self.join(group, id, name)).collect::<Result<Vec<_>, _>>();
        joined.inspect_err(|_| self.forget(id))
    }

    /// See [`Directory::join`].
    pub fn join(&self, group: &str, id: &str, name: &str) -> Result<Membership, GroupError> {
        let mut joined = Err(GroupError::NoNetwork);
        self.change(|directory| joined = directory.join(group, id, name));
        joined
    }

    /// Takes in what is stored.
    pub fn enter(&self, places: &[Membership], id: &str, name: &str) {
        self.change(|directory| places.iter().for_each(|place| directory.enter(place, id, name)));
    }

    /// See [`Directory::leave`].
    pub fn leave(&self, group: &str, id: &str) {
        self.change(|directory| directory.leave(group, id));
    }

    /// See [`Directory::forget`].
    pub fn forget(&self, id: &str) {
        self.change(|directory| directory.forget(id));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_see_each_other_and_nobody_else() {
        let mut all = Directory::default();
        let a = all.join("crew", "1", "a").unwrap().address;
        let b = all.join("crew", "2", "b").unwrap().address;
        let c = all.join("other", "3", "c").unwrap().address;
        assert_eq!(a.to_string(), "198.19.0.1");
        assert_eq!((b.to_string(), c.to_string()), ("198.19.0.2".to_owned(), "198.19.1.1".to_owned()));
        let [seen] = all.seen_by("1").try_into().unwrap();
        let names: Vec<String> = seen.members.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!((seen.own, names), (a, vec!["a.crew".to_owned(), "b.crew".to_owned()]));
        assert_eq!(all.find("1", b).map(|(member, own)| (member.id.as_str(), own)), Some(("2", a)));
        assert!(all.find("1", c).is_none() && all.find("3", a).is_none() && all.find("4", a).is_none());
        all.leave("crew", "2");
        assert!(all.find("1", b).is_none());
        // What is free is taken again, and an empty group is none.
        assert_eq!(all.join("crew", "4", "d").unwrap().address, b);
        all.forget("3");
        assert_eq!(all.join("third", "5", "e").unwrap().address, c);
    }

    #[test]
    fn there_are_bounds() {
        let mut all = Directory::default();
        for group in 0..MOST_GROUPS {
            all.join(&group.to_string(), "1", "a").unwrap();
        }
        assert_eq!(all.join("more", "1", "a"), Err(GroupError::TooMany));
        assert!(all.join("0", "1", "a").is_ok());
        for member in 1..MOST_MEMBERS {
            all.join("0", &format!("m{member}"), "m").unwrap();
        }
        assert_eq!(all.join("0", "x", "x"), Err(GroupError::Full("0".to_owned())));
        for group in MOST_GROUPS..MOST_NETWORKS as usize {
            all.join(&group.to_string(), &format!("g{group}"), "g").unwrap();
        }
        assert_eq!(all.join("last", "x", "x"), Err(GroupError::NoNetwork));
    }

    proptest! {
        #[test]
        fn no_two_members_ever_have_the_same_address(
            steps in prop::collection::vec((0u8..4, 0u8..4, 0u8..6), 0..60),
        ) {
            let mut all = Directory::default();
            for (what, group, id) in steps {
                let (group, id) = (format!("g{group}"), id.to_string());
                match what {
                    0 => all.leave(&group, &id),
                    1 => all.forget(&id),
                    _ => drop(all.join(&group, &id, "x")),
                }
                let members = || all.all().iter().flat_map(|(group, members)| members.iter().map(move |one| (group, one)));
                let addresses: HashSet<Ipv4Addr> = members().map(|(_, member)| member.address).collect();
                prop_assert_eq!(addresses.len(), members().count());
                let networks: HashSet<(&String, u32)> =
                    members().map(|(group, member)| (group, network(member.address))).collect();
                prop_assert_eq!(networks.len(), all.all().len());
            }
        }
    }
}
