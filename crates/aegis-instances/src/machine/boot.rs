//! Booting: disk, machine, guest, command.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aegis_guest_link::{Events, LinkError, Resume};
use aegis_guest_protocol::messages::{Prepare, Run, code};
use aegis_store::disk::{self, DiskMaker};
use aegis_vmm::{End, Machine, MachineSpec, Origin, console_tail};
use tokio_util::sync::CancellationToken;

use crate::actor::Message;
use crate::at_rest::spares;
use crate::at_rest::templates::{self, Pattern};
use crate::environment::Sources;
use crate::error::chain;
use crate::kit;
use crate::machine::files::{self, FileServer};
use crate::machine::live::{LAST_BREATH, Live};
use crate::machine::session::Session;
use crate::machine::timings::{Start, Stopwatch};
use crate::machine::upkeep::DiskUse;
use crate::manager::Context;
use crate::mounts;
use crate::network;
use crate::network::gateway::GatewayProcess;
use crate::reason::{StopReason, UNREACHABLE};
use crate::spec::{InstanceSpec, check_process};

/// Lines of the console that explain a failed boot.
pub(crate) const CONSOLE_LINES: usize = 20;
/// Memory that must stay available to the host besides what a guest needs to boot, MiB.
const HOST_RESERVE_MIB: u64 = 128;
/// What a guest touches until its command runs, MiB; the rest of its memory it takes when it needs it.
const GUEST_FOOTPRINT_MIB: u64 = 96;

/// How long a guest that was started from a template may take to say that it is well; else its machine is replaced by
/// one that boots.
const CLONE_TIMEOUT: Duration = Duration::from_secs(30);

/// Code of a machine that was not made because the host's disk is full.
const NO_ROOM: &str = "insufficient_disk";

/// A machine that was made.
pub(crate) struct Made {
    pub(crate) machine: Arc<dyn Machine>,
    /// The session with its guest, where that has been opened already.
    session: Option<(Arc<Session>, Events)>,
    /// What others must have in common with it, where there may be templates of such machines.
    pattern: Option<Pattern>,
}

impl Made {
    /// The session with its guest, as soon as that is up.
    pub(crate) async fn session(&mut self) -> Result<(Arc<Session>, Events), StopReason> {
        if let Some(opened) = self.session.take() {
            return Ok(opened);
        }
        let opened = Session::open(&*self.machine, Resume::default()).await;
        opened.map(|(session, events, _)| (session, events)).map_err(|error| StopReason::unreachable(&error))
    }
}

/// What a boot needs to know.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) hostname: String,
    pub(crate) spec: Arc<InstanceSpec>,
    pub(crate) live: Arc<Live>,
    pub(crate) disk: DiskUse,
    pub(crate) watch: Stopwatch,
}

impl Order {
    /// Holds the disk as long as there may be a machine. Somebody may be copying files of the stopped instance: that is
    /// waited for, unless the machine is not wanted any more.
    pub(crate) async fn take_disk(&self) -> Result<(), StopReason> {
        let in_use = tokio::select! {
            in_use = self.disk.begin() => in_use,
            () = self.live.cancelled() => return Err(StopReason::stopped()),
        };
        self.live.hold_disk(in_use);
        Ok(())
    }
}

/// Boots a machine and executes the command in it. Whatever was made stays for the teardown to end.
pub(crate) async fn boot(context: &Arc<Context>, order: &Order) -> Result<(), StopReason> {
    let _starting = context.spares.starting();
    let mut made = start_machine(context, order).await?;
    let machine = Arc::clone(&made.machine);
    let (cold, pattern) = (made.session.is_none(), made.pattern.take());
    tokio::select! {
        biased;
        () = order.live.cancelled() => Err(StopReason::stopped()),
        end = machine.ended() => Err(died_at_boot(context, order, &end)),
        opened = tokio::time::timeout(context.config.boot_timeout, execute(context, &mut made, order)) => match opened {
            Ok(Err(reason)) if reason.code == UNREACHABLE => {
                // Its death, if that is the cause, explains more than the silence that came of it.
                let end = tokio::time::timeout(LAST_BREATH, machine.ended()).await;
                Err(end.map_or(reason, |end| died_at_boot(context, order, &end)))
            }
            Ok(result) => {
                if let Some(pattern) = pattern.filter(|_| result.is_ok()) {
                    if cold {
                        templates::make_later(context, pattern);
                    } else {
                        context.spares.want(Some(pattern));
                    }
                }
                result
            }
            Err(_) => Err(timed_out(context, order)),
        },
    }
}

