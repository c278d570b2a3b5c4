//! The ports of an instance that are reachable from the host.

use std::collections::HashSet;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::InstanceError;

/// Most ports of one instance.
pub const MOST_PORTS: usize = 1024;
/// How often a random choice may hit a number that a disabled instance keeps.
const ATTEMPTS: usize = 1000;

/// A port of the guest and its counterpart on the host. Fixed until it is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Port in the guest.
    pub guest_port: u16,
    /// Port on the host.
    pub public_port: u16,
    /// Address on the host.
    pub address: IpAddr,
    /// What is spoken there; a word that means nothing here.
    pub protocol: String,
}

/// A mapping that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// Port in the guest.
    pub guest_port: u16,
    /// Port on the host; any if absent.
    pub public_port: Option<u16>,
    /// Address on the host.
    pub address: IpAddr,
    /// What is spoken there.
    pub protocol: String,
}

/// A mapping, and whether it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The mapping.
    pub mapping: Mapping,
    /// Why nothing listens there now, if that is so.
    pub problem: Option<String>,
}

/// Where connections to a port go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Id of the instance.
    pub id: String,
    /// Its handle, or else its id.
    pub name: String,
    /// Port in its guest.
    pub guest_port: u16,
    /// What is spoken there.
    pub protocol: String,
}

/// Whoever listens on the host's ports and brings connections here.
pub trait Ingress: Debug + Send + Sync {
    /// Begins to listen; port 0 means any. Returns the port.
    ///
    /// # Errors
    /// A sentence, which names the holder of a port that is taken.
    fn open(&self, route: &Route, address: IpAddr, port: u16) -> Result<u16, String>;

    /// Ends listening. Connections go on.
    fn close(&self, address: IpAddr, port: u16);
}

/// Why a disabled instance's ports are closed.
const DISABLED: &str = "the instance is disabled";

/// What of `wanted` is new, beside what there is.
///
/// # Errors
/// [`InstanceError::Port`] if something contradicts what there is, or there would be too many.
pub fn additions(existing: &[Endpoint], wanted: &[PortRequest]) -> Result<Vec<PortRequest>, InstanceError> {
    let mut added: Vec<PortRequest> = Vec::new();
    for port in wanted {
        let agrees = |address, protocol: &str, public: Option<u16>| {
            address == port.address
                && protocol == port.protocol
                && (port.public_port.is_none() || public.is_none() || port.public_port == public)
        };
        let of_guest = |mapping: &&Mapping| mapping.guest_port == port.guest_port;
        let held = existing.iter().map(|endpoint| &endpoint.mapping).find(of_guest);
        if let Some(held) = held {
            if !agrees(held.address, &held.protocol, Some(held.public_port)) {
                let text = format!(
                    "port {} of the guest is exposed as {} ({}) already",
                    held.guest_port,
                    SocketAddr::new(held.address, held.public_port),
                    held.protocol
                );
                return Err(InstanceError::PortConflict(text));
            }
        } else if let Some(twice) = added.iter().find(|other| other.guest_port == port.guest_port) {
            if !agrees(twice.address, &twice.protocol, twice.public_port) {
                let text = format!("port {} of the guest is to be exposed in two ways", port.guest_port);
                return Err(InstanceError::PortConflict(text));
            }
        } else {
            added.push(port.clone());
        }
    }
    if existing.len() + added.len() > MOST_PORTS {
        return Err(InstanceError::PortConflict(format!("an instance can have {MOST_PORTS} ports")));
    }
    Ok(added)
}

/// The ports of one instance.
#[derive(Debug)]
pub(crate) struct Ports {
    ingress: Arc<dyn Ingress>,
    id: String,
    name: String,
    endpoints: Vec<Endpoint>,
}

