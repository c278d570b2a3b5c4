//! `$AEGIS_HOME/config.toml`: the daemon's defaults. Without it everything is as documented.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aegis_api::{duration, size};
use aegis_engine::network_choice::NetworkDefaults;
use aegis_images::{RegistrySettings, Settings};
use aegis_jail::Layer;
use aegis_lifecycle::idle_policy::After;
use aegis_lifecycle::idle_policy::IdleDefaults;
use aegis_machines::checkpoint::template_store;
use aegis_machines::disk_space::DiskSettings;
use aegis_machines::warm_pool;
use aegis_policy::{Policy, Preset, Rule};
use aegis_router::Admission;
use aegis_vmm::backends::BackendChoice;
use serde::Deserialize;

/// Where the name router listens, unless set otherwise.
const DEFAULT_LISTEN: &str = "127.0.0.1:8099";
/// Longest file, bytes.
const MAX_FILE: u64 = 1 << 20;

/// Settings of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// When instances rest that were told nothing else.
    pub rest: IdleDefaults,
    /// Where the name router listens; nowhere if absent.
    pub names: Option<SocketAddr>,
    /// Whom it serves there.
    pub admission: Admission,
    /// Registries, proxy and limits of images.
    pub images: ImageConfig,
    /// What instances may reach that were told nothing else.
    pub network: NetworkDefaults,
    /// The proxy through which instances reach the internet; without it `HTTPS_PROXY` of the daemon counts.
    pub proxy: Option<String>,
    /// Whether the session's keyring may keep what opens the secrets.
    pub keyring: bool,
    /// Most that templates take on disk, bytes.
    pub templates: u64,
    /// How long a spare machine waits after the last start.
    pub spare: Duration,
    /// Without which of these the daemon does not start.
    pub require: Vec<Layer>,
    /// The control group below which each instance gets one; that of the daemon, if it is delegated, unless set.
    pub cgroup: Option<PathBuf>,
    /// What is kept free on the host's disk.
    pub disk: DiskSettings,
    /// Which backend makes machines.
    pub backend: BackendChoice,
}

/// What the file says of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    registries: BTreeMap<String, RegistrySettings>,
    proxy: Option<String>,
    disk_budget: Option<u64>,
    max_unpacked: Option<u64>,
}

