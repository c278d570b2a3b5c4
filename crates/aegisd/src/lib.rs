//! The daemon: configuration, wiring, sockets.

mod authorities;
pub mod config;
pub mod doctor;
pub mod environment;
mod ingress;
mod keyring;
mod log;
pub mod resolvers;
mod socket;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aegis_engine::engine::{Engine, EngineParts};
use aegis_engine::kits::host_kits::HostKits;
use aegis_engine::kits::supervisor::Supervisor;
use aegis_engine::services::{ImageDisks, StoredSecrets};
use aegis_http::routes;
use aegis_http::state::{ApiState, Shutdown};
use aegis_images::{ImageError, Images};
use aegis_instances::error::InstanceError;
use aegis_instances::instances::Instances;
use aegis_instances::ports::Ingress;
use aegis_jail::{Layer, Support};
use aegis_machines::machines::MachineServices;

use aegis_registry::{Registry, RegistryError};
use aegis_router::{Admission, Backends, Listeners, Names};
use aegis_store::home::{DaemonLock, HomeError, LockError};
use aegis_store::secrets::{Keyring, SecretError, Secrets};
use aegis_store::workspaces::Workspaces;
use aegis_vmm::Vmm;
use aegis_vmm::fake::Fake;
use environment::Environment;
use ingress::{Guests, PublicPorts};
use keyring::SessionKeyring;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

