//! The daemon: wiring, start and end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_engine::engine::{Engine, EngineParts};
use aegis_engine::kits::host_kits::HostKits;
use aegis_engine::kits::supervisor::Supervisor;
use aegis_engine::services::{ImageDisks, StoredSecrets};
use aegis_http::routes;
use aegis_http::state::{ApiState, Shutdown};
use aegis_images::Images;
use aegis_instances::instances::Instances;
use aegis_instances::ports::Ingress;
use aegis_machines::machines::MachineServices;
use aegis_registry::Registry;
use aegis_router::{Admission, Backends, Listeners, NameRouter};
use aegis_store::home::DaemonLock;
use aegis_store::secrets::{Keyring, Secrets};
use aegis_store::workspaces::Workspaces;
use aegis_vmm::Vmm;
use aegis_vmm::backends::Backends as MachineBackends;
use aegis_vmm::fake::Fake;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

use crate::confinement::{check_confinement, unconfined};
use crate::environment::Environment;
use crate::error::DaemonError;
use crate::keyring::SessionKeyring;
use crate::programs::GATEWAY;
use crate::router_backends::{Guests, PublicPorts};
use crate::runtime::{allow_many_descriptors, runtime};
use crate::{log, resolvers, socket};

/// How often files without an owner are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(3600);
/// How often memory that is free is looked for.
const TRIM_PERIOD: Duration = Duration::from_secs(20);
/// How much of it is kept, bytes: the next burst finds it.
const MOST_FREE: usize = 8 << 20;
/// How long clients may take for their last frames when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// Serves the API in the foreground until it is told to end.
///
/// # Errors
/// If it cannot begin, or the socket fails.
pub fn serve(environment: &Environment) -> Result<(), DaemonError> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("AEGIS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Before anything is written there: it may be somebody else's.
    environment.home.create()?;
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
) -> Option<NameRouter> {
    match NameRouter::open_to(address, backends, admission.clone()) {
        Ok(names) => Some(names),
        Err(error) => {
            let holder =
                aegis_router::port_owner(address.port()).unwrap_or_else(|| "another program".to_owned());
            tracing::warn!(%address, %error, holder, "no routing by name");
            warnings.push(format!(
                "no routing by name: {address} is not to be had ({error}; {holder} has that port); choose another in \
                 config.toml: [router] listen"
            ));
            None
        }
    }
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
        None => Arc::new(
            MachineBackends::choose(environment.backend, &environment.host_facts())
                .map_err(DaemonError::Backend)?,
        ),
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
        names: names.as_ref().map(NameRouter::address),
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
                let _done = tokio::task::spawn_blocking(|| aegis_sys::malloc::give_back(MOST_FREE)).await;
            }
        }
    }
}
