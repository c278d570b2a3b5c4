//! The user's terminal: raw while a command has it, restored on every way out.

use std::io::{self, IsTerminal};

use aegis_api::instance::TerminalSize;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

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

/// The terminal on standard input, changed as long as this lives.
#[derive(Debug)]
pub struct Changed {
    before: Termios,
}

impl Changed {
    /// Makes it raw, if there is one.
    ///
    /// # Errors
    /// If it cannot be changed.
    pub fn to_raw() -> Result<Option<Changed>, Failure> {
        Changed::by(OptionalActions::Now, Termios::make_raw)
    }

    /// Makes it show nothing of what is typed, if there is one.
    ///
    /// # Errors
    /// If it cannot be changed.
    pub fn to_quiet() -> Result<Option<Changed>, Failure> {
        Changed::by(OptionalActions::Flush, |settings| settings.local_modes -= LocalModes::ECHO)
    }

    fn by(when: OptionalActions, change: impl FnOnce(&mut Termios)) -> Result<Option<Changed>, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let failed = |error: rustix::io::Errno| Failure::new(format!("cannot set the terminal: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut changed = before.clone();
        change(&mut changed);
        tcsetattr(io::stdin(), when, &changed).map_err(failed)?;
        Ok(Some(Changed { before }))
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        // The terminal may have gone.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
