//! The helper processes of machines: the server of their files, and their gateway.

use std::path::PathBuf;
use std::sync::Arc;

use aegis_lifecycle::stop_reason::StopReason;
use aegis_spec::instance::InstanceSpec;
use aegis_store::home::Home;
use aegis_vmm::Machine;
use tokio::task::JoinHandle;

use crate::boot_order::BootOrder;
use crate::file_server::FileServer;
use crate::machine_run::MachineRun;
use crate::network::gateway_process::{GatewayConfig, GatewayProcess};
use crate::reporter::Reporter;

/// Starts and adopts the helpers of machines. Clones are the same.
#[derive(Debug, Clone)]
pub struct Helpers {
    /// Where everything is kept.
    pub home: Home,
    /// Program that serves files of the host to a guest, as `PROGRAM serve-files`.
    pub file_server: PathBuf,
    /// The gateways; `None` if machines have no network interface.
    pub gateway: Option<GatewayConfig>,
}

impl Helpers {
    fn file_server(&self, id: &str, spec: &InstanceSpec, owner: Option<Reporter>) -> Option<FileServer> {
        FileServer::new(&self.file_server, &self.home, id, &spec.mounts, owner)
    }

    fn gateway(&self, id: &str, spec: &InstanceSpec, reporter: &Reporter) -> Option<GatewayProcess> {
        let config = self.gateway.as_ref()?;
        let run_dir = self.home.run_dir_path(id);
        Some(GatewayProcess::new(config, id, &run_dir, &spec.network, reporter.clone()))
    }

    /// Starts what a machine that has just been made needs beside it.
    ///
    /// # Errors
    /// If a helper cannot be started. What was started ends with the machine.
    pub async fn start(&self, order: &BootOrder, machine: &Arc<dyn Machine>) -> Result<(), StopReason> {
        let run = &order.run;
        if let Some(server) = self.file_server(&order.id, &order.spec, Some(run.reporter().clone())) {
            run.keep_files(server.start(machine).await?);
        }
        if let Some(gateway) = self.gateway(&order.id, &order.spec, run.reporter()) {
            run.keep_gateway(gateway.start(machine).await?);
        }
        Ok(())
    }

    /// Starts the server of files alone, for a machine that belongs to no run. Returns the task that looks after it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start_file_server(
        &self,
        id: &str,
        spec: &InstanceSpec,
        machine: &Arc<dyn Machine>,
    ) -> Result<Option<JoinHandle<()>>, StopReason> {
        match self.file_server(id, spec, None) {
            Some(server) => server.start(machine).await.map(Some),
            None => Ok(None),
        }
    }

    /// Takes over the helpers of a machine that an earlier daemon started.
    pub fn adopt(&self, id: &str, spec: &InstanceSpec, run: &MachineRun, machine: &Arc<dyn Machine>) {
        if let Some(server) = self.file_server(id, spec, Some(run.reporter().clone())) {
            run.keep_files(server.adopt(machine));
        }
        if let Some(gateway) = self.gateway(id, spec, run.reporter()) {
            run.keep_gateway(gateway.adopt(machine));
        }
    }
}
