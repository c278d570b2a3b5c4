//! Performing what the lifecycle wants. What takes time runs in tasks that report back by message.

use std::sync::Arc;

use aegis_store::registry::RegistryError;

use super::{Actor, Message};
use crate::at_rest::clone;
use crate::at_rest::hibernate;
use crate::lifecycle::{Boot, Effect, Event, Manner, Reply, Waiter};
use crate::machine::boot::{self, Order};
use crate::machine::live::{Live, pause, resume};
use crate::machine::teardown;
use crate::machine::timings::Stopwatch;

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
                self.with_machine(boot, move |live| async move {
                    let Some(machine) = live.machine() else { return };
                    let result = match at_once {
                        true => machine.pause().await.map_err(|error| error.to_string()),
                        false => pause(&live, &*machine).await,
                    };
                    if result.is_ok() {
                        usage.quiet().await;
                    }
                    live.tell(Message::Happened(Event::PauseEnded(live.boot, result))).await;
                });
            }
            Effect::Resume(boot) => self.with_machine(boot, |live| async move {
                let result = resume(&live).await;
                live.tell(Message::Happened(Event::ResumeEnded(live.boot, result))).await;
            }),
            Effect::Hibernate(boot) => {
                let (context, id) = (Arc::clone(&self.context), self.record.id.clone());
                let of = Arc::clone(&self.record.spec);
                let live = self.live.borrow().clone();
                let Some(live) = live.filter(|live| live.boot == boot) else { return };
                // Never aborted: it ends with the machine's end, or its going on.
                tokio::spawn(async move {
                    let result = hibernate::hibernate(&context, &id, &of, &live).await;
                    live.tell(Message::Happened(Event::HibernateEnded(boot, result))).await;
                });
            }
            Effect::Wake(boot) => drop(self.wake(boot)),
            Effect::Replace(waiter) => self.begin_replacement(waiter),
            Effect::Remove => self.remove().await,
            Effect::Reply(waiter, reply) => self.answer(waiter, reply),
            // The caller's.
            Effect::Next => {}
        }
    }

    fn answer(&mut self, waiter: Waiter, reply: Reply) {
        self.replacements.remove(&waiter);
        if let Some(waiting) = self.waiters.remove(&waiter) {
            let _gave_up = waiting.send(reply);
        }
    }

    /// A machine that is about to be made, and what it takes to make it.
    fn order(&mut self, boot: Boot, adopted: bool) -> Order {
        let live = Live::new(boot, adopted, self.own_mailbox.clone(), Arc::clone(&self.output));
        self.live.send_replace(Some(Arc::clone(&live)));
        Order {
            id: self.record.id.clone(),
            hostname: self.record.handle.clone().unwrap_or_else(|| self.record.id.clone()),
            spec: Arc::clone(&self.record.spec),
            live,
            disk: self.disk.clone(),
            watch: Stopwatch::start(),
        }
    }

    /// Makes the machine again from what is on disk.
    fn wake(&mut self, boot: Boot) -> Arc<Live> {
        let order = self.order(boot, true);
        let (live, context) = (Arc::clone(&order.live), Arc::clone(&self.context));
        // Never aborted: it may just be making a machine. A teardown waits for it.
        tokio::spawn(async move {
            let result = hibernate::wake(&context, &order).await;
            order.live.end_boot();
            order.live.tell(Message::Took(boot, order.watch.timings())).await;
            order.live.tell(Message::Happened(Event::WakeEnded(boot, result))).await;
        });
        live
    }

    fn boot(&mut self, boot: Boot) {
        let order = self.order(boot, false);
        let context = Arc::clone(&self.context);
        let origin = self.passing.origin.take();
        // Never aborted: it may just be making a machine. Ends early when cancelled; the teardown waits for it.
        tokio::spawn(async move {
            let event = match origin {
                Some(origin) => match clone::boot(&context, &order, &origin).await {
                    Ok(()) => Event::Booted(boot),
                    Err(error) => {
                        tracing::warn!(
                            id = order.id,
                            error,
                            "a machine did not go on where another one stood"
                        );
                        order.live.log(&format!("it does not go on where it was taken, and boots: {error}"));
                        Event::CloneFailed(boot)
                    }
                },
                None => match boot::boot(&context, &order).await {
                    Ok(()) => Event::Booted(boot),
                    Err(reason) => Event::BootFailed(boot, reason),
                },
            };
            order.live.end_boot();
            order.live.tell(Message::Took(boot, order.watch.timings())).await;
            order.live.tell(Message::Happened(event)).await;
        });
    }

    fn tear_down(&mut self, boot: Boot, manner: Manner) {
        let live = self.live.borrow().clone().filter(|live| live.boot == boot);
        let live = live.unwrap_or_else(|| match manner {
            // It is on disk, and ends as any other does.
            Manner::Graceful => self.wake(boot),
            Manner::AtOnce => {
                let nothing = self.order(boot, true).live;
                nothing.end_boot();
                nothing
            }
        });
        if manner == Manner::AtOnce {
            live.hurry();
        }
        if !live.cancel() {
            return;
        }
        let (context, id) = (Arc::clone(&self.context), self.record.id.clone());
        // What an ephemeral instance leaves on its disk nobody will read.
        let manner = if self.record.spec.ephemeral && self.record.exit_code.is_some() {
            Manner::AtOnce
        } else {
            manner
        };
        // Reports back to this actor, which waits for it.
        tokio::spawn(async move {
            teardown::tear_down(&context, &id, &live, manner).await;
            live.tell(Message::Happened(Event::TornDown(boot))).await;
        });
    }

    fn with_machine<F: Future<Output = ()> + Send + 'static>(
        &self,
        boot: Boot,
        work: impl FnOnce(Arc<Live>) -> F,
    ) {
        let live = self.live.borrow().clone();
        if let Some(live) = live.filter(|live| live.boot == boot) {
            live.keep(tokio::spawn(work(Arc::clone(&live))));
        }
    }

    async fn remove_record(&self) -> Result<bool, RegistryError> {
        let event = self.event("deleted");
        self.context.registry.remove(self.record.id.clone(), Some(event)).await
    }

    async fn remove(&mut self) {
        self.close_ports();
        let stored = self.remove_record().await;
        self.context.forget(&self.record.id, self.record.handle.as_deref());
        self.output.close();
        self.disk.end().await;
        let (home, id) = (self.context.home.clone(), self.record.id.clone());
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
