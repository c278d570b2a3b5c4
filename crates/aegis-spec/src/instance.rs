//! What an instance is made of. Fixed at its creation, but for what it may reach.

use std::collections::BTreeMap;

use aegis_guest_protocol::argument::Argument;
use aegis_guest_protocol::messages::{Process, TerminalSize};
use serde::{Deserialize, Serialize};

use aegis_lifecycle::idle_policy::IdleSpec;
use aegis_lifecycle::restart_policy::RestartPolicy;

use crate::environment::Values;
use crate::error::SpecError;
use crate::image::PinnedImage;
use crate::kit::KitUse;
use crate::mount::{self, Mount};
use crate::network::{self, NetworkSpec};

/// Memory of an instance that asks for none in particular, MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 512;
/// Virtual processors of an instance that asks for none in particular.
pub const DEFAULT_VCPUS: u32 = 1;
/// Disk of an instance that asks for none in particular, MiB.
pub const DEFAULT_DISK_MIB: u64 = 10 << 10;
/// Working directory of an instance that asks for none in particular.
pub const DEFAULT_WORKDIR: &str = "/workspace";
/// User of an instance that asks for none in particular.
pub const DEFAULT_USER: &str = "root";

/// The name that stands for all secrets there are.
pub const ALL_SECRETS: &str = "*";

/// Least memory that the guest kernel and harness can live with, MiB.
pub const LEAST_MEMORY_MIB: u32 = 64;
/// Least disk that a file system fits on, MiB.
pub const LEAST_DISK_MIB: u64 = 64;
/// Largest disk, MiB.
pub const MOST_DISK_MIB: u64 = 16 << 20;
/// Most virtual processors; the guest kernel knows no more.
pub const MOST_VCPUS: u32 = 64;
/// Most bytes of command and environment together: they travel in one message.
pub const MOST_TEXT: usize = 512 << 10;

/// What an instance is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Program and arguments.
    pub command: Vec<Argument>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub vcpus: u32,
    /// Disk, MiB.
    pub disk_mib: u64,
    /// Working directory.
    pub workdir: String,
    /// User in the guest.
    pub user: String,
    /// Longest run of the command, milliseconds.
    pub timeout_ms: Option<u64>,
    /// A terminal for the command.
    pub tty: Option<TerminalSize>,
    /// Whether the command's standard input is connected.
    pub stdin: bool,
    /// Whether it belongs to one `run` and ends with it.
    pub ephemeral: bool,
    /// File name of the base root disk, which names its content; of no meaning with an image.
    pub rootfs: String,
    /// The image whose root disk it has, in place of the base.
    #[serde(default)]
    pub image: Option<PinnedImage>,
    /// Names of the secrets that its processes get, or [`ALL`](ALL_SECRETS).
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Directories of the host that it sees. Without one at `/workspace` that is a directory of its own disk.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// The kit that it was made with.
    #[serde(default)]
    pub kit: Option<KitUse>,
    /// What it may reach. The only part that may change later.
    #[serde(default)]
    pub network: NetworkSpec,
    /// When it rests.
    #[serde(default)]
    pub rest: IdleSpec,
    /// How long it may exist, milliseconds from its creation; then it is disabled for good.
    #[serde(default)]
    pub max_lifetime_ms: Option<u64>,
    /// Whether its machines always boot.
    #[serde(default)]
    pub no_template: bool,
    /// When its command is executed again.
    #[serde(default)]
    pub restart: RestartPolicy,
}

/// Checks the size of a disk, MiB.
///
/// # Errors
/// [`SpecError`].
pub fn check_disk(mib: u64) -> Result<(), SpecError> {
    if (LEAST_DISK_MIB..=MOST_DISK_MIB).contains(&mib) {
        return Ok(());
    }
    Err(SpecError(format!("disk of {mib} MiB; {LEAST_DISK_MIB} to {MOST_DISK_MIB} are possible")))
}

/// Checks a command and its surroundings.
///
/// # Errors
/// [`SpecError`].
pub fn check_process(
    command: &[Argument],
    env: &BTreeMap<String, String>,
    workdir: &str,
) -> Result<(), SpecError> {
    let fail = |text: &str| Err(SpecError(text.to_owned()));
    if command.first().is_none_or(|program| program.as_bytes().is_empty()) {
        return fail("the command is empty");
    }
    if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return fail(&format!("{name:?} is no name of an environment variable"));
    }
    let words = command.iter().map(Argument::as_bytes);
    let texts = || words.clone().chain(env.keys().chain(env.values()).map(String::as_bytes));
    if texts().any(|text| text.contains(&0)) || workdir.contains('\0') {
        return fail("command, environment and directory cannot contain NUL");
    }
    if texts().map(|text| text.len() + 1).sum::<usize>() > MOST_TEXT {
        return fail(&format!("command and environment are longer than {MOST_TEXT} bytes"));
    }
    if !workdir.starts_with('/') {
        return fail(&format!("the working directory {workdir:?} is not absolute"));
    }
    Ok(())
}

