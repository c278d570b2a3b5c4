//! A machine's gateway: a process of its own, which outlives the daemon and ends with its machine.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_gateway::Settings;
use aegis_gateway::control::{MOST_LINE, Reply, Request};
use aegis_vmm::{Endpoint, Machine, Process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::helper;
use crate::live::Live;
use crate::manager::Context;
use crate::network::NetworkSpec;
use crate::reason::StopReason;
use crate::resolvers::Resolvers;

/// What finds the gateway again, in the machine's run-time directory.
const RECORD: &str = "gateway.json";
/// What it says, mostly nothing.
const LOG: &str = "gateway.log";
/// Where it is spoken to.
const SOCKET: &str = "gateway.sock";
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before another takes the place of one that has failed: longer each time, up to a limit.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long it may take to notice that its machine is gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a machine's gateway is to do, and whether it does.
#[derive(Debug)]
pub(crate) struct Network {
    socket: PathBuf,
    wanted: watch::Sender<NetworkSpec>,
    resolvers: watch::Receiver<Arc<Resolvers>>,
    up: watch::Sender<bool>,
}

impl Network {
    fn settings(&self) -> Settings {
        let wanted = self.wanted.borrow().clone();
        wanted.settings(&self.resolvers.borrow())
    }

    /// Takes other settings, in force on return. A gateway that is just being replaced gets them when it comes.
    pub(crate) async fn set(&self, spec: NetworkSpec) {
        self.wanted.send_replace(spec);
        if let Err(error) = self.configure().await {
            tracing::warn!(%error, "a gateway was not told of its new policy; it is told when it is back");
        }
    }

    async fn configure(&self) -> io::Result<()> {
        match self.ask(&Request::Set(Box::new(self.settings()))).await? {
            Reply::Done => Ok(()),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// Asks the gateway something.
    pub(crate) async fn ask(&self, request: &Request) -> io::Result<Reply> {
        let asked = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            send(&mut stream, request).await?;
            Follower(BufReader::new(stream)).next().await
        };
        tokio::time::timeout(PATIENCE, asked).await?
    }

    /// Its decisions, those that are kept, and with `follow` all that are made from then on.
    pub(crate) async fn entries(&self, follow: bool) -> io::Result<Follower> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        send(&mut stream, &Request::Entries { follow }).await?;
        Ok(Follower(BufReader::new(stream)))
    }

    /// Whether frames have somewhere to go.
    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }
}

async fn send(stream: &mut UnixStream, request: &Request) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// What a gateway says, line by line.
#[derive(Debug)]
pub struct Follower(BufReader<UnixStream>);

impl Follower {
    /// The next thing that it says.
    ///
    /// # Errors
    /// If it is gone, or says something that makes no sense.
    pub async fn next(&mut self) -> io::Result<Reply> {
        let mut line = Vec::new();
        let most = u64::try_from(MOST_LINE).unwrap_or(u64::MAX);
        (&mut self.0).take(most).read_until(b'\n', &mut line).await?;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }
}

/// What it takes to run one machine's gateway.
#[derive(Debug)]
pub(crate) struct GatewayProcess {
    program: PathBuf,
    run_dir: PathBuf,
    id: String,
    network: Arc<Network>,
}

impl GatewayProcess {
    /// The gateway for an instance; `None` if its machine has no card.
    pub(crate) fn of(context: &Context, id: &str, spec: &NetworkSpec) -> Option<GatewayProcess> {
        if !context.vmm.capabilities().network {
            return None;
        }
        let run_dir = context.home.run_dir_path(id);
        let network = Network {
            socket: run_dir.join(SOCKET),
            wanted: watch::Sender::new(spec.clone()),
            resolvers: context.resolvers.clone(),
            up: watch::Sender::new(false),
        };
        let program = context.gateway.clone();
        Some(GatewayProcess { program, run_dir, id: id.to_owned(), network: Arc::new(network) })
    }

