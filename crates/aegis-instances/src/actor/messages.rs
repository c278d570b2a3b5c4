//! What the actor does about each message.

use aegis_lifecycle::event::{Event, Reply, Request};
use aegis_lifecycle::idle_policy::Lease;
use aegis_lifecycle::restart_policy::{Attempts, RestartPolicy};
use aegis_lifecycle::stop_reason::StopReason;
use aegis_machines::clock::now_ms;

use super::Actor;
use crate::error::InstanceError;
use crate::message::Message;
use crate::ports::PortRequest;

impl Actor {
    pub(super) async fn take(&mut self, message: Message) {
        match message {
            Message::Request(request, reply) => {
                let over = self.record.end_of_life_ms().is_some_and(|end| end <= now_ms());
                if over && matches!(request, Request::Start | Request::Restart) {
                    let _gave_up = reply.send(Reply::LifetimeOver);
                    return;
                }
                if let Some(reason) = self.transient.no_hibernation.filter(|_| request == Request::Hibernate)
                {
                    let _gave_up = reply.send(Reply::Refused(reason.to_owned()));
                    return;
                }
                if let Some(text) = self.no_room_for(request) {
                    let _gave_up = reply.send(Reply::NoRoom(text));
                    return;
                }
                if matches!(request, Request::Stop | Request::Disable) {
                    self.stay_stopped().await;
                }
                self.next_waiter += 1;
                self.waiters.insert(self.next_waiter, reply);
                self.step(Event::Requested(request, self.next_waiter)).await;
            }
            // One that was on its way when its boot ended is no concern of the next.
            Message::TimeUp(boot) => {
                if boot == self.record.life.boot() {
                    self.next_waiter += 1;
                    self.step(Event::Requested(Request::TimeUp, self.next_waiter)).await;
                }
            }
            Message::Event(event) => {
                self.note(&event);
                self.step(event).await;
                // What comes next may be another thing now, also where nothing is to be stored: without that a way to
                // disk that fails would be tried again at once, and again.
                self.publish();
            }
            Message::BootTimed(boot, timings) => {
                if boot == self.record.life.boot() {
                    self.transient.timings = Some(timings);
                    self.publish();
                }
            }
            Message::Lease(lease) => self.lease(lease),
            Message::DiskPressure(full) => self.host_disk(full).await,
            Message::Replace(replacement, reply) => self.replace(*replacement, reply).await,
            Message::Replaced(replaced) => self.after_replacement(replaced).await,
            Message::Network(change, reply) => {
                let _gave_up = reply.send(self.change_network(change).await);
            }
            Message::Revise(revision, reply) => {
                let _gave_up = reply.send(self.revise(&revision).await);
            }
            Message::Listen(done) => {
                if self.record.life.enabled() {
                    self.ports.open();
                } else {
                    self.ports.close();
                }
                self.publish();
                let _gone = done.send(());
            }
            Message::Expose(wanted, reply) => {
                let exposed = self.expose(&wanted).await;
                let _gave_up = reply.send(exposed);
            }
            Message::Unexpose(guest_port, reply) => {
                let removed = self.ports.unexpose(guest_port);
                let stored = if removed.is_some() { self.store_ports().await } else { Ok(()) };
                let _gave_up = reply.send(stored);
            }
        }
    }

    /// Takes from an event what is not the lifecycle's.
    fn note(&mut self, event: &Event) {
        let current = self.record.life.boot();
        match event {
            Event::TornDown(boot) if *boot == current => self.after_teardown(),
            Event::HibernateEnded(boot, Ok(())) if *boot == current => drop(self.run.send_replace(None)),
            Event::HibernateEnded(_, Err(error)) => {
                tracing::warn!(id = self.record.id, error, "a machine was not put on disk");
                self.transient.stays_in_memory = true;
            }
            Event::PauseEnded(_, Err(_)) => {
                self.transient.filled = None;
                // Tried again when it has been idle for as long once more.
                self.record.active_ms = now_ms();
                self.publish();
            }
            _ => {}
        }
    }

    /// A restart, or a wake by an exec, is not to undo what somebody has just asked for.
    async fn stay_stopped(&mut self) {
        self.transient.attempts = Attempts::default();
        let rests = self.record.life.reason().is_some_and(StopReason::is_idle);
        if rests || self.record.spec.restart != RestartPolicy::No {
            self.record.life.stay_stopped();
            self.store(None).await;
        }
    }

    pub(super) fn lease(&mut self, lease: Option<Lease>) {
        self.record.active_ms = now_ms();
        self.transient.lease = lease;
        self.publish();
    }

    /// Opens ports, and keeps them only if that could be stored.
    async fn expose(&mut self, wanted: &[PortRequest]) -> Result<(), InstanceError> {
        let before = self.ports.endpoints().len();
        self.open_ports(wanted)?;
        self.store_ports().await.inspect_err(|_| {
            self.ports.withdraw_from(before);
            self.publish();
        })
    }

    async fn store_ports(&mut self) -> Result<(), InstanceError> {
        self.publish();
        let event = self.event("ports");
        Ok(self.deps.registry.update(self.row(), Some(event)).await?)
    }
}
