//! One instance, as others reach it: what it is asked, and what is seen of it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aegis_store::logs::LogReader;
use aegis_vmm::Resources;
use tokio::sync::{oneshot, watch};

use crate::actor::replace::Replacement;
use crate::actor::{InstanceRef, Message};
use crate::environment::Values;
use crate::error::InstanceError;
use crate::exec::ExecSpec;
use crate::lifecycle::Request;
use crate::machine::live::Live;
use crate::machine::session::{ExecHandle, Session};
use crate::machine::upkeep::DiskUse;
use crate::measures::Measures;
use crate::output::{Attachment, ClientCount, Output};
use crate::spec::{InstanceSpec, check_process};
use crate::usage::{MOST_CONNECTIONS, Stay, Usage, User};
use crate::view::{View, word};

/// How long an `exec` waits for an instance that is starting.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);

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

    pub(crate) fn measures(&self) -> &Measures {
        &self.reference.measures
    }

    /// What its machine takes of the host; `None` without a machine.
    #[must_use]
    pub fn resources(&self) -> Option<Resources> {
        self.live()?.machine()?.resources()
    }

    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.reference.live.borrow().clone()
    }

    /// Who uses its disk.
    pub(crate) fn disk(&self) -> &DiskUse {
        &self.reference.disk
    }

    /// What there is for the environment of its commands.
    pub(crate) fn values(&self, spec: &InstanceSpec) -> Result<Values, InstanceError> {
        self.reference.sources.values(spec).map_err(InstanceError::Secret)
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
        let sent = self.reference.mailbox.send(Message::Wanted(request, reply)).await;
        let gone = || match request {
            Request::Delete | Request::Prune => Ok(()),
            _ => Err(InstanceError::Removed),
        };
        if sent.is_err() {
            return gone();
        }
        match outcome.await {
            Ok(reply) => InstanceError::from_reply(reply, word(self.view().state)),
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
        InstanceError::from_reply(reply, word(self.view().state))
    }

    /// Begins to start it, without waiting for the outcome.
    ///
    /// # Errors
    /// If it is being deleted.
    pub async fn begin_start(&self) -> Result<(), InstanceError> {
        let (reply, _outcome) = oneshot::channel();
        let sent = self.reference.mailbox.send(Message::Wanted(Request::Start, reply)).await;
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
        self.live()?.session()
    }

    /// The session with its guest, as soon as there is one; `None` if the machine ends before.
    pub async fn next_session(&self) -> Option<Arc<Session>> {
        let mut live = self.reference.live.clone();
        let current = live.wait_for(Option::is_some).await.ok()?.clone()?;
        current.wait_for_session().await
    }

    /// Returns when this session has been replaced, or the machine it belonged to is gone.
    pub(crate) async fn session_after(&self, old: &Arc<Session>) {
        let mut live = self.reference.live.clone();
        let current = live.borrow_and_update().clone();
        if let Some(current) = current {
            tokio::select! {
                () = current.session_replaced(old) => {}
                // The actor lives as long as there is something to wait for.
                _ = live.changed() => {}
            }
        }
    }

    /// Returns when this machine is no more.
    pub(crate) async fn machine_gone(&self, machine: &Weak<Live>) {
        let mut live = self.reference.live.clone();
        let is_other = |now: &Option<Arc<Live>>| {
            now.as_ref().is_none_or(|now| !std::ptr::eq(Arc::as_ptr(now), machine.as_ptr()))
        };
        // An instance that is gone has no machine.
        let _gone = live.wait_for(is_other).await;
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
        let (stay, session) = self.awake().await?;
        let handle = match exec.detached {
            true => session.exec_detached(process).await?,
            false => session.exec(process, stay).await?,
        };
        self.reference.measures.executed(begun.elapsed());
        Ok((handle, session))
    }

    /// Sees to it that it runs, as for [`InstanceHandle::exec`], and goes on doing so.
    pub(crate) async fn awake(&self) -> Result<(Stay, Arc<Session>), InstanceError> {
        let stay = self.usage().enter(User::Exec);
        let stay = stay.ok_or(InstanceError::TooManyConnections(MOST_CONNECTIONS))?;
        let late = |_| InstanceError::NotReady(READY_TIMEOUT.as_secs());
        tokio::time::timeout(READY_TIMEOUT, self.request(Request::Ensure)).await.map_err(late)??;
        // A daemon that has just started may still be about to connect.
        let session = tokio::time::timeout(READY_TIMEOUT, self.next_session()).await.map_err(late)?;
        Ok((stay, session.ok_or(InstanceError::Stopped)?))
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
}