fn console(context: &Context, id: &str) -> Vec<String> {
    console_tail(&context.home.console(id), CONSOLE_LINES)
}

fn died_at_boot(context: &Context, order: &Order, end: &End) -> StopReason {
    let died = StopReason::died(end);
    StopReason { message: format!("while booting, {}", died.message), ..died }
        .with_console(console(context, &order.id))
}

fn timed_out(context: &Context, order: &Order) -> StopReason {
    let seconds = context.config.boot_timeout.as_secs();
    StopReason::new("boot_timeout", format!("the guest did not come up within {seconds} seconds"))
        .with_console(console(context, &order.id))
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> StopReason {
    StopReason::new("boot_failed", format!("{what}: {error}"))
}

/// Memory that the host could give away now, MiB.
pub(crate) fn available_memory_mib() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? >> 10)
}

async fn start_machine(context: &Arc<Context>, order: &Order) -> Result<Made, StopReason> {
    order.take_disk().await?;
    let made = make_machine(context, &order.id, &order.spec, &order.watch, order.live.cancel_token()).await?;
    let machine = Arc::clone(&made.machine);
    order.live.set_machine(Arc::clone(&machine));
    // Stored before anything depends on it: a daemon that dies now finds the machine again.
    order.live.tell_and_wait(|done| Message::MachineUp(order.live.boot, done)).await;
    start_helpers(context, order, &machine).await?;
    order.watch.lap("network");
    Ok(made)
}

/// Starts what a machine that has just been made needs beside it: the server of its files, and its gateway.
pub(crate) async fn start_helpers(
    context: &Arc<Context>,
    order: &Order,
    machine: &Arc<dyn Machine>,
) -> Result<(), StopReason> {
    if let Some(server) = FileServer::of(context, &order.id, &order.spec, Some(&order.live)) {
        order.live.keep_files(server.start(machine).await?);
    }
    match GatewayProcess::of(context, &order.id, &order.spec.network, &order.live) {
        Some(gateway) => gateway.start(machine).await,
        None => Ok(()),
    }
}

/// Makes the machine of an instance, and its disk if it has none yet: from a template, or by booting it.
pub(crate) async fn make_machine(
    context: &Context,
    id: &str,
    of: &InstanceSpec,
    watch: &Stopwatch,
    unwanted: &CancellationToken,
) -> Result<Made, StopReason> {
    if let Some(text) = context.disk.refusal() {
        return Err(StopReason::new(NO_ROOM, text));
    }
    check(context, of).await?;
    make_disk(context, id, of.disk_mib).await?;
    let spec = machine_spec(context, id, of)?;
    // The console begins anew with each boot.
    let _absent = std::fs::remove_file(&spec.console_log);
    watch.lap("disk");
    let pattern = templates::pattern(context, of, &spec);
    if let Some(kind) = &pattern {
        if let Some((machine, opened)) = take_spare(context, kind, watch, unwanted).await? {
            watch.note(Start::Spare);
            return Ok(Made { machine, session: Some(opened), pattern });
        }
        if let Some((machine, opened)) = clone_template(context, kind, watch, unwanted).await? {
            watch.note(Start::Template);
            return Ok(Made { machine, session: Some(opened), pattern });
        }
    }
    let machine = context.vmm.start(&spec).await;
    let machine = machine.map_err(|error| failed("the machine did not start", &error))?;
    watch.lap("machine");
    Ok(Made { machine, session: None, pattern })
}

/// Memory that the host must have for a machine of this size, MiB.
pub(crate) fn needed_mib(memory_mib: u32) -> u64 {
    HOST_RESERVE_MIB + GUEST_FOOTPRINT_MIB.min(memory_mib.into())
}

/// Checks that the host has what a machine needs. Room on its disk is not looked at: a machine that comes back from there
/// takes none, and gives up what its memory took.
pub(crate) async fn check(context: &Context, of: &InstanceSpec) -> Result<(), StopReason> {
    let needed = needed_mib(of.memory_mib);
    let lacking = || available_memory_mib().filter(|available| *available < needed);
    if lacking().is_some() {
        spares::give_way(context).await;
    }
    if let Some(available) = lacking() {
        let text = format!("the host has {available} MiB of memory left; a machine needs {needed}");
        return Err(StopReason::new("insufficient_memory", text));
    }
    files::check(context, of)
}

