//! `aegis-gateway`: the other end of a guest's network interface. Standard input is QEMU's stream, standard output a listening
//! socket for the daemon.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    let machine = std::io::stdin().as_fd().try_clone_to_owned();
    let control = std::io::stdout().as_fd().try_clone_to_owned();
    let result = machine
        .and_then(|machine| Ok((machine, control?)))
        .map_err(aegis_gateway::GatewayError::from)
        .and_then(|(machine, control)| aegis_gateway::serve(machine, control));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever started it reads this; there is nobody else to tell.
            let _unread = writeln!(std::io::stderr(), "aegis-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}
