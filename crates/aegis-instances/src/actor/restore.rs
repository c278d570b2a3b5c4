//! Putting an instance back to where it was.

use std::time::Duration;

use aegis_lifecycle::event::{Event, Reply, Request, Waiter};
use aegis_machines::clock::now_ms;
use aegis_machines::disk_lock::DiskLock;
use aegis_machines::error_chain::chain;

use super::Actor;
use crate::events::{Detail, event};
use crate::message::{Message, Replaced, Replacement};

/// How long others who use its disk, without a machine of its own, may take to be done with it.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Actor {
    /// Somebody wants its disk replaced.
    pub(super) async fn replace(
        &mut self,
        replacement: Replacement,
        reply: tokio::sync::oneshot::Sender<Reply>,
    ) {
        let over = self.record.end_of_life_ms().is_some_and(|end| end <= now_ms());
        if over && replacement.runs {
            let _gave_up = reply.send(Reply::LifetimeOver);
            return;
        }
        let request = Request::Replace { runs: replacement.runs };
        self.next_waiter += 1;
        self.waiters.insert(self.next_waiter, reply);
        self.replacements.insert(self.next_waiter, replacement);
        self.step(Event::Requested(request, self.next_waiter)).await;
        self.publish();
    }

    /// It has no machine now.
    pub(super) fn begin_replacement(&mut self, waiter: Waiter) {
        let replacement = self.replacements.remove(&waiter);
        let (home, id) = (self.deps.machines.home().clone(), self.record.id.clone());
        let (disk, mailbox) = (self.disk.clone(), self.own_mailbox.clone());
        // Owned by the instances, which wait for it before the daemon ends.
        self.deps.machines.maintenance().tasks.spawn(async move {
            let replaced = match replacement {
                Some(replacement) => replace_disk(&disk, replacement, home, id).await,
                None => Err("there is nothing to restore".to_owned()),
            };
            // An actor that has gone has no use for it.
            let _gone = mailbox.send(Message::Replaced(replaced)).await;
        });
    }

    /// Its disk has been replaced, or has not.
    pub(super) async fn after_replacement(&mut self, replaced: Replaced) {
        let result = match replaced {
            Ok((name, origin)) => {
                self.transient.origin = origin;
                self.output.log_system(&format!("restored from snapshot {name}"));
                let detail = Detail { note: Some(name), ..Detail::of(&self.record) };
                let restored = event(&self.record.id, "restored", &detail);
                if let Err(error) = self.deps.registry.update(self.row(), Some(restored)).await {
                    tracing::error!(id = self.record.id, %error, "an event was not stored");
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.step(Event::Replaced(result)).await;
        // One that has been stopped meanwhile does not go on where it was, but begins anew.
        self.transient.origin = None;
        self.publish();
    }

    /// Lets whoever has gone want nothing any more that has not begun.
    pub(super) fn gave_up(&self) -> Option<Event> {
        let gone =
            |waiter: &Waiter| self.waiters.get(waiter).is_none_or(tokio::sync::oneshot::Sender::is_closed);
        self.record.life.asked_for_later().find(gone).map(Event::WaiterGone)
    }
}

async fn replace_disk(
    disk: &DiskLock,
    replacement: Replacement,
    home: aegis_store::home::Home,
    id: String,
) -> Replaced {
    let Replacement { name, checkpoint, caller, .. } = replacement;
    let begun = caller.unless_gone(tokio::time::timeout(TIMEOUT, disk.acquire())).await;
    let in_use = begun.map_err(|error| error.to_string())?;
    let Ok(_in_use) = in_use else { return Err("its disk is in use: files are being copied".to_owned()) };
    // From here on it is done whole.
    let placed = tokio::task::spawn_blocking(move || checkpoint.replace(&home, &id)).await;
    let placed = placed.map_err(|error| error.to_string())?;
    placed.map(|origin| (name, origin)).map_err(|error| chain(&error))
}