impl InstanceSpec {
    /// Checks all values, against a host with this much memory.
    ///
    /// # Errors
    /// [`SpecError`] for the first that is out of range.
    pub fn check(&self, host_memory_mib: u64) -> Result<(), SpecError> {
        check_process(&self.command, &self.env, &self.workdir)?;
        mount::check(&self.mounts)?;
        self.network.check()?;
        let fail = |text: String| Err(SpecError(text));
        if self.memory_mib < LEAST_MEMORY_MIB {
            return fail(format!(
                "memory of {} MiB is too little; the least is {LEAST_MEMORY_MIB}",
                self.memory_mib
            ));
        }
        if u64::from(self.memory_mib) > host_memory_mib {
            return fail(format!(
                "memory of {} MiB is more than the host's {host_memory_mib}",
                self.memory_mib
            ));
        }
        if self.vcpus == 0 || self.vcpus > MOST_VCPUS {
            return fail(format!("{} virtual processors; 1 to {MOST_VCPUS} are possible", self.vcpus));
        }
        check_disk(self.disk_mib)?;
        if self.timeout_ms == Some(0) || self.max_lifetime_ms == Some(0) {
            return fail("a timeout or lifetime of 0".to_owned());
        }
        if self.ephemeral && self.restart != RestartPolicy::No {
            return fail("an instance that ends with its command cannot be restarted".to_owned());
        }
        if self.user.is_empty() {
            return fail("the user is empty".to_owned());
        }
        Ok(())
    }

    /// The environment of its command: its own over its secrets over that of its kit over what its network has to say over
    /// that of its image.
    #[must_use]
    pub fn environment(&self, values: &Values) -> BTreeMap<String, String> {
        let mut env = self.image.as_ref().map(|image| image.env.clone()).unwrap_or_default();
        env.extend(values.host.clone());
        env.extend(network::trust(&self.network));
        env.extend(self.kit.iter().flat_map(|kit| kit.env.clone()));
        env.extend(values.rendered.clone());
        env.extend(values.secrets.clone());
        env.extend(self.env.clone());
        env
    }

    /// The command as the guest executes it, with what was looked up for it.
    #[must_use]
    pub fn process(&self, values: &Values) -> Process {
        Process {
            command: self.command.clone(),
            env: self.environment(values),
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            tty: self.tty,
            stdin: self.stdin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::sample;

    #[test]
    fn an_environment_is_the_images_under_the_hosts_under_secrets_under_its_own() {
        let env = |pairs: [(&str, &str); 3]| pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let image = PinnedImage {
            reference: "x".into(),
            digest: "sha256:0".into(),
            env: env([("A", "image"), ("B", "image"), ("C", "image")]),
        };
        let spec = InstanceSpec {
            image: Some(image),
            env: env([("C", "own"), ("D", "own"), ("E", "own")]),
            ..sample()
        };
        let values = Values {
            host: env([("A", "host"), ("B", "host"), ("F", "host")]),
            secrets: env([("B", "secret"), ("C", "secret"), ("D", "secret")]),
            rendered: BTreeMap::new(),
        };
        let expected =
            [("A", "host"), ("B", "secret"), ("C", "own"), ("D", "own"), ("E", "own"), ("F", "host")];
        let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(spec.process(&values).env, expected.into());
    }

    #[test]
    fn values_out_of_range_are_named() {
        assert_eq!(sample().check(1000), Ok(()));
        let refused = |change: fn(&mut InstanceSpec), word: &str| {
            let mut spec = sample();
            change(&mut spec);
            let error = spec.check(1000).unwrap_err();
            assert!(error.0.contains(word), "{error}");
        };
        refused(|spec| spec.command.clear(), "command is empty");
        refused(|spec| spec.command[0] = Argument::default(), "command is empty");
        refused(|spec| spec.memory_mib = 0, "too little");
        refused(|spec| spec.memory_mib = 1001, "more than the host");
        refused(|spec| spec.vcpus = 0, "virtual processors");
        refused(|spec| spec.disk_mib = 1, "disk of 1 MiB");
        refused(|spec| spec.workdir = "here".into(), "not absolute");
        refused(|spec| spec.timeout_ms = Some(0), "timeout");
        refused(|spec| drop(spec.env.insert("A=B".into(), String::new())), "no name");
        refused(|spec| spec.command.push("x".repeat(MOST_TEXT).into()), "longer than");
        refused(|spec| spec.command.push("\0".into()), "NUL");
    }
}
