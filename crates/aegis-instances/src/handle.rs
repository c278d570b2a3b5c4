//! One instance, as others reach it: what it is asked, and what is seen of it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aegis_store::logs::LogReader;
use aegis_vmm::Resources;
use tokio::sync::{oneshot, watch};

use aegis_guest_link::GuestStream;
use aegis_guest_protocol::messages::{DiskUsage, DiskUsageReply, ExitStatus};
use aegis_lifecycle::event::{Request, State};
use aegis_lifecycle::idle_policy::{Lease, User};
use aegis_machines::disk_lock::DiskLock;
use aegis_machines::machine_run::MachineRun;
use aegis_machines::output::{Attachment, ClientCount, Output};
use aegis_machines::session::{GuestProcess, Session};
use aegis_paths::Identity;
use aegis_spec::environment::Values;
use aegis_spec::exec::ExecSpec;
use aegis_spec::instance::{InstanceSpec, check_process};

use crate::error::InstanceError;
use crate::message::{InstanceRef, Message, Replacement};
use crate::metrics::Metrics;
use crate::ports::PortRequest;
use crate::spec_update::Revision;
use crate::usage::{MOST_CONNECTIONS, Usage, UsageGuard};
use crate::view::View;

/// How long an `exec` waits for an instance that is starting.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a guest may take to say how full its disk is.
const USAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// A process that runs beside an instance's command.
#[derive(Debug)]
pub struct ExecHandle {
    /// Its number.
    pub exec_id: u64,
    /// Its standard input and output; shared, because both directions are served at once.
    pub io: Arc<GuestStream>,
    /// Its standard error.
    pub err: GuestStream,
    /// How it ended, once it has.
    pub exited: oneshot::Receiver<ExitStatus>,
    /// Keeps the instance awake meanwhile, unless it is detached.
    pub usage: Option<UsageGuard>,
}

impl ExecHandle {
    pub(crate) fn new(process: GuestProcess, usage: Option<UsageGuard>) -> ExecHandle {
        let GuestProcess { exec_id, io, err, exited } = process;
        ExecHandle { exec_id, io, err, exited, usage }
    }
}

/// One instance, found.
#[derive(Debug, Clone)]
pub struct InstanceHandle {
    reference: InstanceRef,
}

impl InstanceHandle {
    pub(crate) fn new(reference: InstanceRef) -> InstanceHandle {
        InstanceHandle { reference }
    }

