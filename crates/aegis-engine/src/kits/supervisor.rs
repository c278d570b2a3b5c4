//! The daemons that kits have on the host, one set for each enabled instance.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aegis_instances::instances::Instances;
use aegis_instances::view::View;
use aegis_kits::Kit;
use aegis_kits::daemons::{Daemons, Owner, Plan};
use aegis_kits::manifest;
use aegis_machines::secret_values::SecretValues;
use aegis_spec::instance::ALL_SECRETS;
use aegis_store::home::Home;
use tokio_util::sync::CancellationToken;

use crate::kits::host_kits::HostKits;
use crate::services::StoredSecrets;

/// What a kit's daemons find programs with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the daemons of kits are made of.
#[derive(Debug)]
pub struct Supervisor {
    /// The kits.
    pub kits: HostKits,
    /// What their daemons get.
    pub secrets: Arc<StoredSecrets>,
    /// Where the API and the logs are.
    pub home: Home,
}

impl Supervisor {
    /// Keeps the daemons of all enabled instances running, until it is over.
    pub async fn run(self, instances: Instances, over: CancellationToken) {
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

    fn wanted(&self, views: &[Arc<View>]) -> HashMap<Owner, Plan> {
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
        let given =
            |name: &&String| view.spec.secrets.iter().any(|secret| secret == *name || secret == ALL_SECRETS);
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