impl Ports {
    /// Ports as stored, none of them open.
    pub(crate) fn new(ingress: Arc<dyn Ingress>, id: &str, name: &str, mappings: Vec<Mapping>) -> Ports {
        let closed = |mapping| Endpoint { mapping, problem: Some("the daemon is starting".to_owned()) };
        let endpoints = mappings.into_iter().map(closed).collect();
        Ports { ingress, id: id.to_owned(), name: name.to_owned(), endpoints }
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(crate) fn mappings(&self) -> Vec<Mapping> {
        self.endpoints.iter().map(|endpoint| endpoint.mapping.clone()).collect()
    }

    fn route(&self, guest_port: u16, protocol: &str) -> Route {
        Route { id: self.id.clone(), name: self.name.clone(), guest_port, protocol: protocol.to_owned() }
    }

    /// Opens what is not open. What cannot be opened keeps its number, and says why.
    pub(crate) fn open(&mut self) {
        for at in 0..self.endpoints.len() {
            let Some(Endpoint { mapping, problem: Some(_) }) = self.endpoints.get(at).cloned() else {
                continue;
            };
            let route = self.route(mapping.guest_port, &mapping.protocol);
            let opened = self.ingress.open(&route, mapping.address, mapping.public_port);
            if let Err(problem) = &opened {
                tracing::warn!(id = self.id, port = mapping.public_port, problem, "port not opened");
            }
            if let Some(endpoint) = self.endpoints.get_mut(at) {
                endpoint.problem = opened.err();
            }
        }
    }

    /// Closes all. The numbers stay.
    pub(crate) fn close(&mut self) {
        for endpoint in &mut self.endpoints {
            if endpoint.problem.is_none() {
                self.ingress.close(endpoint.mapping.address, endpoint.mapping.public_port);
            }
            endpoint.problem = Some(DISABLED.to_owned());
        }
    }

    /// Adds ports: all of them or none. `reserved` are numbers that no random choice may take.
    ///
    /// # Errors
    /// [`InstanceError::Port`], [`InstanceError::PortConflict`].
    pub(crate) fn expose(
        &mut self,
        wanted: &[PortRequest],
        listening: bool,
        reserved: &HashSet<u16>,
    ) -> Result<(), InstanceError> {
        let added = additions(&self.endpoints, wanted)?;
        let before = self.endpoints.len();
        for port in added {
            match self.take(&port, reserved) {
                Ok(public_port) => {
                    let PortRequest { guest_port, address, protocol, .. } = port;
                    let mapping = Mapping { guest_port, public_port, address, protocol };
                    self.endpoints.push(Endpoint { mapping, problem: None });
                }
                Err(problem) => {
                    self.withdraw_from(before);
                    return Err(InstanceError::Port(problem));
                }
            }
        }
        if listening {
            self.open();
        } else {
            self.close();
        }
        Ok(())
    }

    /// Takes back what was added last.
    pub(crate) fn withdraw_from(&mut self, first: usize) {
        for Endpoint { mapping, problem } in self.endpoints.drain(first.min(self.endpoints.len())..) {
            if problem.is_none() {
                self.ingress.close(mapping.address, mapping.public_port);
            }
        }
    }

    fn take(&self, port: &PortRequest, reserved: &HashSet<u16>) -> Result<u16, String> {
        let route = self.route(port.guest_port, &port.protocol);
        if let Some(public) = port.public_port {
            return self.ingress.open(&route, port.address, public);
        }
        for _ in 0..ATTEMPTS {
            let public = self.ingress.open(&route, port.address, 0)?;
            if !reserved.contains(&public) {
                return Ok(public);
            }
            self.ingress.close(port.address, public);
        }
        Err("no free port was found".to_owned())
    }

    /// Withdraws a port of the guest. Returns its mapping; `None` if it was not exposed.
    pub(crate) fn unexpose(&mut self, guest_port: u16) -> Option<Endpoint> {
        let at = self.endpoints.iter().position(|endpoint| endpoint.mapping.guest_port == guest_port)?;
        let endpoint = self.endpoints.remove(at);
        if endpoint.problem.is_none() {
            self.ingress.close(endpoint.mapping.address, endpoint.mapping.public_port);
        }
        Some(endpoint)
    }
}

impl Drop for Ports {
    /// An instance that was not made after all leaves no port open.
    fn drop(&mut self) {
        self.withdraw_from(0);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Host {
        open: Mutex<HashSet<u16>>,
        next: Mutex<u16>,
    }

    impl Ingress for Host {
        fn open(&self, _route: &Route, _address: IpAddr, port: u16) -> Result<u16, String> {
            let mut next = self.next.lock().unwrap();
            *next += u16::from(port == 0);
            let port = if port == 0 { 40_000 + *next } else { port };
            if self.open.lock().unwrap().insert(port) { Ok(port) } else { Err(format!("{port} is taken")) }
        }

        fn close(&self, _address: IpAddr, port: u16) {
            assert!(self.open.lock().unwrap().remove(&port));
        }
    }

    fn want(guest_port: u16, public_port: Option<u16>, protocol: &str) -> PortRequest {
        PortRequest {
            guest_port,
            public_port,
            address: Ipv4Addr::LOCALHOST.into(),
            protocol: protocol.into(),
        }
    }

    fn ports(host: &Arc<Host>) -> Ports {
        let ingress: Arc<dyn Ingress> = Arc::<Host>::clone(host);
        Ports::new(ingress, "inst-1", "web", Vec::new())
    }

    fn open_ports(host: &Host) -> Vec<u16> {
        let mut all: Vec<u16> = host.open.lock().unwrap().iter().copied().collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn exposing_twice_is_once_and_a_contradiction_is_refused() {
        let host = Arc::<Host>::default();
        let mut ports = ports(&host);
        let none = HashSet::new();
        ports.expose(&[want(80, Some(8080), "http"), want(90, None, "tcp")], true, &none).unwrap();
        let before = ports.mappings();
        ports
            .expose(
                &[want(80, None, "http"), want(80, Some(8080), "http"), want(90, None, "tcp")],
                true,
                &none,
            )
            .unwrap();
        assert_eq!(ports.mappings(), before);
        for contradiction in [want(80, Some(8081), "http"), want(80, None, "tcp"), want(90, Some(1), "tcp")] {
            let refused = ports.expose(&[want(70, None, "tcp"), contradiction], true, &none);
            assert!(matches!(refused, Err(InstanceError::PortConflict(_))), "{refused:?}");
        }
        assert_eq!(ports.mappings(), before);
        assert_eq!(open_ports(&host).len(), 2);
    }

    #[test]
    fn all_are_exposed_or_none() {
        let host = Arc::<Host>::default();
        let mut ports = ports(&host);
        host.open.lock().unwrap().insert(8081);
        let refused = ports.expose(
            &[want(80, Some(8080), "http"), want(81, Some(8081), "http")],
            true,
            &HashSet::new(),
        );
        assert_eq!(refused.unwrap_err().to_string(), "8081 is taken");
        assert!(ports.endpoints().is_empty());
        assert_eq!(open_ports(&host), [8081]);
    }

    #[test]
    fn a_random_choice_keeps_off_numbers_that_are_reserved() {
        let host = Arc::<Host>::default();
        let mut ports = ports(&host);
        ports.expose(&[want(80, None, "http")], true, &HashSet::from([40_001, 40_002])).unwrap();
        assert_eq!(ports.mappings()[0].public_port, 40_003);
        assert_eq!(open_ports(&host), [40_003]);
    }

    #[test]
    fn a_closed_port_keeps_its_number_and_says_who_took_it() {
        let host = Arc::<Host>::default();
        let mut ports = ports(&host);
        ports.expose(&[want(80, Some(8080), "http")], true, &HashSet::new()).unwrap();
        ports.close();
        assert!(open_ports(&host).is_empty());
        assert_eq!(ports.endpoints()[0].problem.as_deref(), Some("the instance is disabled"));
        host.open.lock().unwrap().insert(8080);
        ports.open();
        assert_eq!(ports.endpoints()[0].problem.as_deref(), Some("8080 is taken"));
        assert_eq!(ports.mappings()[0].public_port, 8080);
        host.open.lock().unwrap().clear();
        ports.open();
        assert_eq!(ports.endpoints()[0].problem, None);
        assert!(ports.unexpose(80).is_some() && ports.unexpose(80).is_none());
        assert!(open_ports(&host).is_empty());
        ports.expose(&[want(81, Some(8081), "http")], true, &HashSet::new()).unwrap();
        drop(ports);
        assert!(open_ports(&host).is_empty());
    }
}