/// The machine of an instance as it boots. Makes its run-time directory if there is none.
pub(crate) fn machine_spec(
    context: &Context,
    id: &str,
    of: &InstanceSpec,
) -> Result<MachineSpec, StopReason> {
    // An initial file system of an earlier version has them itself.
    let modules = context.home.modules().ok();
    spec_with(context, id, of, modules)
}

/// The machine of an instance as one that stood still was started: its guest may have looked at its modules. That of an
/// earlier version has none on its disk.
pub(crate) fn standing_spec(
    context: &Context,
    id: &str,
    of: &InstanceSpec,
    modules: Option<&str>,
) -> Result<MachineSpec, StopReason> {
    let modules = modules.map(|name| context.home.modules_named(name)).transpose();
    spec_with(context, id, of, modules.map_err(|error| failed("the host is not ready", &error))?)
}

/// The name of the file with the modules that a machine was started with.
pub(crate) fn modules_of(machine: &dyn Machine) -> Option<String> {
    Some(machine.handle().modules?.file_name()?.to_str()?.to_owned())
}

fn spec_with(
    context: &Context,
    id: &str,
    of: &InstanceSpec,
    modules: Option<PathBuf>,
) -> Result<MachineSpec, StopReason> {
    let (home, can) = (&context.home, context.vmm.capabilities());
    let missing = |error| failed("the host is not ready", &error);
    Ok(MachineSpec {
        name: id.to_owned(),
        run_dir: home.run_dir(id).map_err(|error| failed("cannot make the run-time directory", &error))?,
        console_log: home.console(id),
        kernel: home.kernel().map_err(missing)?,
        initramfs: home.initramfs().map_err(missing)?,
        root_disk: root_disk(context, of)?,
        modules,
        data_disk: home.disk(id),
        memory_mib: of.memory_mib,
        vcpus: of.vcpus,
        // All that can be started from a template have everything, so that there are fewer kinds.
        files: can.save || !of.mounts.is_empty(),
        card: can.network.then(network::card),
    })
}

/// Makes the spare machine that of an instance; `None` if there is none of its kind, or it is of no use.
async fn take_spare(
    context: &Context,
    pattern: &Pattern,
    watch: &Stopwatch,
    unwanted: &CancellationToken,
) -> Result<Option<(Arc<dyn Machine>, (Arc<Session>, Events))>, StopReason> {
    let Some(spare) = context.spares.take(pattern) else { return Ok(None) };
    let why = match spare.assign(context, &pattern.spec).await {
        Ok(machine) => {
            watch.lap("machine");
            match come_up(&machine, watch, unwanted).await? {
                Ok(opened) => return Ok(Some((machine, opened))),
                Err(why) => why,
            }
        }
        Err(why) => why,
    };
    tracing::warn!(id = pattern.spec.name, why, "the spare machine was of no use");
    Ok(None)
}

