//! Between the router, which knows connections, and the instances, which know guests.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use aegis_instances::ports::Endpoint;
use aegis_instances::ports::Ingress;
use aegis_instances::ports::Route;
use aegis_lifecycle::event::State;

use aegis_instances::connection::ConnectionGuard;
use aegis_instances::error::InstanceError;
use aegis_instances::instances::Instances;
use aegis_instances::view::View;
use aegis_router::{
    Backends, InstanceIdentity, InstanceName, Listeners, Protocol, Refusal, Stream, Target, Unresolved,
};
use async_trait::async_trait;

/// The host's ports, as instances see them.
#[derive(Debug)]
pub(crate) struct PublicPorts(pub(crate) Listeners);

impl Ingress for PublicPorts {
    fn open(&self, route: &Route, address: IpAddr, port: u16) -> Result<u16, String> {
        let target = target(&route.id, &route.name, route.guest_port, &route.protocol);
        self.0.open(address, port, target).map_err(|error| error.to_string())
    }

    fn close(&self, address: IpAddr, port: u16) {
        self.0.close(address, port);
    }
}

fn target(id: &str, name: &str, guest_port: u16, protocol: &str) -> Target {
    // A word of a newer release is dealt with as bytes.
    let protocol = protocol.parse().unwrap_or(Protocol::Tcp);
    Target { instance: id.into(), name: name.into(), guest_port, protocol }
}

/// Instances, as the router sees them.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    instances: OnceLock<Instances>,
}

impl Guests {
    /// Begins to serve. No port is open before.
    pub(crate) fn serve(&self, instances: Instances) {
        // Called once.
        let _again = self.instances.set(instances);
    }

    fn instances(&self) -> Result<&Instances, Refusal> {
        self.instances.get().ok_or_else(|| Refusal::Failed("the daemon is starting".to_owned()))
    }

    /// Instances with an HTTP port.
    fn servers(&self) -> Vec<Arc<View>> {
        let all = self.instances.get().map(Instances::list).unwrap_or_default();
        all.into_iter().filter(|view| first_http(view).is_some()).collect()
    }

    fn unresolved(&self, message: String) -> Unresolved {
        let names = self.servers().iter().map(|view| view.name().to_owned()).collect();
        Unresolved { message, names }
    }

    fn named(&self, name: &str) -> Result<Arc<View>, Unresolved> {
        let found = self.instances.get().and_then(|instances| instances.find(name).ok());
        let found = found.ok_or_else(|| self.unresolved(format!("there is no instance {name:?}")))?;
        Ok(found.view())
    }
}

fn is_http(endpoint: &&Endpoint) -> bool {
    endpoint.mapping.protocol != Protocol::Tcp.as_str()
}

fn first_http(view: &View) -> Option<&Endpoint> {
    view.endpoints.iter().find(is_http)
}

fn target_of(view: &View, endpoint: &Endpoint) -> Target {
    target(&view.id, view.name(), endpoint.mapping.guest_port, &endpoint.mapping.protocol)
}

impl Backends for Guests {
    fn upstream(&self, target: &Target) -> Result<Arc<dyn aegis_router::Upstream>, Refusal> {
        let instance = self.instances()?.find(&target.instance).map_err(refusal)?;
        let connection = instance.connect_guard().map_err(refusal)?;
        Ok(Arc::new(Guest { connection, port: target.guest_port }))
    }

    fn instance_of_port(&self, public_port: u16) -> Option<InstanceIdentity> {
        let all = self.instances.get().map(Instances::list).unwrap_or_default();
        let owns = |view: &&Arc<View>| {
            view.endpoints.iter().any(|endpoint| endpoint.mapping.public_port == public_port)
        };
        let owner = all.iter().find(owns)?;
        Some(InstanceIdentity { instance: owner.id.as_str().into(), name: owner.name().into() })
    }

    fn resolve(&self, wanted: &InstanceName) -> Result<Target, Unresolved> {
        match wanted {
            InstanceName::Handle(name) => {
                let view = self.named(name)?;
                let endpoint = first_http(&view)
                    .ok_or_else(|| self.unresolved(format!("the instance {name:?} has no HTTP port")))?;
                Ok(target_of(&view, endpoint))
            }
            InstanceName::HandlePort(name, port) => {
                let view = self.named(name)?;
                let endpoint =
                    view.endpoints.iter().filter(is_http).find(|one| one.mapping.guest_port == *port);
                let endpoint = endpoint.ok_or_else(|| {
                    self.unresolved(format!("the instance {name:?} does not expose port {port} for HTTP"))
                })?;
                Ok(target_of(&view, endpoint))
            }
            InstanceName::Only => {
                let servers = self.servers();
                let mut enabled = servers.iter().filter(|view| view.enabled);
                match (enabled.next(), enabled.next()) {
                    (Some(view), None) => {
                        let endpoint = first_http(view);
                        endpoint.map(|endpoint| target_of(view, endpoint)).ok_or_else(|| self.nothing())
                    }
                    (None, _) => Err(self.nothing()),
                    (Some(_), Some(_)) => Err(self.unresolved(
                        "the request names no instance, and there are several; use HANDLE.localhost or the header \
                         X-Aegis-Instance"
                            .to_owned(),
                    )),
                }
            }
        }
    }
}

impl Guests {
    fn nothing(&self) -> Unresolved {
        self.unresolved("no enabled instance has an HTTP port".to_owned())
    }
}

/// A connection or request on its way to a guest.
#[derive(Debug)]
struct Guest {
    connection: ConnectionGuard,
    port: u16,
}

#[async_trait]
impl aegis_router::Upstream for Guest {
    fn is_awake(&self) -> bool {
        self.connection.is_awake()
    }

    fn state(&self) -> &'static str {
        match self.connection.view().state {
            // What begins to run is about to serve.
            State::Running if !self.connection.is_awake() => State::Starting.as_str(),
            state => state.as_str(),
        }
    }

    async fn wake(&self) -> Result<(), Refusal> {
        self.connection.wake().await.map_err(refusal)
    }

    async fn go_on(&self) -> Result<(), Refusal> {
        self.connection.go_on().await.map_err(refusal)
    }

    async fn cut(&self) {
        self.connection.cut().await;
    }

    async fn connect(&self) -> Result<Stream, Refusal> {
        let connection = self.connection.connect(self.port).await.map_err(refusal)?;
        Ok(Box::new(connection))
    }

    fn passed(&self, to_guest: u64, from_guest: u64) {
        self.connection.carried(to_guest, from_guest);
    }
}

fn refusal(error: InstanceError) -> Refusal {
    match error {
        InstanceError::Disabled => Refusal::Disabled,
        InstanceError::NotFound(_) | InstanceError::Removed => Refusal::Gone,
        InstanceError::TooManyConnections(_) => Refusal::TooManyConnections,
        InstanceError::PortRefused(port) => Refusal::PortRefused(port),
        InstanceError::NotReady(seconds) => Refusal::TimedOut(std::time::Duration::from_secs(seconds)),
        InstanceError::Stopped => Refusal::Stopped(error.to_string()),
        InstanceError::Failed(reason) => Refusal::Stopped(reason.message),
        other => Refusal::Failed(other.to_string()),
    }
}
