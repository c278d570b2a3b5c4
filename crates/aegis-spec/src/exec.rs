//! Running a process beside an instance's command.

use std::collections::BTreeMap;

use aegis_guest_protocol::argument::Argument;
use aegis_guest_protocol::messages::{Process, TerminalSize};

use crate::environment::Values;
use crate::instance::InstanceSpec;

/// What to execute. What is absent is as for the instance's command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<Argument>,
    /// Environment, added to the instance's.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// User in the guest.
    pub user: Option<String>,
    /// A terminal.
    pub tty: Option<TerminalSize>,
    /// Whether standard input is connected.
    pub stdin: bool,
    /// Whether it goes on without anybody who waits for it.
    pub detached: bool,
}

impl ExecSpec {
    /// The process, in the surroundings of an instance, with what was looked up for it.
    #[must_use]
    pub fn process(&self, of: &InstanceSpec, values: &Values) -> Process {
        let mut env = of.environment(values);
        env.extend(self.env.clone());
        Process {
            command: self.command.clone(),
            env,
            workdir: self.workdir.clone().unwrap_or_else(|| of.workdir.clone()),
            user: self.user.clone().unwrap_or_else(|| of.user.clone()),
            tty: self.tty,
            stdin: self.stdin,
        }
    }
}