/// Waits until the guest of a machine that did not boot says that it is well; else that machine is ended, and why is said.
async fn come_up(
    machine: &Arc<dyn Machine>,
    watch: &Stopwatch,
    unwanted: &CancellationToken,
) -> Result<Result<(Arc<Session>, Events), String>, StopReason> {
    let why = tokio::select! {
        opened = tokio::time::timeout(CLONE_TIMEOUT, Session::open(&**machine, Resume::default())) => match opened {
            Ok(Ok((session, events, _))) => {
                watch.lap("guest");
                return Ok(Ok((session, events)));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        },
        end = machine.ended() => StopReason::died(&end).message,
        () = unwanted.cancelled() => {
            machine.stop().await;
            return Err(StopReason::stopped());
        }
    };
    machine.stop().await;
    Ok(Err(why))
}

/// Starts a machine from a template; `None` if there is none, or the guest did not say that it is well.
async fn clone_template(
    context: &Context,
    pattern: &Pattern,
    watch: &Stopwatch,
    unwanted: &CancellationToken,
) -> Result<Option<(Arc<dyn Machine>, (Arc<Session>, Events))>, StopReason> {
    let Some(template) = context.templates.find(&pattern.likeness).await else { return Ok(None) };
    let spec = &pattern.spec;
    watch.lap("template");
    let machine = match context.vmm.restore(spec, &template.devices, Origin::Common(&template.memory)).await {
        Ok(machine) => {
            watch.lap("machine");
            machine
        }
        Err(error) => {
            tracing::warn!(
                id = spec.name,
                error = chain(&error),
                "no machine could be started from its template"
            );
            context.templates.distrust(&pattern.likeness);
            return Ok(None);
        }
    };
    let why = match come_up(&machine, watch, unwanted).await? {
        Ok(opened) => return Ok(Some((machine, opened))),
        Err(why) => why,
    };
    tracing::warn!(
        id = spec.name,
        why,
        "a guest that was started from its template did not come up; it boots"
    );
    context.templates.distrust(&pattern.likeness);
    Ok(None)
}

fn root_disk(context: &Context, spec: &InstanceSpec) -> Result<Vec<PathBuf>, StopReason> {
    match &spec.image {
        Some(image) => {
            context.roots.parts(&image.digest).map_err(|error| StopReason::new("image_missing", error))
        }
        None => {
            let base = context.home.rootfs_named(&spec.rootfs);
            base.map(|path| vec![path]).map_err(|error| failed("the host is not ready", &error))
        }
    }
}

pub(crate) async fn make_disk(context: &Context, id: &str, mib: u64) -> Result<(), StopReason> {
    let (path, size, cache) = (context.home.disk(id), mib << 20, context.home.cache());
    let made = tokio::task::spawn_blocking(move || match path.exists() {
        // It may have been asked to grow, or be that of an older snapshot.
        true => disk::grow(&path, size),
        false => DiskMaker::new(cache)?.create(&path, size),
    })
    .await;
    match made {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed("the instance's disk could not be made", &chain(&error))),
        Err(_) => Err(failed("the instance's disk could not be made", &"an internal fault")),
    }
}

async fn execute(context: &Context, made: &mut Made, order: &Order) -> Result<(), StopReason> {
    let cold = made.session.is_none();
    let (session, events) = made.session().await?;
    if cold {
        order.watch.lap("guest");
    }
    order.live.begin_session(&session, events);
    // Looked up as late as can be, and held no longer than the message is.
    let values = Sources::of(context).values(&order.spec);
    let mut values = values.map_err(|error| StopReason::new("secret_missing", error))?;
    if let Some(kit) = &order.spec.kit {
        values.rendered = kit::equip(context, order, kit, &session, &values).await?;
    }
    let process = order.spec.process(&values);
    let checked = check_process(&process.command, &process.env, &process.workdir);
    checked.map_err(|error| failed("the command cannot be executed", &error))?;
    let has_card = context.vmm.capabilities().network;
    let card = has_card.then(|| network::surroundings(&order.spec.network, &context.resolvers.borrow()));
    let card = card.transpose().map_err(|error| StopReason::new("network_failed", error))?;
    let run = Run {
        hostname: order.hostname.clone(),
        shares: mounts::shares(&order.spec.mounts),
        network: card,
        process,
    };
    match session.link().call(&run).await {
        Ok(_started) => {
            order.watch.lap("command");
            Ok(())
        }
        Err(error) => Err(refused(&error)),
    }
}

/// Why a guest did not do as it was told.
pub(crate) fn refused(error: &LinkError) -> StopReason {
    match error {
        LinkError::Guest(error) => StopReason::new(refusal(error.code), error.message.clone()),
        error => StopReason::unreachable(error),
    }
}

/// The root and what else there has to be before anything can be executed.
pub(crate) fn preparation(hostname: &str, of: &InstanceSpec) -> Prepare {
    Prepare { hostname: hostname.to_owned(), shares: mounts::shares(&of.mounts), owner: of.user.clone() }
}

/// The stable word for a guest's refusal to execute a command.
#[must_use]
pub(crate) fn refusal(guest_code: i64) -> &'static str {
    match guest_code {
        code::NOT_FOUND => "command_not_found",
        code::NOT_EXECUTABLE => "command_not_executable",
        code::NO_SUCH_USER => "user_not_found",
        code::NO_WORKDIR => "workdir_not_found",
        _ => "guest_failed",
    }
}
