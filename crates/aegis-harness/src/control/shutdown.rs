//! Shutdown of the machine in good order.

use std::rc::Rc;
use std::time::Duration;

use aegis_guest_protocol::messages::Event;
use tokio::signal::unix::{SignalKind, signal};

use super::Shared;

/// How long processes beside the workload may take to end when it has.
const CLEAR_AWAY: Duration = Duration::from_millis(500);
/// How long killed processes may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

impl Shared {
    pub(super) async fn shut_down(self: Rc<Self>, grace: Duration) {
        let reported = self.workload.borrow().as_ref().map(|workload| workload.reported.clone());
        self.platform.signal_everyone(&self.processes.groups(), 15);
        if let Some(mut reported) = reported.clone() {
            let _late = tokio::time::timeout(grace, reported.wait_for(|done| *done)).await;
        }
        // Those beside it have things to clear away as well, such as half of a copy.
        let _late = tokio::time::timeout(CLEAR_AWAY.min(grace), self.everyone_gone()).await;
        self.platform.signal_everyone(&self.processes.groups(), 9);
        if tokio::time::timeout(KILL_TIMEOUT, self.everyone_gone()).await.is_err() {
            // Whoever waits for a file of the host cannot be killed while nobody answers.
            self.platform.abandon_shares();
            let _late = tokio::time::timeout(KILL_TIMEOUT, self.everyone_gone()).await;
        }
        if let Some(mut reported) = reported {
            let _late = tokio::time::timeout(KILL_TIMEOUT, reported.wait_for(|done| *done)).await;
        }
        let clean = self.platform.release_root();
        self.push(Event::Goodbye { clean }).await;
    }

    async fn everyone_gone(&self) {
        let Ok(mut children) = signal(SignalKind::child()) else { return };
        loop {
            self.processes.reap();
            if !self.platform.anyone_left(&self.processes.groups()) {
                return;
            }
            children.recv().await;
        }
    }
}
