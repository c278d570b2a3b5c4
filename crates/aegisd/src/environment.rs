//! What the daemon takes from its environment. Nothing else reads it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aegis_engine::network_choice::NetworkDefaults;
use aegis_images::Settings;
use aegis_instances::startup::Config;
use aegis_jail::Layer;

use aegis_router::Admission;
use aegis_store::home::{Home, check_trusted};
use aegis_vmm::backends::{BackendChoice, HostFacts};
use aegis_vmm::{Architecture, kvm_trial};

use crate::config;
use crate::error::DaemonError;
use crate::programs::{KRUN_WORKER, beside};
use crate::resolvers::ProxySettings;

/// The command of this program that tries the host's KVM, in a process of its own.
pub const TRY_KVM: &str = "try-kvm";

/// The environment, read once.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The home directory.
    pub home: Home,
    /// The accelerator that the user insists on (`AEGIS_ACCEL`).
    pub accelerator: Option<String>,
    /// The backend that is wanted (`AEGIS_BACKEND`, else `[machines] backend`).
    pub backend: BackendChoice,
    /// Where Firecracker is, if not in `PATH` (`AEGIS_FIRECRACKER`).
    pub firecracker: Option<PathBuf>,
    /// Where the worker of libkrun's machines is (`AEGIS_KRUN_WORKER`), if not in `PATH`; else beside the daemon.
    pub krun_worker: Option<PathBuf>,
    /// What processor the guests have (`AEGIS_GUEST_ARCH`); the host's, unless it is set.
    pub guest: Architecture,
    /// A guest program for the backend without virtualisation (`AEGIS_FAKE_GUEST`); for tests.
    pub fake_guest: Option<PathBuf>,
    /// Settings of instances.
    pub instances: Config,
    /// Where the name router listens; nowhere if absent.
    pub names: Option<SocketAddr>,
    /// Whom it serves there.
    pub admission: Admission,
    /// What instances may reach that were told nothing else.
    pub network: NetworkDefaults,
    /// The host's own proxy, through which instances reach the internet.
    pub proxy: Option<ProxySettings>,
    /// Settings of images.
    pub images: Settings,
    /// Whether the session's keyring may keep what opens the secrets.
    pub keyring: bool,
    /// Without which of these the daemon does not start.
    pub require: Vec<Layer>,
    /// The control group below which each instance gets one, if it is not the daemon's own.
    pub cgroup: Option<PathBuf>,
}

impl Environment {
    /// Reads the environment.
    ///
    /// # Errors
    /// If there is no home directory, or a value makes no sense.
    pub fn read() -> Result<Environment, DaemonError> {
        let get = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let user_home = get("HOME")
            .map(PathBuf::from)
            .ok_or_else(|| DaemonError::Environment("HOME is not set".into()))?;
        let default = user_home.join(".aegis");
        let root = get("AEGIS_HOME").map_or_else(|| default.clone(), PathBuf::from);
        let mut instances = Config::default();
        if let Some(seconds) = get("AEGIS_BOOT_TIMEOUT") {
            let seconds = seconds.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
            let seconds = seconds.ok_or_else(|| {
                DaemonError::Environment("AEGIS_BOOT_TIMEOUT is no number of seconds".into())
            })?;
            instances.machines.boot_timeout = Duration::from_secs(seconds);
        }
        let guest = get("AEGIS_GUEST_ARCH").map_or(Ok(Architecture::host()), |name| guest(&name))?;
        let home = Home::new(root, default);
        check_trusted(&home.config()).map_err(|error| DaemonError::Environment(error.to_string()))?;
        let file = config::Config::read(&home.config()).map_err(DaemonError::Environment)?;
        let backend = match get("AEGIS_BACKEND") {
            None => file.backend,
            Some(name) => name
                .to_string_lossy()
                .parse()
                .map_err(|error| DaemonError::Environment(format!("AEGIS_BACKEND: {error}")))?,
        };
        instances.idle = file.rest;
        instances.machines.template_budget = file.templates;
        instances.machines.warm_keep = file.spare;
        instances.machines.disk = file.disk;
        let text = |names: [&str; 2]| names.into_iter().find_map(|name| get(name)?.into_string().ok());
        let url = file.proxy.clone().or_else(|| text(["HTTPS_PROXY", "https_proxy"]));
        let proxy = ProxySettings::read(url.as_deref(), text(["NO_PROXY", "no_proxy"]).as_deref());
        let proxy = proxy
            .map_err(|error| DaemonError::Environment(format!("network.proxy or HTTPS_PROXY: {error}")))?;
        Ok(Environment {
            home: if guest.is_foreign() { home.with_assets_below(guest.name()) } else { home },
            guest,
            accelerator: get("AEGIS_ACCEL").and_then(|value| value.into_string().ok()),
            backend,
            firecracker: get("AEGIS_FIRECRACKER").map(PathBuf::from),
            krun_worker: get("AEGIS_KRUN_WORKER").map(PathBuf::from).or_else(|| beside(KRUN_WORKER)),
            fake_guest: get("AEGIS_FAKE_GUEST").map(PathBuf::from),
            instances,
            names: file.names,
            admission: file.admission,
            network: file.network,
            proxy,
            keyring: file.keyring,
            require: file.require,
            cgroup: file.cgroup,
            images: file.images.settings(guest.oci_name()),
        })
    }

    /// What there is to choose a backend by.
    pub(crate) fn host_facts(&self) -> HostFacts {
        let try_kvm = || {
            let program = std::env::current_exe().map_err(|error| error.to_string())?;
            let mut command = std::process::Command::new(program);
            command.arg(TRY_KVM);
            kvm_trial::in_child(command)
        };
        HostFacts {
            guest: self.guest,
            accelerator: self.accelerator.clone(),
            kvm: try_kvm(),
            firecracker: self.firecracker.clone(),
            krun_worker: self.krun_worker.clone(),
        }
    }
}

fn guest(name: &OsStr) -> Result<Architecture, DaemonError> {
    let parsed = name.to_string_lossy().parse::<Architecture>();
    parsed.map_err(|error| DaemonError::Environment(format!("AEGIS_GUEST_ARCH: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_architecture_is_named_beside_those_there_are() {
        assert_eq!(guest(OsStr::new(Architecture::host().name())).unwrap(), Architecture::host());
        let error = guest(OsStr::new("pdp11")).unwrap_err().to_string();
        let known = Architecture::ALL.map(Architecture::name).join(", ");
        assert_eq!(
            error,
            format!(
                "AEGIS_GUEST_ARCH: \"pdp11\" is no architecture that a guest can have; there are {known}"
            )
        );
    }
}
