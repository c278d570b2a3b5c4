//! Machines that belong to no instance: those that templates are made of, and warm ones.

use std::io;
use std::time::Duration;

use aegis_guest_link::Resume;
use aegis_guest_protocol::rpc::Call;
use aegis_store::home::Home;
use aegis_vmm::{Machine, MachineSpec};
use tokio_util::sync::CancellationToken;

use crate::session::Session;

/// How long a guest may take to become a template, or to be ready as a warm machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A machine like another one, with a name and paths of its own.
///
/// # Errors
/// If its run-time directory cannot be made.
pub fn spec_like(home: &Home, like: &MachineSpec, id: &str) -> io::Result<MachineSpec> {
    Ok(MachineSpec {
        name: id.to_owned(),
        run_dir: home.run_dir(id).map_err(io::Error::other)?,
        console_log: home.console(id),
        data_disk: home.disk(id),
        ..like.clone()
    })
}

/// What comes of work on such a machine, unless it takes too long or the daemon ends.
///
/// # Errors
/// Those of the work; a sentence if it did not end.
pub async fn in_time<T>(
    shutdown: &CancellationToken,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::select! {
        done = tokio::time::timeout(TIMEOUT, work) => {
            done.unwrap_or_else(|_| Err("it took too long".to_owned()))
        }
        () = shutdown.cancelled() => Err("the daemon ends".to_owned()),
    }
}

/// Has the guest of such a machine do one thing, in a session that ends with it.
///
/// # Errors
/// The guest's, or that it cannot be reached.
pub async fn call_once(machine: &dyn Machine, call: &impl Call) -> Result<(), String> {
    let (session, _events, _) =
        Session::open(machine, Resume::default()).await.map_err(|error| error.to_string())?;
    session.link().call(call).await.map_err(|error| error.to_string())?;
    session.link().close();
    Ok(())
}

/// Removes the files of such a machine.
pub fn remove_files(home: &Home, id: &str) {
    let gone = [std::fs::remove_file(home.disk(id)), std::fs::remove_file(home.console(id))];
    let run_dir = home.remove_run_dir(id).map_err(|error| error.to_string());
    if let Err(error) = run_dir {
        tracing::warn!(id, error, "run-time directory not removed");
    }
    // What is not there need not be removed.
    drop(gone);
}
