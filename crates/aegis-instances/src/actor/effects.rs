//! Performing what the lifecycle wants. What takes time runs in tasks that report back by message.

use std::sync::Arc;

use aegis_lifecycle::effect::Effect;
use aegis_lifecycle::event::{Boot, Event, Reply, ShutdownMode, Waiter};
use aegis_machines::boot_order::BootOrder;
use aegis_machines::boot_timings::Stopwatch;
use aegis_machines::machine_run::{MachineRun, pause, resume};
use aegis_registry::RegistryError;
use tokio::sync::mpsc;

use super::Actor;
use crate::message::Message;

/// Tells the actor. One that has gone has no use for it.
async fn tell(mailbox: &mpsc::Sender<Message>, message: Message) {
    let _gone = mailbox.send(message).await;
}

impl Actor {
    /// Performs one effect.
    pub(super) async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Boot(boot) => self.boot(boot),
            Effect::TearDown(boot, manner) => self.tear_down(boot, manner),
            Effect::Pause(boot) => {
                // Until all its processes stood still, one that fills the host's disk would go on doing so.
                let at_once = self.record.life.is_held();
                let usage = Arc::clone(&self.usage);
                self.with_machine(boot, move |run, mailbox| async move {
                    let Some(machine) = run.machine() else { return };
                    let result = match at_once {
                        true => machine.pause().await.map_err(|error| error.to_string()),
                        false => pause(&run, &*machine).await,
                    };
                    if result.is_ok() {
                        usage.quiet().await;
                    }
                    tell(&mailbox, Message::Event(Event::PauseEnded(boot, result))).await;
                });
            }
            Effect::Resume(boot) => self.with_machine(boot, move |run, mailbox| async move {
                let result = resume(&run).await;
                tell(&mailbox, Message::Event(Event::ResumeEnded(boot, result))).await;
            }),
            Effect::Hibernate(boot) => {
                let (deps, id) = (Arc::clone(&self.deps), self.record.id.clone());
                let (of, mailbox) = (Arc::clone(&self.record.spec), self.own_mailbox.clone());
                let Some(run) = self.run_of(boot) else { return };
                // Never aborted: it ends with the machine's end, or its going on.
                tokio::spawn(async move {
                    let result = deps.machines.hibernation().hibernate(&id, &of, &run).await;
                    tell(&mailbox, Message::Event(Event::HibernateEnded(boot, result))).await;
                });
            }
            Effect::Wake(boot) => drop(self.wake(boot)),
            Effect::Replace(waiter) => self.begin_replacement(waiter),
            Effect::Remove => self.remove().await,
            Effect::Reply(waiter, reply) => self.answer(waiter, reply),
            // The caller's.
            Effect::Continue => {}
        }
    }

    fn answer(&mut self, waiter: Waiter, reply: Reply) {
        self.replacements.remove(&waiter);
        if let Some(waiting) = self.waiters.remove(&waiter) {
            let _gave_up = waiting.send(reply);
        }
    }

    /// The run of this boot, if it is the current one.
    fn run_of(&self, boot: Boot) -> Option<Arc<MachineRun>> {
        self.run.borrow().clone().filter(|run| run.boot == boot)
    }

    /// A machine that is about to be made, and what it takes to make it.
    fn order(&mut self, boot: Boot, adopted: bool) -> BootOrder {
        let run = self.new_run(boot, adopted);
        self.run.send_replace(Some(Arc::clone(&run)));
        BootOrder {
            id: self.record.id.clone(),
            hostname: self.record.handle.clone().unwrap_or_else(|| self.record.id.clone()),
            spec: Arc::clone(&self.record.spec),
            run,
            disk: self.disk.clone(),
            watch: Stopwatch::start(),
        }
    }

    /// Makes the machine again from what is on disk.
    fn wake(&mut self, boot: Boot) -> Arc<MachineRun> {
        let order = self.order(boot, true);
        let (run, deps, mailbox) = (Arc::clone(&order.run), Arc::clone(&self.deps), self.own_mailbox.clone());
        // Never aborted: it may just be making a machine. A teardown waits for it.
        tokio::spawn(async move {
            let result = deps.machines.hibernation().wake(&order).await;
            order.run.end_boot();
            tell(&mailbox, Message::BootTimed(boot, order.watch.timings())).await;
            tell(&mailbox, Message::Event(Event::WakeEnded(boot, result))).await;
        });
        run
    }

    fn boot(&mut self, boot: Boot) {
        let order = self.order(boot, false);
        let (deps, mailbox) = (Arc::clone(&self.deps), self.own_mailbox.clone());
        let origin = self.transient.origin.take();
        // Never aborted: it may just be making a machine. Ends early when cancelled; the teardown waits for it.
        tokio::spawn(async move {
            let event = match origin {
                Some(source) => match deps.machines.start_clone(&order, &source).await {
                    Ok(()) => Event::Booted(boot),
                    Err(error) => {
                        tracing::warn!(
                            id = order.id,
                            error,
                            "a machine did not go on where another one stood"
                        );
                        let text = format!("it does not go on where it was taken, and boots: {error}");
                        order.run.reporter().log(&text);
                        Event::CloneFailed(boot)
                    }
                },
                None => match deps.machines.boot(&order).await {
                    Ok(()) => Event::Booted(boot),
                    Err(reason) => Event::BootFailed(boot, reason),
                },
            };
            order.run.end_boot();
            tell(&mailbox, Message::BootTimed(boot, order.watch.timings())).await;
            tell(&mailbox, Message::Event(event)).await;
        });
    }

    fn tear_down(&mut self, boot: Boot, mode: ShutdownMode) {
        let run = self.run_of(boot).unwrap_or_else(|| match mode {
            // It is on disk, and ends as any other does.
            ShutdownMode::Graceful => self.wake(boot),
            ShutdownMode::Immediate => {
                let nothing = self.order(boot, true).run;
                nothing.end_boot();
                nothing
            }
        });
        if mode == ShutdownMode::Immediate {
            run.hurry();
        }
        if !run.cancel() {
            return;
        }
        let (deps, id) = (Arc::clone(&self.deps), self.record.id.clone());
        let mailbox = self.own_mailbox.clone();
        // What an ephemeral instance leaves on its disk nobody will read.
        let ended = self.record.spec.ephemeral && self.record.exit_code.is_some();
        let mode = if ended { ShutdownMode::Immediate } else { mode };
        // Reports back to this actor, which waits for it.
        tokio::spawn(async move {
            deps.machines.tear_down(&id, &run, mode).await;
            tell(&mailbox, Message::Event(Event::TornDown(boot))).await;
        });
    }

    fn with_machine<F: Future<Output = ()> + Send + 'static>(
        &self,
        boot: Boot,
        work: impl FnOnce(Arc<MachineRun>, mpsc::Sender<Message>) -> F,
    ) {
        if let Some(run) = self.run_of(boot) {
            run.keep(tokio::spawn(work(Arc::clone(&run), self.own_mailbox.clone())));
        }
    }

    async fn remove_record(&self) -> Result<bool, RegistryError> {
        let event = self.event("deleted");
        self.deps.registry.remove(self.record.id.clone(), Some(event)).await
    }

    async fn remove(&mut self) {
        self.close_ports();
        let stored = self.remove_record().await;
        self.deps.table.remove(&self.record.id, self.record.handle.as_deref());
        self.deps.groups.forget(&self.record.id);
        self.output.close();
        self.disk.retire().await;
        let (home, id) = (self.deps.machines.home().clone(), self.record.id.clone());
        let removal = tokio::task::spawn_blocking(move || {
            let disk = match std::fs::remove_file(home.disk(&id)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
                _ => Ok(()),
            };
            let logs = aegis_store::logs::remove_all(&home.log_dir(&id)).map_err(|error| error.to_string());
            let sockets = home.remove_run_dir(&id).map_err(|error| error.to_string());
            disk.and(logs).and(sockets)
        });
        if let Ok(Err(error)) = removal.await {
            // The hourly sweep tries again.
            tracing::warn!(id = self.record.id, error, "files not removed");
        }
        // What failed on a full disk may be done now that there is room.
        if stored.is_err()
            && let Err(error) = self.remove_record().await
        {
            tracing::error!(id = self.record.id, %error, "record not removed");
        }
        // No task would report this.
        for effect in self.record.life.step(Event::Removed) {
            if let Effect::Reply(waiter, reply) = effect {
                self.answer(waiter, reply);
            }
        }
    }
}
