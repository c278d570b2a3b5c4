//! Kits as this daemon uses them: what they mean for a request, what they bring to a guest, whose daemons run.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use aegis_api::instance::{CreateInstance, IdleTime, Never};
use aegis_api::network::NetworkRequest;
use aegis_api::ports::{self, Expose};
use aegis_api::{duration, size};
use aegis_instances::host_directory::kit_shelves;
use aegis_instances::kit::{Contents, KitUse, Kits};
use aegis_instances::secret::{ALL, SecretValues};
use aegis_instances::{Instances, View};
use aegis_kits::daemons::{Daemons, Owner, Plan};
use aegis_kits::manifest::{self, Broken, Manifest};
use aegis_kits::{Kit, Shelf};
use aegis_policy::{Preset, Rule};
use aegis_store::home::Home;
use aegis_store::secrets::names;
use tokio_util::sync::CancellationToken;

use crate::surroundings::StoredSecrets;

/// What a kit's daemons find programs with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The kits of this host: the user's own, those beside this program, and the system's.
#[derive(Debug, Clone)]
pub(crate) struct HostKits(Shelf);

impl HostKits {
    pub(crate) fn new(home: &Home, program: &Path) -> HostKits {
        HostKits(Shelf::new(kit_shelves(home, program.parent())))
    }

    /// All kits by name; one that means nothing to this daemon is broken too.
    pub(crate) fn all(&self) -> BTreeMap<String, Kit> {
        self.0.all().into_iter().map(|(name, kit)| (name, checked(kit))).collect()
    }

    /// A kit by name.
    pub(crate) fn find(&self, name: &str) -> Option<Kit> {
        self.0.find(name).map(checked)
    }
}

/// A kit of any path, checked.
pub(crate) fn load(path: &Path) -> Kit {
    checked(Kit::load(path))
}

fn checked(kit: Kit) -> Kit {
    let manifest = kit.manifest.and_then(|manifest| match defaults(&manifest) {
        Ok(_) => Ok(manifest),
        Err(problem) => Err(Broken(problem)),
    });
    Kit { manifest, ..kit }
}

impl Kits for HostKits {
    fn contents(&self, name: &str) -> Result<Option<Contents>, String> {
        let Some((kit, opened)) = self.0.open(name) else { return Ok(None) };
        let manifest = checked(kit).manifest.map_err(|broken| broken.to_string())?;
        let dir = opened.ok_or("its directory is gone")?;
        let file = |file: manifest::File| (PathBuf::from(file.from), file.to);
        Ok(Some(Contents {
            dir,
            files: manifest.files.into_iter().map(file).collect(),
            workspace: manifest.workspace.map(PathBuf::from),
        }))
    }

    fn rendered(&self, text: &str) -> Result<BTreeMap<String, String>, String> {
        manifest::rendered_env(text).map_err(|broken| broken.to_string())
    }
}

fn idle(text: Option<&String>) -> Result<Option<IdleTime>, String> {
    match text.map(String::as_str) {
        None => Ok(None),
        Some("never") => Ok(Some(IdleTime::Never(Never::Never))),
        Some(text) => {
            let ms = duration::parse_ms(text).map_err(|error| format!("idle: {text:?}: {error}"))?;
            Ok(Some(IdleTime::Ms(ms)))
        }
    }
}

fn mebibytes(what: &str, text: Option<&String>) -> Result<Option<u64>, String> {
    let parsed = text.map(|text| size::mebibytes(text).map_err(|error| format!("limits: {what}: {error}")));
    parsed.transpose()
}

/// The ports, the one that names reach before the other HTTP ports.
fn exposes(manifest: &Manifest) -> Result<Vec<Expose>, String> {
    let mut all = Vec::new();
    for text in &manifest.ports {
        all.extend(ports::parse(text).map_err(|error| format!("ports: {text:?}: {error}"))?);
    }
    if let Some(port) = manifest.http_port {
        let at = all.iter().position(|one| one.guest_port == port && one.protocol.is_http());
        let at = at.ok_or_else(|| format!("http_port: {port} is no HTTP port of ports"))?;
        let first = all.remove(at);
        all.insert(0, first);
    }
    Ok(all)
}

