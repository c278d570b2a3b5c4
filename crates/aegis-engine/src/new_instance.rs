//! What somebody asks for who wants an instance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use aegis_guest_protocol::argument::Argument;
use aegis_guest_protocol::messages::TerminalSize;
use aegis_instances::ports::PortRequest;
use aegis_lifecycle::idle_policy::IdleSpec;
use aegis_lifecycle::restart_policy::RestartPolicy;
use aegis_spec::image::PinnedImage;
use aegis_spec::instance::{
    ALL_SECRETS, DEFAULT_DISK_MIB, DEFAULT_MEMORY_MIB, DEFAULT_USER, DEFAULT_VCPUS, DEFAULT_WORKDIR,
    InstanceSpec,
};
use aegis_spec::kit::KitUse;
use aegis_spec::mount::Mount;
use aegis_store::secrets::names;

use crate::error::EngineError;
use crate::network_choice::{NetworkChoice, NetworkDefaults};

/// When an image is asked for at its registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// If it is not on this host.
    #[default]
    Missing,
    /// Each time: a tag may have moved on.
    Always,
    /// Not at all.
    Never,
}

/// An instance as it is asked for. What is absent is as its kit, or else the defaults, say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewInstance {
    /// Its handle.
    pub handle: Option<String>,
    /// Program and arguments.
    pub command: Vec<Argument>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Memory, MiB.
    pub memory_mib: Option<u32>,
    /// Virtual processors.
    pub vcpus: Option<u32>,
    /// Disk, MiB.
    pub disk_mib: Option<u64>,
    /// Working directory.
    pub workdir: Option<String>,
    /// User in the guest.
    pub user: Option<String>,
    /// Longest run of the command, milliseconds.
    pub timeout_ms: Option<u64>,
    /// How long it may exist, milliseconds.
    pub max_lifetime_ms: Option<u64>,
    /// Whether its machines always boot.
    pub no_template: bool,
    /// A terminal for the command.
    pub tty: Option<TerminalSize>,
    /// Whether the command's standard input is connected.
    pub stdin: bool,
    /// Whether it belongs to one `run` and ends with it.
    pub ephemeral: bool,
    /// Name of its image.
    pub image: Option<String>,
    /// When that is asked for at its registry.
    pub pull: Option<PullPolicy>,
    /// Whether its commands go without the image's environment.
    pub no_image_env: bool,
    /// Names of its secrets.
    pub secrets: Vec<String>,
    /// Directories of the host that it sees.
    pub mounts: Vec<Mount>,
    /// Directories of the host in which symbolic links were followed to those.
    pub followed: Vec<PathBuf>,
    /// Name of its kit.
    pub kit: Option<String>,
    /// What it may reach.
    pub network: Option<NetworkChoice>,
    /// When it sleeps.
    pub idle: IdleSpec,
    /// When its command is executed again.
    pub restart: Option<RestartPolicy>,
    /// Ports of it that are reachable from the host.
    pub ports: Vec<PortRequest>,
}

impl NewInstance {
    /// The same name with nothing else said.
    fn bare(&self) -> NewInstance {
        NewInstance { handle: self.handle.clone(), ..NewInstance::default() }
    }

    /// Whether it names nothing but an existing instance's handle.
    #[must_use]
    pub fn names_only(&self) -> bool {
        *self == self.bare()
    }

    /// Whether it names nothing but an existing instance's handle and the size of a disk.
    #[must_use]
    pub fn names_disk(&self) -> bool {
        self.disk_mib.is_some() && *self == NewInstance { disk_mib: self.disk_mib, ..self.bare() }
    }

    /// Whether it names nothing but an existing instance's handle and directories.
    #[must_use]
    pub fn names_directories(&self) -> bool {
        let (mounts, followed) = (self.mounts.clone(), self.followed.clone());
        *self == NewInstance { mounts, followed, ..self.bare() }
    }

    /// The specification that it comes to, with everything absent filled in.
    ///
    /// # Errors
    /// [`EngineError::Invalid`].
    pub fn spec(
        &self,
        rootfs: String,
        image: Option<PinnedImage>,
        kit: Option<KitUse>,
        defaults: &NetworkDefaults,
    ) -> Result<InstanceSpec, EngineError> {
        Ok(InstanceSpec {
            command: self.command.clone(),
            env: self.env.clone(),
            memory_mib: self.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB),
            vcpus: processors(self.vcpus)?,
            disk_mib: self.disk_mib.unwrap_or(DEFAULT_DISK_MIB),
            workdir: self.workdir.clone().unwrap_or_else(|| DEFAULT_WORKDIR.to_owned()),
            user: self.user.clone().unwrap_or_else(|| DEFAULT_USER.to_owned()),
            timeout_ms: self.timeout_ms,
            max_lifetime_ms: self.max_lifetime_ms,
            no_template: self.no_template,
            tty: self.tty,
            stdin: self.stdin,
            ephemeral: self.ephemeral,
            rootfs,
            image,
            secrets: secret_names(&self.secrets)?,
            mounts: self.mounts.clone(),
            kit,
            network: defaults.spec(self.network.as_ref()),
            rest: self.idle,
            restart: self.restart.unwrap_or(RestartPolicy::No),
        })
    }
}

/// The virtual processors that are asked for. A guest with more than the host has waits for itself, and does not come up in
/// time.
fn processors(wanted: Option<u32>) -> Result<u32, EngineError> {
    /// As many as every host can stand.
    const FEW: u32 = 2;
    let of_host = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = u32::try_from(of_host).unwrap_or(u32::MAX).max(FEW);
    match wanted {
        None => Ok(DEFAULT_VCPUS),
        Some(wanted) if wanted > most => Err(EngineError::Invalid(format!(
            "{wanted} virtual processors; this host has {of_host} processors, and {most} are possible"
        ))),
        Some(wanted) => Ok(wanted),
    }
}

/// Each name once; all of them are one name.
fn secret_names(wanted: &[String]) -> Result<Vec<String>, EngineError> {
    if wanted.iter().any(|name| name == ALL_SECRETS) {
        return Ok(vec![ALL_SECRETS.to_owned()]);
    }
    if let Some(refusal) = wanted.iter().find_map(|name| names::refusal(name)) {
        return Err(EngineError::Invalid(refusal));
    }
    Ok(wanted.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect())
}
