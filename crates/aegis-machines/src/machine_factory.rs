//! Makes machines: from the warm pool, from a template, or by booting.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_link::{Events, Resume};
use aegis_lifecycle::stop_reason::StopReason;
use aegis_spec::instance::InstanceSpec;
use aegis_vmm::{Machine, MachineSpec, Origin, console_tail};
use tokio_util::sync::CancellationToken;

use crate::boot_timings::{StartKind, Stopwatch};
use crate::checkpoint::template_store::TemplateStore;
use crate::disk_space::DiskSpace;
use crate::error_chain::chain;
use crate::file_server;
use crate::host_memory;
use crate::machine_layout::{MachineLayout, boot_failed};
use crate::machine_run::{CONSOLE_LINES, DEATH_REPORT_TIMEOUT};
use crate::session::Session;
use crate::stop_reasons;
use crate::template_key::TemplateKey;
use crate::warm_pool::WarmPool;

/// How long a guest that was started from a template may take to say that it is well; else its machine is replaced by
/// one that boots.
const CLONE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a guest with several emulated processors may take to come up.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How often such a machine is booted at most.
const MOST_BOOTS: u32 = 3;

/// The accelerator that is none.
const EMULATION: &str = "tcg";

/// Code of a machine that was not made because the host's disk is full.
const NO_ROOM: &str = "insufficient_disk";

/// A machine that was made.
#[derive(Debug)]
pub struct NewMachine {
    /// The machine.
    pub machine: Arc<dyn Machine>,
    /// Whether it boots, and did not come from a template.
    boots: bool,
    /// The session with its guest, where that has been opened already.
    session: Option<(Arc<Session>, Events)>,
    /// Its kind, where there may be templates of such machines.
    pub template_key: Option<TemplateKey>,
}

impl NewMachine {
    /// Whether it boots, and did not come from a template.
    #[must_use]
    pub fn boots(&self) -> bool {
        self.boots
    }

    /// Whether its guest is still to come up.
    #[must_use]
    pub fn comes_up(&self) -> bool {
        self.session.is_none()
    }

    /// The session with its guest, as soon as that is up.
    ///
    /// # Errors
    /// If the guest cannot be reached.
    pub async fn session(&mut self) -> Result<(Arc<Session>, Events), StopReason> {
        if let Some(opened) = self.session.take() {
            return Ok(opened);
        }
        let opened = Session::open(&*self.machine, Resume::default()).await;
        opened.map(|(session, events, _)| (session, events)).map_err(|error| StopReason::unreachable(&error))
    }
}

/// Makes machines. Clones are the same.
#[derive(Debug, Clone)]
pub struct MachineFactory {
    /// What machines are made from.
    pub layout: MachineLayout,
    /// The host's disk.
    pub disk_space: Arc<DiskSpace>,
    /// Where templates are kept.
    pub templates: Arc<TemplateStore>,
    /// Machines that are ready.
    pub warm_pool: Arc<WarmPool>,
}

type Cloned = (Arc<dyn Machine>, (Arc<Session>, Events));

impl MachineFactory {
    /// Makes the machine of an instance, and its disk if it has none yet.
    ///
    /// # Errors
    /// If the host lacks something, the machine cannot be started, or it is not wanted any more.
    pub async fn make(
        &self,
        id: &str,
        of: &InstanceSpec,
        watch: &Stopwatch,
        unwanted: &CancellationToken,
    ) -> Result<NewMachine, StopReason> {
        if let Some(text) = self.disk_space.refusal() {
            return Err(StopReason::new(NO_ROOM, text));
        }
        self.check_host(of).await?;
        self.layout.make_disk(id, of.disk_mib).await?;
        let spec = self.layout.machine_spec(id, of)?;
        // The console begins anew with each boot.
        let _absent = std::fs::remove_file(&spec.console_log);
        watch.lap("disk");
        let template_key = self.templates.template_key(of, &spec, &*self.layout.vmm);
        if let Some(kind) = &template_key {
            if let Some((machine, opened)) = self.take_warm(kind, watch, unwanted).await? {
                watch.note(StartKind::Warm);
                return Ok(NewMachine { machine, boots: false, session: Some(opened), template_key });
            }
            if let Some((machine, opened)) = self.clone_template(kind, watch, unwanted).await? {
                watch.note(StartKind::Template);
                return Ok(NewMachine { machine, boots: false, session: Some(opened), template_key });
            }
        }
        if of.vcpus > 1 && self.layout.vmm.capabilities().accelerator == EMULATION {
            let (machine, opened) = self.boot_emulated(&spec, watch, unwanted).await?;
            return Ok(NewMachine { machine, boots: true, session: Some(opened), template_key });
        }
        let machine = self.start(&spec, watch).await?;
        Ok(NewMachine { machine, boots: true, session: None, template_key })
    }

    async fn start(&self, spec: &MachineSpec, watch: &Stopwatch) -> Result<Arc<dyn Machine>, StopReason> {
        let machine = self.layout.vmm.start(spec).await;
        let machine = machine.map_err(|error| boot_failed("the machine did not start", &error))?;
        watch.lap("machine");
        Ok(machine)
    }

