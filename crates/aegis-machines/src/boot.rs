//! Booting: machine, guest, command.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_protocol::messages::Run;
use aegis_lifecycle::stop_reason::{StopReason, UNREACHABLE};
use aegis_spec::instance::check_process;
use aegis_vmm::{End, console_tail};
use tokio::sync::watch;

use crate::boot_order::BootOrder;
use crate::environment::EnvironmentSources;
use crate::exports;
use crate::guest_calls::refused;
use crate::helpers::Helpers;
use crate::kit_provisioning;
use crate::kits::Kits;
use crate::machine_factory::{MachineFactory, NewMachine};
use crate::machine_layout::boot_failed;
use crate::machine_run::{CONSOLE_LINES, DEATH_REPORT_TIMEOUT};
use crate::network::interface;
use crate::network::resolvers::Resolvers;
use crate::stop_reasons;
use crate::template_builder::TemplateBuilder;

/// Boots machines and executes the commands of instances in them.
#[derive(Debug)]
pub struct Booter {
    /// Makes the machines.
    pub factory: MachineFactory,
    /// Starts their helpers.
    pub helpers: Helpers,
    /// Makes templates of those that have booted.
    pub template_builder: Arc<TemplateBuilder>,
    /// Looks up secrets and what the host offers.
    pub environment: EnvironmentSources,
    /// The kits of this host.
    pub kits: Arc<dyn Kits>,
    /// How the host reaches the world.
    pub resolvers: watch::Receiver<Arc<Resolvers>>,
    /// How long a guest may take to come up.
    pub timeout: Duration,
}

impl Booter {
    /// Boots a machine and executes the command in it. Whatever was made stays for the teardown to end.
    ///
    /// # Errors
    /// Why the command does not run.
    pub async fn boot(&self, order: &BootOrder) -> Result<(), StopReason> {
        let _starting = self.factory.warm_pool.starting();
        let mut made = self.start_machine(order).await?;
        let machine = Arc::clone(&made.machine);
        let (cold, template_key) = (made.boots(), made.template_key.take());
        tokio::select! {
            biased;
            () = order.run.cancelled() => Err(StopReason::stopped()),
            end = machine.ended() => Err(self.died_at_boot(order, &end)),
            opened = tokio::time::timeout(self.timeout, self.execute(&mut made, order)) => match opened {
                Ok(Err(reason)) if reason.code == UNREACHABLE => {
                    // Its death, if that is the cause, explains more than the silence that came of it.
                    let end = tokio::time::timeout(DEATH_REPORT_TIMEOUT, machine.ended()).await;
                    Err(end.map_or(reason, |end| self.died_at_boot(order, &end)))
                }
                Ok(result) => {
                    match template_key.filter(|_| result.is_ok()) {
                        Some(template_key) if cold => self.template_builder.build_later(template_key),
                        Some(template_key) => self.factory.warm_pool.want(Some(template_key)),
                        None => {}
                    }
                    result
                }
                Err(_) => Err(self.timed_out(order)),
            },
        }
    }

    fn console(&self, id: &str) -> Vec<String> {
        console_tail(&self.factory.layout.home.console(id), CONSOLE_LINES)
    }

    fn died_at_boot(&self, order: &BootOrder, end: &End) -> StopReason {
        let died = stop_reasons::died(end);
        StopReason { message: format!("while booting, {}", died.message), ..died }
            .with_console(self.console(&order.id))
    }

    fn timed_out(&self, order: &BootOrder) -> StopReason {
        let seconds = self.timeout.as_secs();
        StopReason::new("boot_timeout", format!("the guest did not come up within {seconds} seconds"))
            .with_console(self.console(&order.id))
    }

    async fn start_machine(&self, order: &BootOrder) -> Result<NewMachine, StopReason> {
        order.take_disk().await?;
        let unwanted = order.run.cancel_token();
        let made = self.factory.make(&order.id, &order.spec, &order.watch, unwanted).await?;
        let machine = Arc::clone(&made.machine);
        order.run.set_machine(Arc::clone(&machine));
        // Stored before anything depends on it: a daemon that dies now finds the machine again.
        order.run.reporter().started().await;
        self.helpers.start(order, &machine).await?;
        order.watch.lap("network");
        Ok(made)
    }

    async fn execute(&self, made: &mut NewMachine, order: &BootOrder) -> Result<(), StopReason> {
        let comes_up = made.comes_up();
        let (session, events) = made.session().await?;
        if comes_up {
            order.watch.lap("guest");
        }
        order.run.begin_session(&session, events);
        // Looked up as late as can be, and held no longer than the message is.
        let values = self.environment.values(&order.spec);
        let mut values = values.map_err(|error| StopReason::new("secret_missing", error))?;
        if let Some(kit) = &order.spec.kit {
            let home = &self.factory.layout.home;
            values.rendered =
                kit_provisioning::equip(&*self.kits, home, order, kit, &session, &values).await?;
        }
        let process = order.spec.process(&values);
        let checked = check_process(&process.command, &process.env, &process.workdir);
        checked.map_err(|error| boot_failed("the command cannot be executed", &error))?;
        let has_interface = self.factory.layout.vmm.capabilities().network;
        let network = has_interface
            .then(|| interface::guest_network(&order.spec.network, &self.resolvers.borrow()))
            .transpose()
            .map_err(|error| StopReason::new("network_failed", error))?;
        let shares = exports::shares(&order.spec.mounts);
        let run = Run { hostname: order.hostname.clone(), shares, network, process };
        match session.link().call(&run).await {
            Ok(_started) => {
                order.watch.lap("command");
                Ok(())
            }
            Err(error) => Err(refused(&error)),
        }
    }
}
