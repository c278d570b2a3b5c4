//! What the actor does about each event of its machine.

use aegis_lifecycle::event::{Boot, Event, ShutdownMode};
use aegis_lifecycle::stop_reason::StopReason;
use aegis_machines::clock::now_ms;
use aegis_machines::reporter::MachineEvent;
use aegis_machines::stop_reasons;

use super::Actor;

impl Actor {
    /// Takes an event of the machine of this boot. Of an earlier one only what somebody waits for is confirmed.
    pub(super) async fn take_machine_event(&mut self, boot: Boot, event: MachineEvent) {
        let current = boot == self.record.life.boot();
        match event {
            MachineEvent::Started(done) => {
                if current {
                    self.store(Some("machine_started")).await;
                }
                let _gone = done.send(());
            }
            MachineEvent::Exited { status, out_of_memory, stored } => {
                if current {
                    self.record.exit_code = Some(status.code());
                    let spec = &self.record.spec;
                    // Nothing of it stays: there is nobody for whom its disk would have to be in order.
                    let mode = if spec.ephemeral && spec.mounts.is_empty() {
                        ShutdownMode::Immediate
                    } else {
                        ShutdownMode::Graceful
                    };
                    let reason = stop_reasons::exited(status, out_of_memory);
                    self.step(Event::Exited(boot, reason, mode)).await;
                }
                let _gone = stored.send(());
            }
            MachineEvent::Active if current => {
                self.record.active_ms = now_ms();
                self.publish();
            }
            MachineEvent::Lease(lease) if current => self.lease(lease),
            // Whoever told it to end hears this, too; after a crash of the daemon nobody else does.
            MachineEvent::Goodbye => self.step(Event::Died(boot, StopReason::stopped())).await,
            MachineEvent::Died(reason) => {
                self.step(Event::Died(boot, reason)).await;
                self.publish();
            }
            MachineEvent::Network(kind, note) => self.network_event(boot, kind, note).await,
            MachineEvent::Active | MachineEvent::Lease(_) => {}
        }
    }
}
