//! The user's terminal: raw while a command has it, restored on every way out.

use std::io::{self, IsTerminal};

use aegis_api::instance::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Failure;

/// Size that a command's terminal gets where ours has none.
const FALLBACK: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// Size of the terminal on standard output or input.
#[must_use]
pub fn size() -> TerminalSize {
    let found = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    match found {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            TerminalSize { rows: size.ws_row, cols: size.ws_col }
        }
        _ => FALLBACK,
    }
}

/// The terminal in raw mode, as long as this lives.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes the terminal on standard input raw, if there is one.
    ///
    /// # Errors
    /// If it cannot be changed.
    pub fn enter() -> Result<Option<Raw>, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let failed = |error: rustix::io::Errno| Failure::new(format!("cannot set the terminal: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Some(Raw { before }))
    }
}

/// The terminal without echo, as long as this lives.
#[derive(Debug)]
pub struct Quiet {
    _restores: Raw,
}

impl Quiet {
    /// Turns the echo of the terminal on standard input off, if there is one.
    ///
    /// # Errors
    /// If it cannot be changed.
    pub fn enter() -> Result<Option<Quiet>, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let failed = |error: rustix::io::Errno| Failure::new(format!("cannot set the terminal: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut quiet = before.clone();
        quiet.local_modes -= rustix::termios::LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet).map_err(failed)?;
        Ok(Some(Quiet { _restores: Raw { before } }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may have gone.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
