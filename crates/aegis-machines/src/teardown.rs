//! Ending a machine and clearing up after it.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_protocol::messages::Shutdown;
use aegis_vmm::Machine;

use aegis_lifecycle::event::ShutdownMode;
use aegis_store::home::Home;

use crate::checkpoint::hibernation;
use crate::machine_run::MachineRun;
use crate::session::Session;

/// How long a command may take to end after SIGTERM.
pub const GRACE: Duration = Duration::from_secs(10);
/// How long the guest may take beyond that to kill, write and unmount.
const GUEST_OVERHEAD: Duration = Duration::from_secs(8);
/// How long output may take to arrive when its machine is gone.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// Ends the machine of `run`, if it has one, and returns when nothing of it is left but the log and the disk.
pub async fn tear_down(home: &Home, id: &str, run: &Arc<MachineRun>, mode: ShutdownMode) {
    run.boot_ended().await;
    if let Some(machine) = run.machine() {
        if mode == ShutdownMode::Graceful {
            tokio::select! {
                () = shut_down(&machine, run) => {}
                () = run.hurried() => {}
                _ = machine.ended() => {}
            }
        }
        machine.stop().await;
        run.helpers_ended().await;
    }
    // The pipes are closed now; what is still in them is taken, unless a client holds it up.
    let _late = tokio::time::timeout(LAST_OUTPUT, run.guest_ended()).await;
    run.abort_tasks();
    if let Err(error) = hibernation::forget(home, id) {
        tracing::warn!(id, %error, "a machine's memory was not removed");
    }
    if let Err(error) = home.remove_run_dir(id) {
        tracing::warn!(id, %error, "run-time directory not removed");
    }
    run.release_disk();
}

async fn shut_down(machine: &Arc<dyn Machine>, run: &Arc<MachineRun>) {
    let _here = run.exclusive().await;
    // A paused guest hears nothing; one that runs does not mind. So nobody asks which it is: the answer would be of a
    // moment that is over.
    if machine.resume().await.is_err() {
        return;
    }
    let Some(session) = run.last_session().await else { return };
    shut_down_guest(&session, GRACE).await;
}

/// Ends a guest in good order. One that cannot say goodbye will have its plug pulled.
pub async fn shut_down_guest(session: &Session, grace: Duration) {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let farewell = async {
        if session.link().call(&Shutdown { grace_ms }).await.is_ok() {
            session.goodbye().await;
        }
    };
    let _late = tokio::time::timeout(grace + GUEST_OVERHEAD, farewell).await;
}
