//! What of an instance's specification is changed while it is stopped.

use std::sync::Arc;

use aegis_paths::Identity;

use crate::error::InstanceError;
use aegis_lifecycle::event::State;
use aegis_spec::instance::{InstanceSpec, check_disk};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(disk_mib: u64) -> Arc<InstanceSpec> {
        Arc::new(InstanceSpec { disk_mib, ..aegis_spec::sample::sample() })
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