impl ImageConfig {
    /// The settings, for images of this processor.
    pub(crate) fn settings(self, architecture: &str) -> Settings {
        let mut settings = Settings::for_architecture(architecture);
        settings.registries = self.registries;
        settings.proxy = self.proxy;
        settings.disk_budget = self.disk_budget.unwrap_or(settings.disk_budget);
        settings.limits.max_data_bytes = self.max_unpacked.unwrap_or(settings.limits.max_data_bytes);
        settings
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    idle: Idle,
    router: Router,
    images: ImageFile,
    secrets: SecretFile,
    network: NetworkFile,
    templates: TemplateFile,
    confinement: Confinement,
    disk: Disk,
    machines: Machines,
    registry: BTreeMap<String, Registry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Disk {
    floor: Option<String>,
    overcommit: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Machines {
    backend: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Confinement {
    require: Vec<Layer>,
    cgroup: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NetworkFile {
    default: Preset,
    rules: Vec<Rule>,
    proxy: Option<String>,
    trust_host_cas: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TemplateFile {
    budget: Option<String>,
    spare: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SecretFile {
    keyring: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ImageFile {
    proxy: Option<String>,
    disk_budget: Option<String>,
    max_unpacked: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Registry {
    plain_http: bool,
    ca: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Idle {
    pause: Option<String>,
    hibernate: Option<String>,
    stop: Option<String>,
    connections_after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Router {
    listen: Option<String>,
    names: Vec<String>,
    token: Option<String>,
}

fn after(name: &str, text: Option<&str>, default: After) -> Result<After, String> {
    match text {
        None => Ok(default),
        Some("never") => Ok(After::Never),
        Some(text) => {
            let parsed = duration::parse_ms(text).map(After::Ms);
            parsed.map_err(|error| format!("idle.{name} = {text:?}: {error}, or never"))
        }
    }
}

fn bytes(name: &str, text: Option<&str>) -> Result<Option<u64>, String> {
    let parse = |text: &str| {
        let parsed = size::mebibytes(text).map(|mebibytes| mebibytes.saturating_mul(1 << 20));
        parsed.map_err(|error| format!("{name} = {text:?}: {error}"))
    };
    text.map(parse).transpose()
}

impl Config {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// A sentence that names the file, and what in it makes no sense.
    pub fn read(path: &Path) -> Result<Config, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(told(&error)),
            Ok(found) if found.len() > MAX_FILE => return Err(told(&"longer than 1 MiB")),
            Ok(_) => std::fs::read_to_string(path).map_err(|error| told(&error))?,
        };
        Config::parse(&text).map_err(|error| told(&error))
    }

    fn parse(text: &str) -> Result<Config, String> {
        let File { idle, router, images, secrets, network, templates, confinement, disk, machines, registry } =
            toml::from_str(text).map_err(|error| error.to_string())?;
        let defaults = IdleDefaults::default();
        let rest = IdleDefaults {
            pause: after("pause", idle.pause.as_deref(), defaults.pause)?,
            hibernate: after("hibernate", idle.hibernate.as_deref(), defaults.hibernate)?,
            stop: after("stop", idle.stop.as_deref(), defaults.stop)?,
            connections: after("connections_after", idle.connections_after.as_deref(), defaults.connections)?,
        };
        let names = match router.listen.as_deref().unwrap_or(DEFAULT_LISTEN) {
            "off" => None,
            text => Some(text.parse().map_err(|_| {
                format!("router.listen = {text:?}: expected ADDRESS:PORT, e.g. {DEFAULT_LISTEN}, or off")
            })?),
        };
        let admission =
            Admission::new(&router.names, router.token).map_err(|error| format!("router: {error}"))?;
        let registries = registry.into_iter().map(|(name, Registry { plain_http, ca })| match &ca {
            Some(path) if !path.is_absolute() => Err(format!("registry.{name:?}.ca is no absolute path")),
            _ => Ok((name, RegistrySettings { plain_http, ca })),
        });
        let images = ImageConfig {
            registries: registries.collect::<Result<_, _>>()?,
            proxy: images.proxy,
            disk_budget: bytes("images.disk_budget", images.disk_budget.as_deref())?,
            max_unpacked: bytes("images.max_unpacked", images.max_unpacked.as_deref())?,
        };
        let NetworkFile { default, rules, proxy, trust_host_cas } = network;
        let policy = Policy { default, rules };
        policy.check().map_err(|error| format!("network: {error}"))?;
        let network = NetworkDefaults { policy, trust_host_cas };
        let backend = machines.backend.map_or(Ok(BackendChoice::Auto), |name| name.parse());
        let budget = match templates.budget.as_deref() {
            Some("off") => Some(0),
            text => bytes("templates.budget", text)?,
        };
        let spare = match templates.spare.as_deref() {
            None => warm_pool::DEFAULT_KEEP,
            Some("off") => Duration::ZERO,
            Some(text) => duration::parse_ms(text)
                .map(Duration::from_millis)
                .map_err(|error| format!("templates.spare = {text:?}: {error}, or off"))?,
        };
        Ok(Config {
            rest,
            names,
            admission,
            images,
            network,
            proxy,
            keyring: secrets.keyring.unwrap_or(true),
            templates: budget.unwrap_or(template_store::DEFAULT_BUDGET),
            spare,
            require: confinement.require,
            cgroup: confinement.cgroup,
            disk: DiskSettings {
                floor: bytes("disk.floor", disk.floor.as_deref())?,
                overcommit: disk.overcommit,
            },
            backend: backend.map_err(|error| format!("machines.backend: {error}"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_set_means_what_the_documents_say() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.rest, IdleDefaults::default());
        assert_eq!(config.names.unwrap().to_string(), DEFAULT_LISTEN);
        assert_eq!(config.templates, 2 << 30);
        assert_eq!(config.spare, warm_pool::DEFAULT_KEEP);
        assert_eq!(config.disk, DiskSettings { floor: None, overcommit: false });
        let without = Config::parse("[templates]\nbudget = \"off\"\nspare = \"off\"").unwrap();
        assert_eq!((without.templates, without.spare), (0, Duration::ZERO));
        assert_eq!(Config::read(Path::new("/nonexistent/config.toml")).unwrap(), config);
    }

    #[test]
    fn everything_can_be_set() {
        let text = "[idle]\npause = \"5s\"\nhibernate = \"1m\"\nstop = \"never\"\nconnections_after = \"1h\"\n[router]\nlisten = \"off\"\nnames = [\"sandbox.example\"]\ntoken = \"0123456789abcdef\"\n[secrets]\nkeyring = false\n\
            [templates]\nbudget = \"1g\"\nspare = \"1h\"\n[confinement]\nrequire = [\"seccomp\", \"landlock\", \"namespaces\", \"cgroup\"]\ncgroup = \"/sys/fs/cgroup/aegis\"\n[disk]\nfloor = \"1g\"\novercommit = true\n[machines]\nbackend = \"firecracker\"\n[network]\nproxy = \"http://proxy:3128\"\ndefault = \"none\"\ntrust_host_cas = true\nrules = [\"allow *.example.org:443\"]";
        let config = Config::parse(text).unwrap();
        let rest = IdleDefaults {
            pause: After::Ms(5000),
            hibernate: After::Ms(60_000),
            stop: After::Never,
            connections: After::Ms(3_600_000),
        };
        let policy = Policy {
            default: aegis_policy::Preset::None,
            rules: vec!["allow *.example.org:443".parse().unwrap()],
        };
        let network = NetworkDefaults { policy, trust_host_cas: true };
        assert_eq!(
            config,
            Config {
                rest,
                names: None,
                admission: Admission::new(&["sandbox.example".into()], Some("0123456789abcdef".into()))
                    .unwrap(),
                images: ImageConfig::default(),
                network,
                proxy: Some("http://proxy:3128".into()),
                keyring: false,
                templates: 1 << 30,
                spare: Duration::from_secs(3600),
                require: Layer::ALL.to_vec(),
                cgroup: Some("/sys/fs/cgroup/aegis".into()),
                disk: DiskSettings { floor: Some(1 << 30), overcommit: true },
                backend: BackendChoice::Firecracker,
            }
        );
    }

    #[test]
    fn registries_are_configured_one_by_one() {
        let text = "[images]\ndisk_budget = \"2g\"\nmax_unpacked = \"512m\"\nproxy = \"http://proxy:3128\"\n\
            [registry.\"localhost:5000\"]\nplain_http = true\n[registry.\"r.example\"]\nca = \"/ca.pem\"";
        let settings = Config::parse(text).unwrap().images.settings("amd64");
        assert_eq!((settings.disk_budget, settings.limits.max_data_bytes), (2 << 30, 512 << 20));
        assert_eq!(settings.proxy.as_deref(), Some("http://proxy:3128"));
        assert!(settings.registries["localhost:5000"].plain_http);
        assert_eq!(settings.registries["r.example"].ca.as_deref(), Some(Path::new("/ca.pem")));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, words) in [
            ("[idle]\npause = \"soon\"", "idle.pause = \"soon\""),
            ("[machines]\nbackend = \"xen\"", "machines.backend: \"xen\" is no backend"),
            ("[idle]\npaws = \"1s\"", "paws"),
            ("[router]\nlisten = \"8099\"", "ADDRESS:PORT"),
            ("[router]\nnames = [\"http://a\"]", "router: \"http://a\""),
            ("[router]\ntoken = \"short\"", "router: a token"),
            ("idle = 3", "idle"),
            ("[confinement]\nrequire = [\"magic\"]", "magic"),
            ("[disk]\nfloor = \"low\"", "disk.floor"),
            ("[images]\ndisk_budget = \"much\"", "images.disk_budget"),
            ("[network]\nrules = [\"allow 1.2.3.4.5\"]", "1.2.3.4.5"),
            ("[registry.\"x\"]\nca = \"ca.pem\"", "absolute"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(\\[(idle|router)\\]\n)?(pause|stop|listen)? ?= ?.{0,20}") {
            drop(Config::parse(&text));
        }
    }
}