    /// A snapshot.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.reference.view.borrow())
    }

    /// Snapshots as they change.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.reference.view.clone()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.reference.metrics
    }

    /// What its machine takes of the host; `None` without a machine.
    #[must_use]
    pub fn resources(&self) -> Option<Resources> {
        self.run()?.machine()?.resources()
    }

    pub(crate) fn run(&self) -> Option<Arc<MachineRun>> {
        self.reference.run.borrow().clone()
    }

    /// Who uses its disk.
    pub(crate) fn disk(&self) -> &DiskLock {
        &self.reference.disk
    }

    /// What there is for the environment of its commands.
    pub(crate) fn values(&self, spec: &InstanceSpec) -> Result<Values, InstanceError> {
        self.reference.environment.values(spec).map_err(InstanceError::Secret)
    }

    /// Who uses it.
    #[must_use]
    pub fn usage(&self) -> &Arc<Usage> {
        &self.reference.usage
    }

    pub(crate) async fn tell(&self, message: Message) -> Result<(), InstanceError> {
        self.reference.mailbox.send(message).await.map_err(|_| InstanceError::Removed)
    }

    /// Tells it something, unless it has too much to do.
    pub(crate) fn tell_now(&self, message: Message) -> bool {
        self.reference.mailbox.try_send(message).is_ok()
    }

    pub(crate) async fn ask(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<(), InstanceError>>) -> Message,
    ) -> Result<(), InstanceError> {
        let (reply, answer) = oneshot::channel();
        self.tell(message(reply)).await?;
        answer.await.map_err(|_| InstanceError::Removed)?
    }

    /// Its output.
    #[must_use]
    pub fn output(&self) -> &Arc<Output> {
        &self.reference.output
    }

    /// Asks for something and waits for the outcome.
    ///
    /// # Errors
    /// Why it is not as wanted.
    pub async fn request(&self, request: Request) -> Result<(), InstanceError> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.reference.mailbox.send(Message::Request(request, reply)).await;
        let gone = || match request {
            Request::Delete | Request::Prune => Ok(()),
            _ => Err(InstanceError::Removed),
        };
        if sent.is_err() {
            return gone();
        }
        match outcome.await {
            Ok(reply) => InstanceError::from_reply(reply, self.view().state.as_str()),
            Err(_) => gone(),
        }
    }

    /// Has its disk replaced, unless whoever waits for that goes before it begins.
    ///
    /// # Errors
    /// Why it is as it was.
    pub(crate) async fn replace(&self, replacement: Replacement) -> Result<(), InstanceError> {
        let (reply, outcome) = oneshot::channel();
        self.tell(Message::Replace(Box::new(replacement), reply)).await?;
        let reply = outcome.await.map_err(|_| InstanceError::Removed)?;
        InstanceError::from_reply(reply, self.view().state.as_str())
    }

    /// Begins to start it, without waiting for the outcome.
    ///
    /// # Errors
    /// If it is being deleted.
    pub async fn begin_start(&self) -> Result<(), InstanceError> {
        let (reply, _outcome) = oneshot::channel();
        let sent = self.reference.mailbox.send(Message::Request(Request::Start, reply)).await;
        sent.map_err(|_| InstanceError::Removed)
    }

    /// Counts a client in, and attaches it to the output from where it stands.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn attach(&self, held: [u64; 2]) -> Result<(Attachment, ClientCount), InstanceError> {
        let count = self.reference.output.count_client();
        Ok((self.reference.output.attach(held)?, count))
    }

    /// The session with its guest, if there is one now.
    #[must_use]
    pub fn current_session(&self) -> Option<Arc<Session>> {
        self.run()?.session()
    }

    /// The session with its guest, as soon as there is one; `None` if the machine ends before.
    pub async fn next_session(&self) -> Option<Arc<Session>> {
        let mut run = self.reference.run.clone();
        let current = run.wait_for(Option::is_some).await.ok()?.clone()?;
        current.wait_for_session().await
    }

    /// Returns when this session has been replaced, or the machine it belonged to is gone.
    pub(crate) async fn session_after(&self, old: &Arc<Session>) {
        let mut run = self.reference.run.clone();
        let current = run.borrow_and_update().clone();
        if let Some(current) = current {
            tokio::select! {
                () = current.session_replaced(old) => {}
                // The actor lives as long as there is something to wait for.
                _ = run.changed() => {}
            }
        }
    }

    /// Returns when this machine is no more.
    pub(crate) async fn machine_gone(&self, machine: &Weak<MachineRun>) {
        let mut run = self.reference.run.clone();
        let is_other = |now: &Option<Arc<MachineRun>>| {
            now.as_ref().is_none_or(|now| !std::ptr::eq(Arc::as_ptr(now), machine.as_ptr()))
        };
        // An instance that is gone has no machine.
        let _gone = run.wait_for(is_other).await;
    }

    /// Executes a process beside its command; resumes it for that, boots what idleness stopped, or waits while it
    /// starts. While the process lives the instance does not rest.
    ///
    /// # Errors
    /// If it is stopped, does not get ready in time, or the guest refuses.
    pub async fn exec(&self, exec: &ExecSpec) -> Result<(ExecHandle, Arc<Session>), InstanceError> {
        let spec = Arc::clone(&self.view().spec);
        let process = exec.process(&spec, &self.values(&spec)?);
        check_process(&process.command, &process.env, &process.workdir)?;
        let begun = Instant::now();
        let (usage, session) = self.awake().await?;
        let handle = match exec.detached {
            true => ExecHandle::new(session.exec_detached(process).await?, None),
            false => ExecHandle::new(session.exec(process).await?, Some(usage)),
        };
        self.reference.metrics.executed(begun.elapsed());
        Ok((handle, session))
    }

    /// Sees to it that it runs, as for [`InstanceHandle::exec`], and goes on doing so.
    pub(crate) async fn awake(&self) -> Result<(UsageGuard, Arc<Session>), InstanceError> {
        let usage = self.usage().enter(User::Exec);
        let usage = usage.ok_or(InstanceError::TooManyConnections(MOST_CONNECTIONS))?;
        let late = |_| InstanceError::NotReady(READY_TIMEOUT.as_secs());
        tokio::time::timeout(READY_TIMEOUT, self.request(Request::Ensure)).await.map_err(late)??;
        // A daemon that has just started may still be about to connect.
        let session = tokio::time::timeout(READY_TIMEOUT, self.next_session()).await.map_err(late)?;
        Ok((usage, session.ok_or(InstanceError::Stopped)?))
    }

    /// A reader of its log, and the number of the newest record.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub fn log(&self) -> Result<(LogReader, watch::Receiver<u64>), InstanceError> {
        Ok(self.reference.output.read()?)
    }

    /// Completes when the instance is gone.
    pub async fn gone(&self) {
        self.reference.mailbox.closed().await;
    }

    /// Exposes ports: all of them or none. What is exposed already, in the same way, stays as it is.
    ///
    /// # Errors
    /// [`InstanceError::Port`], [`InstanceError::PortConflict`], or if it cannot be stored.
    pub async fn expose(&self, ports: Vec<PortRequest>) -> Result<(), InstanceError> {
        self.ask(|reply| Message::Expose(ports, reply)).await
    }

    /// Ends the exposure of a port of the guest, if it is exposed. Its connections go on.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn unexpose(&self, guest_port: u16) -> Result<(), InstanceError> {
        self.ask(|reply| Message::Unexpose(guest_port, reply)).await
    }

    /// Keeps it awake for a while, or no longer.
    ///
    /// # Errors
    /// If it is being deleted.
    pub async fn lease(&self, lease: Option<Lease>) -> Result<(), InstanceError> {
        self.tell(Message::Lease(lease)).await
    }

    /// Has it see, from its next start on, the directories that are at the paths of its mounts now: `which`, in their order.
    /// Nothing is changed while it is anything but stopped.
    ///
    /// # Errors
    /// If that cannot be stored.
    pub async fn renew_directories(&self, which: Vec<Option<Identity>>) -> Result<(), InstanceError> {
        self.ask(|reply| Message::Revise(Revision::Directories(which), reply)).await
    }

    /// Has its disk be so many MiB from its next start on.
    ///
    /// # Errors
    /// [`InstanceError::DiskInUse`] unless it is stopped, [`InstanceError::DiskShrinks`]; if that cannot be stored.
    pub async fn grow_disk(&self, mib: u64) -> Result<(), InstanceError> {
        self.ask(|reply| Message::Revise(Revision::Disk(mib), reply)).await
    }

    /// How full its disk is; `None` if its guest does not say so now.
    pub async fn disk_usage(&self) -> Option<DiskUsageReply> {
        if self.view().state != State::Running {
            return None;
        }
        let session = self.run()?.session()?;
        tokio::time::timeout(USAGE_TIMEOUT, session.link().call(&DiskUsage {})).await.ok()?.ok()
    }

    /// The process that runs its machine on the host; `None` without a machine.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        u32::try_from(self.run()?.machine()?.handle().process.pid).ok()
    }
}
