//! Executing a process in an instance that may be stopped.

use std::sync::Arc;

use aegis_lifecycle::event::State;
use aegis_lifecycle::idle_policy::User;
use aegis_machines::disk_lock::DiskGuard;
use aegis_machines::maintenance::{MaintenanceMachine, StoppedInstance, available};
use aegis_machines::session::Session;
use aegis_spec::exec::ExecSpec;
use aegis_spec::instance::check_process;

use crate::error::InstanceError;
use crate::handle::{ExecHandle, InstanceHandle};
use crate::instances::Instances;
use crate::usage::MOST_CONNECTIONS;
use crate::view::View;

impl Instances {
    /// Executes a process in an instance, as [`InstanceHandle::exec`] does; if it is stopped and not disabled, in a
    /// machine that does not execute its command and lasts as long as the [`MaintenanceMachine`].
    ///
    /// # Errors
    /// As of `exec`; [`InstanceError::Disabled`].
    pub async fn exec_at_rest(
        &self,
        instance: &InstanceHandle,
        exec: &ExecSpec,
    ) -> Result<(ExecHandle, Arc<Session>, Option<MaintenanceMachine>), InstanceError> {
        loop {
            match instance.exec(exec).await {
                Ok((process, session)) => return Ok((process, session, None)),
                Err(InstanceError::Stopped) => {}
                Err(error) => return Err(error),
            }
            let mut view = instance.watch();
            if !view.borrow().enabled {
                return Err(InstanceError::Disabled);
            }
            // It may be on its way there, and its disk another one's business.
            let at_rest = |view: &View| match view.state {
                State::Stopped => !view.replacing,
                _ => view.reason.is_none(),
            };
            view.wait_for(|view| at_rest(view)).await.map_err(|_| InstanceError::Removed)?;
            let disk = instance.disk();
            let guard = tokio::select! {
                biased;
                guard = disk.acquire() => guard,
                _ = view.wait_for(|view| view.state != State::Stopped) => continue,
            };
            let now = instance.view();
            if now.state == State::Stopped && now.enabled && !now.replacing {
                return self.exec_in_maintenance(instance, &now, exec, guard).await;
            }
        }
    }

    async fn exec_in_maintenance(
        &self,
        instance: &InstanceHandle,
        view: &View,
        exec: &ExecSpec,
        guard: DiskGuard,
    ) -> Result<(ExecHandle, Arc<Session>, Option<MaintenanceMachine>), InstanceError> {
        let process = exec.process(&view.spec, &instance.values(&view.spec)?);
        let (spec, process) = available(self.machines().home(), &view.spec, process);
        check_process(&process.command, &process.env, &process.workdir)?;
        let usage = instance.usage().enter(User::Exec);
        let usage = usage.ok_or(InstanceError::TooManyConnections(MOST_CONNECTIONS))?;
        let of = StoppedInstance { id: view.id.clone(), hostname: view.name().to_owned(), spec };
        let removed = instance.disk().removed().clone();
        let started = self.machines().maintenance().start(of, guard, removed).await;
        let (session, machine) = started.map_err(InstanceError::Failed)?;
        let process = session.exec(process).await?;
        Ok((ExecHandle::new(process, Some(usage)), session, Some(machine)))
    }
}
