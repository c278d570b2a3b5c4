//! The file server of one machine, which is this program in another process.

use crate::error::DaemonError;
use std::os::fd::AsFd;

/// Serves directories of the host to the guest at the other end of standard input, until its machine has ended.
///
/// # Errors
/// If the directories are none, or the connection fails.
pub fn serve_files(exports: &str) -> Result<(), DaemonError> {
    let exports: Vec<aegis_workspace::ExportSpec> =
        serde_json::from_str(exports).map_err(|error| DaemonError::io("read what to serve")(error.into()))?;
    let guest = std::io::stdin().as_fd().try_clone_to_owned().map_err(DaemonError::io("reach the guest"))?;
    Ok(aegis_workspace::serve(guest.into(), &exports)?)
}