    /// Boots a machine with several emulated processors until its guest is up, again if it crashes before. While one processor
    /// changes the kernel's code (jump labels, at the end of the boot), another may execute a half of it that QEMU 7.2 has
    /// translated: the kernel panics, or the machine is reset, in one of a hundred boots.
    async fn boot_emulated(
        &self,
        spec: &MachineSpec,
        watch: &Stopwatch,
        unwanted: &CancellationToken,
    ) -> Result<Cloned, StopReason> {
        let mut attempts = 1..=MOST_BOOTS;
        loop {
            let machine = self.start(spec, watch).await?;
            let reason = tokio::select! {
                biased;
                () = unwanted.cancelled() => StopReason::stopped(),
                end = machine.ended() => stop_reasons::died(&end),
                opened = tokio::time::timeout(BOOT_TIMEOUT, Session::open(&*machine, Resume::default())) => match opened {
                    Ok(Ok((session, events, _))) => {
                        watch.lap("guest");
                        return Ok((machine, (session, events)));
                    }
                    Ok(Err(error)) => {
                        // Its death, if that is the cause, explains more than the silence that came of it.
                        let end = tokio::time::timeout(DEATH_REPORT_TIMEOUT, machine.ended()).await;
                        end.map_or_else(|_| StopReason::unreachable(&error), |end| stop_reasons::died(&end))
                    }
                    Err(_) => StopReason::new("boot_timeout", "the guest did not come up in time"),
                },
            };
            machine.stop().await;
            let crashed = ["kernel_panic", "vmm_died"].contains(&reason.code.as_str());
            attempts.next();
            if !crashed || attempts.is_empty() || unwanted.is_cancelled() {
                let console = console_tail(&spec.console_log, CONSOLE_LINES);
                let message = format!("while booting, {}", reason.message);
                return Err(StopReason { message, ..reason }.with_console(console));
            }
            tracing::warn!(
                id = spec.name,
                reason = reason.message,
                "a guest crashed while it booted, and boots again"
            );
            let _absent = std::fs::remove_file(&spec.console_log);
        }
    }

    /// Checks that the host has what a machine needs. Room on its disk is not looked at: a machine that comes back from there
    /// takes none, and gives up what its memory took.
    ///
    /// # Errors
    /// If memory or a directory of the host is missing.
    pub async fn check_host(&self, of: &InstanceSpec) -> Result<(), StopReason> {
        let needed = host_memory::needed_mib(of.memory_mib);
        let lacking = || host_memory::available_memory_mib().filter(|available| *available < needed);
        if lacking().is_some() {
            self.warm_pool.yield_memory().await;
        }
        if let Some(available) = lacking() {
            let text = format!("the host has {available} MiB of memory left; a machine needs {needed}");
            return Err(StopReason::new("insufficient_memory", text));
        }
        file_server::check(&self.layout.home, of)
    }

    /// Makes the warm machine that of an instance; `None` if there is none of its kind, or it is of no use.
    async fn take_warm(
        &self,
        template_key: &TemplateKey,
        watch: &Stopwatch,
        unwanted: &CancellationToken,
    ) -> Result<Option<Cloned>, StopReason> {
        let Some(warm) = self.warm_pool.take(template_key) else { return Ok(None) };
        let why = match self.warm_pool.assign(warm, &template_key.spec).await {
            Ok(machine) => {
                watch.lap("machine");
                match come_up(&machine, watch, unwanted).await? {
                    Ok(opened) => return Ok(Some((machine, opened))),
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        tracing::warn!(id = template_key.spec.name, why, "the warm machine was of no use");
        Ok(None)
    }

    /// Starts a machine from a template; `None` if there is none, or the guest did not say that it is well.
    async fn clone_template(
        &self,
        template_key: &TemplateKey,
        watch: &Stopwatch,
        unwanted: &CancellationToken,
    ) -> Result<Option<Cloned>, StopReason> {
        let key = &template_key.compatibility_key;
        let Some(template) = self.templates.find(key).await else { return Ok(None) };
        let spec = &template_key.spec;
        watch.lap("template");
        let restored =
            self.layout.vmm.restore(spec, &template.devices, Origin::Common(&template.memory)).await;
        let why = match restored {
            Ok(machine) => {
                watch.lap("machine");
                match come_up(&machine, watch, unwanted).await? {
                    Ok(opened) => return Ok(Some((machine, opened))),
                    Err(why) => why,
                }
            }
            Err(error) => chain(&error),
        };
        tracing::warn!(id = spec.name, why, "no machine could be started from its template; it boots");
        self.templates.distrust(key);
        Ok(None)
    }
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
        end = machine.ended() => stop_reasons::died(&end).message,
        () = unwanted.cancelled() => {
            machine.stop().await;
            return Err(StopReason::stopped());
        }
    };
    machine.stop().await;
    Ok(Err(why))
}
