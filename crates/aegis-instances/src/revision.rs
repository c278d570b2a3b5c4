//! What of an instance's specification is changed while it is stopped.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_protocol::messages::{DiskUsage, DiskUsageReply};
use aegis_paths::Identity;

use crate::actor::Message;
use crate::error::InstanceError;
use crate::instance::InstanceHandle;
use crate::lifecycle::State;
use crate::spec::{InstanceSpec, check_disk};

/// How long a guest may take to say how full its disk is.
const USAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// A change that the next start sees.
#[derive(Debug)]
pub(crate) enum Revision {
    /// Its directories of the host have been named once more, and these are they.
    Directories(Vec<Option<Identity>>),
    /// Its disk is to have this many MiB.
    Disk(u64),
}

impl Revision {
    /// The specification of an instance in this state when it is revised; `None` if it stays as it is. One that has a
    /// machine, or memory on disk, stays with the directories that its guest has seen, and with its disk.
    ///
    /// # Errors
    /// [`InstanceError::DiskInUse`], [`InstanceError::Invalid`].
    pub(crate) fn apply(
        &self,
        spec: &Arc<InstanceSpec>,
        state: State,
    ) -> Result<Option<InstanceSpec>, InstanceError> {
        let mut revised = (**spec).clone();
        match self {
            Revision::Directories(_) if state != State::Stopped => return Ok(None),
            Revision::Directories(which) => {
                for (mount, identity) in revised.mounts.iter_mut().zip(which) {
                    mount.identity = *identity;
                }
            }
            Revision::Disk(mib) if *mib == spec.disk_mib => return Ok(None),
            Revision::Disk(mib) if *mib < spec.disk_mib => {
                return Err(InstanceError::DiskShrinks { has: spec.disk_mib, wanted: *mib });
            }
            Revision::Disk(_) if state != State::Stopped => return Err(InstanceError::DiskInUse),
            Revision::Disk(mib) => {
                check_disk(*mib)?;
                revised.disk_mib = *mib;
            }
        }
        Ok((revised != **spec).then_some(revised))
    }

    /// The word for it in events.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Revision::Directories(_) => "directories",
            Revision::Disk(_) => "disk",
        }
    }
}

impl InstanceHandle {
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
        let session = self.live()?.session()?;
        tokio::time::timeout(USAGE_TIMEOUT, session.link().call(&DiskUsage {})).await.ok()?.ok()
    }

    /// The process that runs its machine on the host; `None` without a machine.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        u32::try_from(self.live()?.machine()?.handle().process.pid).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(disk_mib: u64) -> Arc<InstanceSpec> {
        Arc::new(InstanceSpec { disk_mib, ..crate::spec::tests::sample() })
    }

    #[test]
    fn a_disk_grows_while_it_is_stopped_and_never_shrinks() {
        let revised = Revision::Disk(2048).apply(&spec(1024), State::Stopped).unwrap().unwrap();
        assert_eq!(revised.disk_mib, 2048);
        for state in [State::Running, State::Paused, State::Hibernated, State::Starting] {
            let refused = Revision::Disk(2048).apply(&spec(1024), state);
            assert!(matches!(refused, Err(InstanceError::DiskInUse)), "{state:?}");
            assert!(Revision::Disk(1024).apply(&spec(1024), state).unwrap().is_none());
        }
        let refused = Revision::Disk(512).apply(&spec(1024), State::Stopped);
        assert!(matches!(refused, Err(InstanceError::DiskShrinks { has: 1024, wanted: 512 })));
        let refused = Revision::Disk(u64::MAX).apply(&spec(1024), State::Stopped);
        assert!(matches!(refused, Err(InstanceError::Invalid(_))));
    }
}