/// What it may reach.
fn network(manifest: &Manifest) -> Result<Option<NetworkRequest>, String> {
    let Some(value) = &manifest.network else { return Ok(None) };
    let told = |error: &dyn std::fmt::Display| format!("network: {error}");
    let request: NetworkRequest = serde_json::from_value(value.clone()).map_err(|error| told(&error))?;
    for rule in request.rules.iter().flatten() {
        rule.parse::<Rule>().map_err(|error| told(&error))?;
    }
    if let Some(preset) = &request.default {
        preset.parse::<Preset>().map_err(|error| told(&error))?;
    }
    Ok(Some(request))
}

/// The request that a manifest stands for.
fn defaults(manifest: &Manifest) -> Result<CreateInstance, String> {
    if let Some(problem) = manifest.secret_names().find_map(|name| names::refusal(name)) {
        return Err(format!("secrets: {problem}"));
    }
    let memory = mebibytes("memory", manifest.limits.memory.as_ref())?;
    let memory = memory.map(u32::try_from).transpose().map_err(|_| "limits: memory is too large")?;
    Ok(CreateInstance {
        command: manifest.command.clone(),
        image: manifest.image.clone(),
        workdir: manifest.workdir.clone(),
        user: manifest.user.clone(),
        exposes: exposes(manifest)?,
        memory_mb: memory,
        vcpus: manifest.limits.cpus,
        disk_mb: mebibytes("disk", manifest.limits.disk.as_ref())?,
        idle_pause_ms: idle(manifest.idle.pause.as_ref())?,
        idle_hibernate_ms: idle(manifest.idle.hibernate.as_ref())?,
        idle_stop_ms: idle(manifest.idle.stop.as_ref())?,
        idle_connections_after_ms: idle(manifest.idle.connections_after.as_ref())?,
        network: network(manifest)?,
        ..CreateInstance::default()
    })
}

/// Fills in what a request leaves to its kit.
///
/// # Errors
/// What the kit wants and the request does not give, as a sentence.
pub(crate) fn apply(
    manifest: &Manifest,
    request: CreateInstance,
) -> Result<(CreateInstance, KitUse), String> {
    let given = |name: &String| request.secrets.iter().any(|secret| secret == name || secret == ALL);
    if let Some(name) = manifest.secrets.required.iter().find(|name| !given(name)) {
        return Err(format!("kit {} needs the secret {name}", manifest.name));
    }
    let kit = defaults(manifest)?;
    let or = |own: Vec<_>, kits: Vec<_>| if own.is_empty() { kits } else { own };
    let filled = CreateInstance {
        // The instance's own may be in the other form.
        command: if request.command_base64.is_empty() {
            or(request.command, kit.command)
        } else {
            request.command
        },
        exposes: if request.exposes.is_empty() { kit.exposes } else { request.exposes },
        image: request.image.or(kit.image),
        workdir: request.workdir.or(kit.workdir),
        user: request.user.or(kit.user),
        network: request.network.or(kit.network),
        memory_mb: request.memory_mb.or(kit.memory_mb),
        vcpus: request.vcpus.or(kit.vcpus),
        disk_mb: request.disk_mb.or(kit.disk_mb),
        idle_pause_ms: request.idle_pause_ms.or(kit.idle_pause_ms),
        idle_hibernate_ms: request.idle_hibernate_ms.or(kit.idle_hibernate_ms),
        idle_stop_ms: request.idle_stop_ms.or(kit.idle_stop_ms),
        idle_connections_after_ms: request.idle_connections_after_ms.or(kit.idle_connections_after_ms),
        ..request
    };
    let used = KitUse {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        env: manifest.env.clone(),
        validate_config: manifest.hooks.validate_config.clone(),
        render_env: manifest.hooks.render_env.clone(),
    };
    Ok((filled, used))
}

/// What the daemons of kits are made of.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) kits: HostKits,
    pub(crate) secrets: std::sync::Arc<StoredSecrets>,
    pub(crate) home: Home,
}