/// The program that is the other end of guests' cards; it lies beside this one.
const GATEWAY: &str = "aegis-gateway";
/// How often files without an owner are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(3600);
/// How often memory that is free is looked for.
const TRIM_PERIOD: Duration = Duration::from_secs(20);
/// How much of it is kept, bytes: the next burst finds it.
const MOST_FREE: usize = 8 << 20;
/// How long clients may take for their last frames when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// Threads for work that blocks.
const BLOCKING: usize = 16;
/// How long the system may take to start a thread.
const THREAD_START: Duration = Duration::from_secs(5);
/// How long a thread that has nothing to do is kept.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why the daemon cannot run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The environment makes no sense.
    #[error("{0}")]
    Environment(String),
    /// The home directory cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Another daemon has it.
    #[error("{0}")]
    Lock(#[from] LockError),
    /// The registry cannot be opened.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What is stored cannot be taken over.
    #[error(transparent)]
    Instances(#[from] InstanceError),
    /// The images cannot be used.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// The secrets cannot be used.
    #[error(transparent)]
    Secrets(#[from] SecretError),
    /// Files cannot be served to a guest.
    #[error(transparent)]
    Files(#[from] aegis_workspace::ServerError),
    /// The control group of the configuration cannot be used.
    #[error("config.toml: [confinement] cgroup: {0}")]
    Cgroup(#[source] std::io::Error),
    /// This host does not confine processes as it is wanted.
    #[error("config.toml: [confinement] require: this host has no {0}; see: aegis doctor")]
    Unconfined(String),
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl DaemonError {
    /// Wraps a system call's failure.
    pub fn io(action: &'static str) -> impl Fn(std::io::Error) -> DaemonError {
        move |source| DaemonError::Io { action, source }
    }

    /// The error and its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        aegis_machines::error_chain::chain(self)
    }
}

/// The API's OpenAPI document.
#[must_use]
pub fn openapi_json() -> String {
    aegis_http::routes::openapi_json()
}

/// Serves the API in the foreground until it is told to end.
///
/// # Errors
/// If it cannot begin, or the socket fails.
pub fn serve(environment: &Environment) -> Result<(), DaemonError> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("AEGIS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = log::DaemonLog::open(environment.home.data().join("aegisd.log"));
    // Told to standard error, which is the log, what went wrong with the log would end the daemon.
    let logging = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    logging.with_writer(log).with_ansi(false).init();
    allow_many_descriptors();
    let runtime = runtime().map_err(DaemonError::io("start the runtime"))?;
    let ended = runtime.block_on(run(environment));
    // What still works on an image leaves nothing half used behind.
    runtime.shutdown_timeout(FAREWELL);
    ended
}

/// Serves directories of the host to the guest at the other end of standard input, until its machine has ended.
///
/// # Errors
/// If the directories are none, or the connection fails.
pub fn serve_files(exports: &str) -> Result<(), DaemonError> {
    let exports: Vec<aegis_workspace::ExportSpec> =
        serde_json::from_str(exports).map_err(|error| DaemonError::io("read what to serve")(error.into()))?;
    let guest = std::io::stdin().as_fd().try_clone_to_owned().map_err(DaemonError::io("reach the guest"))?;
    Ok(aegis_workspace::serve(guest.into(), &exports)?)
}

/// The keyring of the session that this daemon belongs to, unless it is not to be used.
fn keyring(environment: &Environment) -> Option<Arc<dyn Keyring>> {
    let found = SessionKeyring::of_session().filter(|_| environment.keyring)?;
    Some(Arc::new(found))
}

/// Opens the name router's port. One that is taken is no reason not to serve, and is told in `warnings`.
fn open_names(
    address: SocketAddr,
    backends: Arc<dyn Backends>,
    admission: &Admission,
    warnings: &mut Vec<String>,
) -> Option<Names> {
    match Names::open_to(address, backends, admission.clone()) {
        Ok(names) => Some(names),
        Err(error) => {
            let holder = aegis_router::holder(address.port()).unwrap_or_else(|| "another program".to_owned());
            tracing::warn!(%address, %error, holder, "no routing by name");
            warnings.push(format!(
                "no routing by name: {address} is not to be had ({error}; {holder} has that port); choose another in \
                 config.toml: [router] listen"
            ));
            None
        }
    }
}

/// What this host cannot do to hold a helper that a guest has taken over. A control group is an offer, and none is missed.
fn unconfined() -> Option<String> {
    let wanted = Layer::ALL.into_iter().filter(|layer| *layer != Layer::Cgroup).collect::<Vec<_>>();
    let missing: Vec<String> = Support::of_host().missing(&wanted).iter().map(Layer::to_string).collect();
    let words = missing.join(", ");
    (!words.is_empty()).then(|| format!("instances are confined without {words}; see: aegis doctor"))
}

/// The runtime, with all threads that it will ever have.
///
/// Started when they are needed, they might be refused then: by a limit on processes, or for want of memory. A runtime
/// that gets no thread for work that blocks panics, or leaves the work waiting for ever.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(BLOCKING).thread_keep_alive(FOR_EVER).enable_all();
    let runtime = builder.build()?;
    let (arrive, arrived) = std::sync::mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..BLOCKING {
        let (arrive, gate) = (arrive.clone(), Arc::clone(&gate));
        runtime.spawn_blocking(move || {
            // Whoever waits for all of them may have given up.
            let _late = arrive.send(());
            drop(gate.lock());
        });
    }
    let there = (0..BLOCKING).take_while(|_| arrived.recv_timeout(THREAD_START).is_ok()).count();
    drop(held);
    if there == 0 {
        return Err(std::io::Error::other("the system gives it no threads"));
    }
    Ok(runtime)
}

/// Takes as many descriptors as the system allows: each connection takes one.
fn allow_many_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer there are fewer connections at a time, and that is said then.
    let _fewer = setrlimit(Resource::Nofile, limit);
}

/// Refuses to go on where processes cannot be confined as it is wanted.
fn check_confinement(required: &[Layer]) -> Result<(), DaemonError> {
    let missing = Support::of_host().missing(required);
    let words: Vec<String> = missing.iter().map(Layer::to_string).collect();
    if words.is_empty() { Ok(()) } else { Err(DaemonError::Unconfined(words.join(", "))) }
}

async fn run(environment: &Environment) -> Result<(), DaemonError> {
    let home = &environment.home;
    home.create()?;
    let lock = DaemonLock::acquire(home)?;
    aegis_jail::claim(environment.cgroup.as_deref()).map_err(DaemonError::Cgroup)?;
    check_confinement(&environment.require)?;
    aegis_jail::remove_empty_groups();
    let reserve = aegis_store::reserve::in_data(&home.data());
    if reserve.release_if_full().map_err(DaemonError::io("give up the reserve"))? {
        tracing::warn!("the disk is full: starting with the reserve; delete what is not needed");
        lock.tell_pid();
    }
    let listener = socket::bind(&home.socket()).map_err(DaemonError::io("bind the socket"))?;
    let registry = Registry::open_with(home.database(), Some(reserve))?;
    let vmm: Arc<dyn Vmm> = match &environment.fake_guest {
        Some(guest) => Arc::new(Fake::new(guest.clone())),
        None => Arc::new(environment.qemu()),
    };
    let guests = Arc::new(Guests::default());
    let backends: Arc<dyn Backends> = Arc::<Guests>::clone(&guests);
    let ports = Arc::new(PublicPorts(Listeners::new(Arc::clone(&backends))));
    let ingress: Arc<dyn Ingress> = Arc::<PublicPorts>::clone(&ports);
    let images = Images::open(home.images(), environment.images.clone())?;
    let secrets = Arc::new(StoredSecrets(Secrets::open(&home.data(), keyring(environment))?));
    let program = std::env::current_exe().map_err(DaemonError::io("find this program"))?;
    let kits = HostKits::new(home, &program);
    let (tell_names, names_of_host) = tokio::sync::watch::channel(resolvers::now(environment.proxy.as_ref()));
    let services = MachineServices {
        roots: Arc::new(ImageDisks(images.clone())),
        secrets: Arc::<StoredSecrets>::clone(&secrets),
        kits: Arc::new(kits.clone()),
        gateway: program.with_file_name(GATEWAY),
        file_server: program,
        resolvers: names_of_host,
    };
    let stored = Arc::clone(&secrets);
    let settings = environment.instances.clone();
    let instances =
        Instances::open(home.clone(), registry.clone(), Arc::clone(&vmm), services, ingress, settings)
            .await?;
    guests.serve(instances.clone());
    instances.listen().await;
    let mut warnings: Vec<String> = unconfined().into_iter().collect();
    let names = environment
        .names
        .and_then(|address| open_names(address, backends, &environment.admission, &mut warnings));
    instances.sweep().await;
    let streams = TaskTracker::new();
    let shutdown = Shutdown::default();
    let engine = Engine::new(EngineParts {
        instances: instances.clone(),
        images,
        secrets,
        workspaces: Workspaces::open(home.workspaces()),
        kits: kits.clone(),
        network: environment.network.clone(),
        tasks: streams.clone(),
    });
    let state = ApiState {
        engine,
        vmm,
        home: home.root.display().to_string().into(),
        started: Instant::now(),
        names: names.as_ref().map(Names::address),
        warnings: warnings.into(),
        streams: streams.clone(),
        shutdown: shutdown.clone(),
    };
    tracing::info!(home = %home.root.display(), pid = std::process::id(), "serving");
    let server = axum::serve(socket::ApiListener::new(listener), routes::router(state))
        .with_graceful_shutdown(shutdown.requested().clone().cancelled_owned());
    let supervisor = Supervisor { kits, secrets: Arc::clone(&stored), home: home.clone() };
    let supervising = tokio::spawn(supervisor.run(instances.clone(), shutdown.requested().clone()));
    let watching = tokio::spawn(resolvers::watch(tell_names, environment.proxy.clone()));
    let background = tokio::spawn(background(instances.clone(), shutdown.clone()));
    let serving = tokio::spawn(async move { server.await });
    shutdown.requested().cancelled().await;
    if shutdown.keeps_instances() {
        tracing::info!("ending; instances keep running");
    } else {
        tracing::info!("ending; stopping all instances");
        instances.stop_all().await;
    }
    ports.0.shut_down().await;
    if let Some(names) = names {
        names.shut_down().await;
    }
    instances.machines().maintenance().end().await;
    // A task that panicked has ended too.
    let _ended = supervising.await;
    streams.close();
    // Clients that do not take their last frames are left behind.
    let _late = tokio::time::timeout(FAREWELL, streams.wait()).await;
    serving.abort();
    background.abort();
    watching.abort();
    let closed = registry.close().await;
    // The lock still holds: no other daemon can have made this socket.
    let _absent = std::fs::remove_file(home.socket());
    Ok(closed?)
}

/// Listens for signals, sweeps every hour, and gives back what bursts of connections took.
async fn background(instances: Instances, shutdown: Shutdown) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    let mut sweep = tokio::time::interval(SWEEP_PERIOD);
    sweep.reset();
    let mut trim = tokio::time::interval(TRIM_PERIOD);
    trim.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => shutdown.request(false),
            _ = interrupt.recv() => shutdown.request(false),
            _ = sweep.tick() => instances.sweep().await,
            _ = trim.tick() => {
                // It looks at each arena, and so takes its time after a burst.
                let _done = tokio::task::spawn_blocking(|| aegis_sys::heap::give_back(MOST_FREE)).await;
            }
        }
    }
}
