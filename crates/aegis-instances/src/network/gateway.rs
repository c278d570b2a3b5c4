//! A machine's gateway: a process of its own, which outlives the daemon and ends with its machine.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aegis_gateway::Settings;
use aegis_gateway::control::{Reply, Request};
use aegis_vmm::{Endpoint, Machine, Process};
use async_trait::async_trait;
use tokio::sync::watch;

use crate::machine::helper::{Helper, Isolated, Traces, look_after};
use crate::machine::live::Live;
use crate::manager::Context;
use crate::network::NetworkSpec;
use crate::network::broker::Broker;
use crate::network::conversation::Conversation;
use crate::network::groups::Directory;
use crate::network::resolvers::Resolvers;
use crate::reason::StopReason;

/// What its traces are called.
const KIND: &str = "gateway";
/// Where it is spoken to.
const SOCKET: &str = "gateway.sock";
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a machine's gateway is to do, and whether it does.
#[derive(Debug)]
pub(crate) struct Network {
    id: String,
    pub(crate) socket: PathBuf,
    /// What is wanted, with its number.
    wanted: watch::Sender<(u64, NetworkSpec)>,
    /// Number of what is in force.
    in_force: watch::Sender<u64>,
    resolvers: watch::Receiver<Arc<Resolvers>>,
    directory: watch::Receiver<Arc<Directory>>,
    up: watch::Sender<bool>,
}

impl Network {
    /// What the gateway is to be told now, and its number.
    fn settings(&self) -> (u64, Settings) {
        let (number, wanted) = self.wanted.borrow().clone();
        (number, wanted.settings(&self.resolvers.borrow(), &self.id, &self.directory.borrow()))
    }

    /// Takes other settings, in force on return. A gateway that is just being replaced gets them when it comes.
    pub(crate) async fn set(&self, spec: NetworkSpec) {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            number = wanted.0 + 1;
            *wanted = (number, spec);
        });
        let mut in_force = self.in_force.subscribe();
        let told = in_force.wait_for(|current| *current >= number);
        if tokio::time::timeout(PATIENCE, told).await.is_err() {
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
    pub(crate) async fn ask(&self, request: &Request) -> io::Result<Reply> {
        let asked = async {
            let mut conversation = Conversation::open(&self.socket).await?;
            conversation.ask(request, None).await?;
            conversation.next().await
        };
        tokio::time::timeout(PATIENCE, asked).await?
    }

    /// Its decisions, those that are kept, and with `follow` all that are made from then on.
    pub(crate) async fn entries(&self, follow: bool) -> io::Result<Conversation> {
        let mut conversation = Conversation::open(&self.socket).await?;
        conversation.ask(&Request::Entries { follow }, None).await?;
        Ok(conversation)
    }

    /// Whether frames have somewhere to go.
    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }
}

/// What it takes to run one machine's gateway.
#[derive(Debug)]
pub(crate) struct GatewayProcess {
    program: PathBuf,
    traces: Traces,
    network: Arc<Network>,
    context: Arc<Context>,
    /// Whose log tells when it is gone.
    live: Arc<Live>,
}

impl GatewayProcess {
    /// The gateway for an instance; `None` if its machine has no card.
    pub(crate) fn of(
        context: &Arc<Context>,
        id: &str,
        spec: &NetworkSpec,
        live: &Arc<Live>,
    ) -> Option<GatewayProcess> {
        if !context.vmm.capabilities().network {
            return None;
        }
        let run_dir = context.home.run_dir_path(id);
        let network = Network {
            id: id.to_owned(),
            socket: run_dir.join(SOCKET),
            wanted: watch::Sender::new((1, spec.clone())),
            in_force: watch::Sender::new(0),
            resolvers: context.resolvers.clone(),
            directory: context.groups.subscribe(),
            up: watch::Sender::new(false),
        };
        Some(GatewayProcess {
            program: context.gateway.clone(),
            traces: Traces::of(KIND, &run_dir),
            network: Arc::new(network),
            context: Arc::clone(context),
            live: Arc::clone(live),
        })
    }

    /// Starts the gateway of a machine that has just been made, and looks after it until the machine has ended.
    pub(crate) async fn start(self, machine: &Arc<dyn Machine>) -> Result<(), StopReason> {
        let failed = |error: io::Error| {
            let program = self.program.display();
            let text = format!("the instance's network gateway ({program}) cannot be started: {error}");
            StopReason::new("network_failed", text)
        };
        let process = self.spawn(&**machine).await.map_err(failed)?;
        self.keep(Some(process), machine);
        Ok(())
    }

    /// Takes over the gateway of a machine that an earlier daemon started.
    pub(crate) fn adopt(self, machine: &Arc<dyn Machine>) {
        let process = self.traces.recorded();
        self.keep(process, machine);
    }

    fn keep(self, process: Option<Process>, machine: &Arc<dyn Machine>) {
        let (network, live) = (Arc::clone(&self.network), Arc::clone(&self.live));
        live.keep_network(network, tokio::spawn(look_after(self, process, Arc::clone(machine))));
    }

    /// Tells it what to do, again and again when that changes. Returns if it does not listen.
    async fn instruct(&self, again: bool) {
        let network = &self.network;
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
                self.live.log("the network is back; what was connected is not");
                self.live.network_event("network_up", None).await;
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
        &self.network.id
    }

    fn traces(&self) -> &Traces {
        &self.traces
    }

    async fn spawn(&self, machine: &dyn Machine) -> io::Result<Process> {
        let frames = machine.dial(Endpoint::Network).await.map_err(io::Error::other)?.into_std()?;
        let control = aegis_vmm::listen(&self.network.socket)?;
        let mut command = Command::new(&self.program);
        command.arg(self.id()).stdin(OwnedFd::from(frames)).stdout(OwnedFd::from(control));
        let user = Some(aegis_jail::instance_user(self.id()));
        let wall = Isolated { users: true, user, network: false, writable: Vec::new() };
        self.traces.spawn(command, Vec::new(), wall)
    }

    /// Tells it what to do, what changes on the host, and sees to connections between members of groups.
    async fn attend(&self, _process: &Process, again: bool) {
        let broker = Broker::new(&self.context, self.id(), &self.network.socket, &self.live);
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
        self.network.up.send_replace(false);
        self.live.log("the network is gone: its gateway has ended, and another one takes its place");
        self.live.network_event("network_down", None).await;
    }
}