impl Supervisor {
    /// Keeps the daemons of all enabled instances running, until it is over.
    pub(crate) async fn run(self, instances: Instances, over: CancellationToken) {
        let mut daemons = Daemons::default();
        // Changes say who is to have daemons; at events kits and secrets are looked at again.
        let (mut changes, mut events) = (instances.enabled_changes(), instances.newest_event());
        loop {
            changes.borrow_and_update();
            events.borrow_and_update();
            daemons.reconcile(self.wanted(&instances.list())).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                changed = events.changed() => if changed.is_err() { break },
                () = over.cancelled() => break,
            }
        }
        daemons.end_all().await;
    }

    fn wanted(&self, views: &[std::sync::Arc<View>]) -> HashMap<Owner, Plan> {
        let mut all = HashMap::new();
        for view in views.iter().filter(|view| view.enabled) {
            let Some(kit) = view.spec.kit.as_ref().and_then(|kit| self.kits.find(&kit.name)) else {
                continue;
            };
            let Ok(manifest) = &kit.manifest else { continue };
            for daemon in &manifest.instance_daemons {
                let owner = Owner { instance: view.id.clone(), daemon: daemon.name.clone() };
                all.insert(owner, self.plan(view, &kit, daemon));
            }
        }
        all
    }

    fn plan(&self, view: &View, kit: &Kit, daemon: &manifest::Daemon) -> Plan {
        let given = |name: &&String| view.spec.secrets.iter().any(|secret| secret == *name || secret == ALL);
        let names: Vec<String> = daemon.secrets.iter().filter(given).cloned().collect();
        let mut env = self.secrets.values(&names).unwrap_or_else(|error| {
            tracing::warn!(
                id = view.id,
                daemon = daemon.name,
                error,
                "a kit's daemon goes without its secrets"
            );
            BTreeMap::new()
        });
        env.insert("AEGIS_INSTANCE".to_owned(), view.name().to_owned());
        env.insert("AEGIS_SOCKET".to_owned(), self.home.socket().display().to_string());
        env.insert("PATH".to_owned(), PATH.to_owned());
        let log = self.home.log_dir(&view.id).join(format!("daemon-{}.log", daemon.name));
        Plan { command: daemon.command.clone(), dir: kit.dir.clone(), env, log }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aegis_kits::manifest::Format;

    fn manifest(more: &str) -> Manifest {
        let text = format!(
            "name = \"k\"\ncommand = [\"serve\"]\nimage = \"i\"\nports = [\"9/tcp\", \"80\", \"81\"]\n{more}"
        );
        Manifest::parse(&text, Format::Toml).unwrap()
    }

    #[test]
    fn what_the_user_says_wins_over_the_kit() {
        let more = "http_port = 81\n[limits]\nmemory = \"1g\"\ncpus = 2\n[idle]\npause = \"never\"";
        let (bare, _) = apply(&manifest(more), CreateInstance::default()).unwrap();
        assert_eq!(
            (bare.command, bare.memory_mb, bare.vcpus),
            (vec!["serve".to_owned()], Some(1024), Some(2))
        );
        assert_eq!(bare.exposes.iter().map(|one| one.guest_port).collect::<Vec<_>>(), [81, 9, 80]);
        assert_eq!(bare.idle_pause_ms, Some(IdleTime::Never(Never::Never)));
        let own = CreateInstance {
            command: vec!["own".into()],
            memory_mb: Some(64),
            image: Some("mine".into()),
            exposes: ports::parse("7").unwrap(),
            ..CreateInstance::default()
        };
        let (filled, _) = apply(&manifest(more), own.clone()).unwrap();
        assert_eq!(filled, CreateInstance { vcpus: Some(2), idle_pause_ms: bare.idle_pause_ms, ..own });
    }

    #[test]
    fn a_required_secret_has_to_be_given() {
        let kit = manifest("[secrets]\nrequired = [\"KEY\"]");
        assert!(apply(&kit, CreateInstance::default()).unwrap_err().contains("KEY"));
        for name in ["KEY", ALL] {
            let given = CreateInstance { secrets: vec![name.to_owned()], ..CreateInstance::default() };
            assert!(apply(&kit, given).is_ok());
        }
    }

    #[test]
    fn what_means_nothing_is_told() {
        for (more, words) in [
            ("http_port = 9", "http_port"),
            ("[limits]\nmemory = \"much\"", "memory"),
            ("[idle]\nstop = \"soon\"", "idle"),
            ("[secrets]\noptional = [\"LD_PRELOAD\"]", "secrets"),
        ] {
            assert!(defaults(&manifest(more)).unwrap_err().contains(words), "{more}");
        }
    }
}
