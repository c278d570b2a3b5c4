//! Workspaces and directories of the host, for instances that name them.

use std::path::PathBuf;

use aegis_instances::view::View;
use aegis_spec::mount::{Mount, Source};
use aegis_store::workspaces::{Claim, WorkspaceError};

use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Names of the instances that see a workspace.
    #[must_use]
    pub fn workspace_users(&self, name: &str) -> Vec<String> {
        let sees = |view: &View| {
            view.spec.mounts.iter().any(|mount| matches!(&mount.source, Source::Named(one) if one == name))
        };
        let views = self.instances().list();
        views.iter().filter(|view| sees(view)).map(|view| view.name().to_owned()).collect()
    }

    /// Removes a workspace with all that is in it, unless an instance sees it, running or not. Blocks.
    ///
    /// # Errors
    /// If there is none, it is in use, or cannot be removed.
    pub fn remove_workspace(&self, name: &str) -> Result<(), WorkspaceError> {
        self.workspaces().remove(name, || self.workspace_users(name).pop())
    }

    /// Makes the workspaces that are named, and notes which directories the paths lead to. In those that were `followed` the
    /// client followed symbolic links to them. What is claimed is not removed as long as the claims are held.
    ///
    /// # Errors
    /// If one of them cannot be had, or may not be shown to an instance.
    pub fn claim_directories(
        &self,
        mounts: &mut [Mount],
        followed: &[PathBuf],
    ) -> Result<Vec<Claim>, EngineError> {
        let instances = self.instances();
        let mut claims = Vec::new();
        for mount in mounts.iter_mut() {
            match &mount.source {
                Source::Named(name) => claims.push(self.workspaces().claim(name)?),
                Source::Path(path) => mount.identity = Some(instances.name_directory(path)?),
            }
        }
        // One of them may be in another one that is named with it.
        instances.note_writable(mounts);
        followed.iter().try_for_each(|dir| instances.check_followed(dir))?;
        Ok(claims)
    }
}
