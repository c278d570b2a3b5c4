//! A machine's gateway: a process of its own, which outlives the daemon and ends with its machine.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aegis_gateway::Settings;
use aegis_gateway::control::{Reply, Request};
use aegis_vmm::{Endpoint, Machine, Process};
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use aegis_lifecycle::stop_reason::StopReason;
use aegis_spec::network::NetworkSpec;

use crate::helper_process::{Helper, HelperIsolation, HelperRecord, look_after};
use crate::network::gateway_client::GatewayClient;
use crate::network::group_broker::{GroupBroker, GroupMembers};
use crate::network::groups::Directory;
use crate::network::resolvers::Resolvers;
use crate::reporter::{MachineEvent, Reporter};

/// What its traces are called.
const KIND: &str = "gateway";
/// Where it is spoken to.
const SOCKET: &str = "gateway.sock";
/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A machine's gateway as others reach it: what it is to do, and whether it does.
#[derive(Debug)]
pub struct GatewayHandle {
    id: String,
    socket: PathBuf,
    /// What is wanted, with its number.
    wanted: watch::Sender<(u64, NetworkSpec)>,
    /// Number of what is in force.
    in_force: watch::Sender<u64>,
    resolvers: watch::Receiver<Arc<Resolvers>>,
    directory: watch::Receiver<Arc<Directory>>,
    up: watch::Sender<bool>,
}

impl GatewayHandle {
    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the gateway is to be told now, and its number.
    fn settings(&self) -> (u64, Settings) {
        let (number, wanted) = self.wanted.borrow().clone();
        (number, settings(&wanted, &self.resolvers.borrow(), &self.id, &self.directory.borrow()))
    }

    /// Takes other settings, in force on return. A gateway that is just being replaced gets them when it comes.
    pub async fn set(&self, spec: NetworkSpec) {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            number = wanted.0 + 1;
            *wanted = (number, spec);
        });
        let mut in_force = self.in_force.subscribe();
        let told = in_force.wait_for(|current| *current >= number);
        if tokio::time::timeout(TIMEOUT, told).await.is_err() {
            tracing::warn!("a gateway was not told of its new policy; it is told when it is back");
        }
    }

    /// Tells the gateway what is wanted, unless that is what it was told last.
    async fn configure(&self, told: &mut Option<Settings>) -> io::Result<()> {
        let (number, settings) = self.settings();
        if told.as_ref() != Some(&settings) {
            match self.ask(&Request::Set(Box::new(settings.clone()))).await? {
                Reply::Done => *told = Some(settings),
                other => return Err(io::Error::other(format!("{other:?}"))),
            }
        }
        self.in_force.send_replace(number);
        Ok(())
    }

    /// Asks the gateway something.
    pub async fn ask(&self, request: &Request) -> io::Result<Reply> {
        let asked = async {
            let mut client = GatewayClient::open(&self.socket).await?;
            client.ask(request, None).await?;
            client.next().await
        };
        tokio::time::timeout(TIMEOUT, asked).await?
    }

    /// Its decisions, those that are kept, and with `follow` all that are made from then on.
    pub async fn entries(&self, follow: bool) -> io::Result<GatewayClient> {
        let mut client = GatewayClient::open(&self.socket).await?;
        client.ask(&Request::Entries { follow }, None).await?;
        Ok(client)
    }

    /// Whether frames have somewhere to go.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self.up.borrow()
    }
}

/// What a gateway is told.
fn settings(of: &NetworkSpec, resolvers: &Resolvers, id: &str, directory: &Directory) -> Settings {
    Settings {
        policy: of.policy.clone(),
        resolvers: resolvers.servers.clone(),
        host_ports: of.host_ports.clone(),
        limits: of.limits.clone(),
        proxy: resolvers.proxy.clone(),
        groups: directory.seen_by(id),
    }
}

/// What all gateways have in common. Clones share it.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The program.
    pub program: PathBuf,
    /// How the host reaches the world; told when that changes.
    pub resolvers: watch::Receiver<Arc<Resolvers>>,
    /// Who is in which group.
    pub groups: watch::Receiver<Arc<Directory>>,
    /// Wakes members of groups.
    pub members: Arc<dyn GroupMembers>,
}

/// What it takes to run one machine's gateway.
#[derive(Debug)]
pub struct GatewayProcess {
    program: PathBuf,
    traces: HelperRecord,
    gateway: Arc<GatewayHandle>,
    groups: watch::Receiver<Arc<Directory>>,
    members: Arc<dyn GroupMembers>,
    /// Tells when it is gone.
    reporter: Reporter,
}

/// A gateway that is looked after, and the task that does.
pub type RunningGateway = (Arc<GatewayHandle>, JoinHandle<()>);