    /// Starts the gateway of a machine that has just been made, and looks after it until the machine has ended.
    pub(crate) async fn start(self, live: &Arc<Live>, machine: &Arc<dyn Machine>) -> Result<(), StopReason> {
        let failed = |error: io::Error| {
            let text = format!(
                "the instance's network gateway ({}) cannot be started: {error}",
                self.program.display()
            );
            StopReason::new("network_failed", text)
        };
        let process = self.spawn(&**machine).await.map_err(failed)?;
        self.keep(live, Some(process), machine);
        Ok(())
    }

    /// Takes over the gateway of a machine that an earlier daemon started.
    pub(crate) fn adopt(self, live: &Arc<Live>, machine: &Arc<dyn Machine>) {
        let process =
            helper::recorded(&self.run_dir.join(RECORD)).and_then(|id| Process::adopt(&id).ok().flatten());
        self.keep(live, process, machine);
    }

    fn keep(self, live: &Arc<Live>, process: Option<Process>, machine: &Arc<dyn Machine>) {
        let network = Arc::clone(&self.network);
        let task = tokio::spawn(self.look_after(process, Arc::clone(live), Arc::clone(machine)));
        live.keep_network(network, task);
    }

    /// Starts a gateway and tells it what to do.
    async fn spawn(&self, machine: &dyn Machine) -> io::Result<Process> {
        let frames = machine.dial(Endpoint::Network).await.map_err(io::Error::other)?.into_std()?;
        let control = listen(&self.network.socket)?;
        let log = std::fs::File::options().create(true).append(true).open(self.run_dir.join(LOG))?;
        let mut command = Command::new(&self.program);
        command.arg(&self.id).env_clear().current_dir("/");
        command.stdin(OwnedFd::from(frames)).stdout(OwnedFd::from(control)).stderr(log);
        let process = Process::spawn(command, Vec::new())?;
        std::fs::write(self.run_dir.join(RECORD), serde_json::to_vec(process.id())?)?;
        Ok(process)
    }

    /// Replaces a gateway that ends before its machine, and keeps it informed.
    async fn look_after(self, first: Option<Process>, live: Arc<Live>, machine: Arc<dyn Machine>) {
        let mut current = first;
        let mut wait = FIRST_WAIT;
        let mut lost = false;
        loop {
            let begun = Instant::now();
            if let Some(process) = &current {
                if let Err(error) = self.network.configure().await {
                    tracing::warn!(id = self.id, %error, "the gateway does not take its settings");
                    process.kill().await;
                } else {
                    self.network.up.send_replace(true);
                    if lost {
                        live.log("the network is back; what was connected is not");
                    }
                }
                tokio::select! {
                    _ = process.ended() => {}
                    () = self.inform() => {}
                    _ = machine.ended() => return farewell(process).await,
                }
            }
            self.network.up.send_replace(false);
            wait = if begun.elapsed() > LONGEST_WAIT { FIRST_WAIT } else { wait };
            // A machine that has just died takes its gateway along.
            if tokio::time::timeout(wait, machine.ended()).await.is_ok() {
                return;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
            let words = aegis_vmm::console_tail(&self.run_dir.join(LOG), 1).join("");
            tracing::warn!(id = self.id, words, "the network gateway has ended; another one takes its place");
            live.log("the network is gone: its gateway has ended, and another one takes its place");
            lost = true;
            current = match self.spawn(&*machine).await {
                Ok(process) => Some(process),
                Err(error) => {
                    tracing::error!(id = self.id, %error, "the network gateway cannot be started");
                    None
                }
            };
        }
    }

    /// Passes on what changes on the host. Never returns.
    async fn inform(&self) {
        let mut resolvers = self.network.resolvers.clone();
        while resolvers.changed().await.is_ok() {
            if let Err(error) = self.network.configure().await {
                tracing::warn!(id = self.id, %error, "the gateway was not told of other name servers");
            }
        }
        std::future::pending().await
    }
}

async fn farewell(process: &Process) {
    if tokio::time::timeout(FAREWELL, process.ended()).await.is_err() {
        process.kill().await;
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}