impl GatewayProcess {
    /// The gateway for an instance's machine, whose files are in `run_dir`.
    #[must_use]
    pub fn new(
        config: &GatewayConfig,
        id: &str,
        run_dir: &Path,
        spec: &NetworkSpec,
        reporter: Reporter,
    ) -> GatewayProcess {
        let gateway = GatewayHandle {
            id: id.to_owned(),
            socket: run_dir.join(SOCKET),
            wanted: watch::Sender::new((1, spec.clone())),
            in_force: watch::Sender::new(0),
            resolvers: config.resolvers.clone(),
            directory: config.groups.clone(),
            up: watch::Sender::new(false),
        };
        GatewayProcess {
            program: config.program.clone(),
            traces: HelperRecord::of(KIND, run_dir),
            gateway: Arc::new(gateway),
            groups: config.groups.clone(),
            members: Arc::clone(&config.members),
            reporter,
        }
    }

    /// Starts the gateway of a machine that has just been made, and looks after it until the machine has ended.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub async fn start(self, machine: &Arc<dyn Machine>) -> Result<RunningGateway, StopReason> {
        let failed = |error: io::Error| {
            let program = self.program.display();
            let text = format!("the instance's network gateway ({program}) cannot be started: {error}");
            StopReason::new("network_failed", text)
        };
        let process = self.spawn(&**machine).await.map_err(failed)?;
        Ok(self.keep(Some(process), machine))
    }

    /// Takes over the gateway of a machine that an earlier daemon started.
    #[must_use]
    pub fn adopt(self, machine: &Arc<dyn Machine>) -> RunningGateway {
        let process = self.traces.recorded();
        self.keep(process, machine)
    }

    fn keep(self, process: Option<Process>, machine: &Arc<dyn Machine>) -> RunningGateway {
        (Arc::clone(&self.gateway), tokio::spawn(look_after(self, process, Arc::clone(machine))))
    }

    /// Tells it what to do, again and again when that changes. Returns if it does not listen.
    async fn instruct(&self, again: bool) {
        let network = &self.gateway;
        let (mut resolvers, mut directory) = (network.resolvers.clone(), network.directory.clone());
        let (mut wanted, mut told) = (network.wanted.subscribe(), None);
        loop {
            resolvers.mark_unchanged();
            directory.mark_unchanged();
            wanted.mark_unchanged();
            if let Err(error) = network.configure(&mut told).await {
                tracing::warn!(id = self.id(), %error, "a gateway does not take its settings");
                return;
            }
            if !network.up.send_replace(true) && again {
                self.reporter.log("the network is back; what was connected is not");
                self.reporter.tell(MachineEvent::Network("network_up", None)).await;
            }
            tokio::select! {
                Ok(()) = resolvers.changed() => {}
                Ok(()) = directory.changed() => {}
                Ok(()) = wanted.changed() => {}
                // The daemon ends.
                else => return std::future::pending().await,
            }
        }
    }
}

#[async_trait]
impl Helper for GatewayProcess {
    fn what(&self) -> &'static str {
        "a machine's network gateway"
    }

    fn id(&self) -> &str {
        &self.gateway.id
    }

    fn traces(&self) -> &HelperRecord {
        &self.traces
    }

    async fn spawn(&self, machine: &dyn Machine) -> io::Result<Process> {
        let frames = machine.dial(Endpoint::Network).await.map_err(io::Error::other)?.into_std()?;
        let control = aegis_vmm::listen(&self.gateway.socket)?;
        let mut command = Command::new(&self.program);
        command.arg(self.id()).stdin(OwnedFd::from(frames)).stdout(OwnedFd::from(control));
        let user = Some(aegis_jail::instance_user(self.id()));
        let wall = HelperIsolation {
            users: true,
            user,
            network: false,
            writable: Vec::new(),
            read_only: Vec::new(),
        };
        self.traces.spawn(command, Vec::new(), wall)
    }

    /// Tells it what to do, what changes on the host, and sees to connections between members of groups.
    async fn attend(&self, _process: &Process, again: bool) {
        let broker = GroupBroker::new(
            self.id(),
            &self.gateway.socket,
            self.groups.clone(),
            &self.members,
            self.reporter.clone(),
        );
        tokio::select! {
            () = self.instruct(again) => {}
            error = broker.serve() => match error.kind() {
                // It ends, with its machine or not; whoever waits for its process sees to that.
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {}
                _ => tracing::warn!(id = self.id(), %error, "a gateway does not say what its guest wants"),
            },
        }
    }

    async fn lost(&self) {
        self.gateway.up.send_replace(false);
        self.reporter.log("the network is gone: its gateway has ended, and another one takes its place");
        self.reporter.tell(MachineEvent::Network("network_down", None)).await;
    }
}
