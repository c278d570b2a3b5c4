//! All backends of this host: the one that makes machines, and those whose machines may still be there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::firecracker::{self, Firecracker};
use crate::libkrun::{self, Libkrun};
use crate::qemu::{self, Qemu};
use crate::{Architecture, Capabilities, Machine, MachineHandle, MachineSpec, Origin, Probe, Vmm, VmmError};

/// Which backend is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// The most complete one.
    #[default]
    Auto,
    /// QEMU.
    Qemu,
    /// Firecracker.
    Firecracker,
    /// libkrun.
    Libkrun,
}

impl BackendChoice {
    /// All there are.
    pub const ALL: [BackendChoice; 4] =
        [BackendChoice::Auto, BackendChoice::Qemu, BackendChoice::Firecracker, BackendChoice::Libkrun];
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BackendChoice::Auto => "auto",
            BackendChoice::Qemu => qemu::NAME,
            BackendChoice::Firecracker => firecracker::NAME,
            BackendChoice::Libkrun => libkrun::NAME,
        })
    }
}

impl FromStr for BackendChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<BackendChoice, String> {
        let found = BackendChoice::ALL.into_iter().find(|one| one.to_string() == name);
        found.ok_or_else(|| format!("{name:?} is no backend; there are auto, qemu, firecracker, libkrun"))
    }
}

/// What is known of this host before a backend is chosen.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Processor of the guests.
    pub guest: Architecture,
    /// The accelerator that the user insists on (`AEGIS_ACCEL`).
    pub accelerator: Option<String>,
    /// Whether machines work with the host's KVM, see [`crate::kvm_trial`].
    pub kvm: Result<(), String>,
    /// Where Firecracker is, if the user says so (`AEGIS_FIRECRACKER`).
    pub firecracker: Option<PathBuf>,
    /// Where the worker of libkrun's machines is, if it is known (`AEGIS_KRUN_WORKER`).
    pub krun_worker: Option<PathBuf>,
}

/// The backends.
#[derive(Debug)]
pub struct Backends {
    chosen: Arc<dyn Vmm>,
    all: Vec<Arc<dyn Vmm>>,
    reason: String,
}

/// Why a backend that needs KVM cannot run the guests of this host.
fn obstacle(facts: &HostFacts) -> Option<String> {
    if facts.guest.is_foreign() {
        return Some(format!("it emulates no {}", facts.guest));
    }
    if facts.guest != Architecture::X86_64 {
        return Some(format!("it has not been tried on {}", facts.guest));
    }
    match (facts.accelerator.as_deref(), &facts.kvm) {
        (Some("kvm"), _) | (None, Ok(())) => None,
        (Some(other), _) => Some(format!("it needs KVM, and AEGIS_ACCEL={other}")),
        (None, Err(why)) => Some(format!("it needs KVM: {why}")),
    }
}

impl Backends {
    /// The backends of a host, of which one makes machines.
    ///
    /// # Errors
    /// Why the one that is wanted cannot.
    pub fn choose(wanted: BackendChoice, facts: &HostFacts) -> Result<Backends, String> {
        let qemu: Arc<dyn Vmm> = Arc::new(Qemu::new(facts.accelerator.as_deref(), facts.guest, &facts.kvm));
        // Where it can be used the accelerator is the same.
        let reason = qemu.capabilities().accelerator_reason;
        let firecracker: Arc<dyn Vmm> = Arc::new(Firecracker::new(facts.firecracker.clone(), reason.clone()));
        let libkrun: Arc<dyn Vmm> = Arc::new(Libkrun::new(facts.krun_worker.clone(), reason));
        let if_it_can = |one| match obstacle(facts) {
            None => Ok((one, "it is asked for".to_owned())),
            Some(why) => Err(format!("{wanted} cannot be used here: {why}")),
        };
        let (chosen, reason) = match wanted {
            // It does everything that there is, with and without KVM.
            BackendChoice::Auto => (&qemu, "it has all capabilities".to_owned()),
            BackendChoice::Qemu => (&qemu, "it is asked for".to_owned()),
            BackendChoice::Firecracker => if_it_can(&firecracker)?,
            BackendChoice::Libkrun => if_it_can(&libkrun)?,
        };
        Ok(Backends { chosen: Arc::clone(chosen), all: vec![qemu, firecracker, libkrun], reason })
    }

    /// Why this backend makes the machines, as a clause for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Each backend with what is found of it, and why it cannot be used here although it is found.
    pub async fn survey(&self, facts: &HostFacts) -> Vec<(&'static str, Result<Probe, String>)> {
        let mut found = Vec::new();
        for one in &self.all {
            let probed = one.probe().await.map_err(|error| error.to_string());
            let hindered = (one.name() != qemu::NAME).then(|| obstacle(facts)).flatten();
            found.push((
                one.name(),
                match hindered {
                    Some(why) => probed.and(Err(why)),
                    None => probed,
                },
            ));
        }
        found
    }
}

#[async_trait]
impl Vmm for Backends {
    fn name(&self) -> &'static str {
        self.chosen.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.chosen.capabilities()
    }

    async fn probe(&self) -> Result<Probe, VmmError> {
        self.chosen.probe().await
    }

    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Machine>, VmmError> {
        self.chosen.start(spec).await
    }

    async fn restore(
        &self,
        spec: &MachineSpec,
        devices: &[u8],
        memory: Origin<'_>,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        self.chosen.restore(spec, devices, memory).await
    }

    fn compatibility_key(&self, spec: &MachineSpec) -> Option<String> {
        self.chosen.compatibility_key(spec)
    }

    /// By whichever backend made it.
    async fn recover(&self, handle: &MachineHandle) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        match self.all.iter().find(|one| one.name() == handle.backend) {
            Some(one) => one.recover(handle).await,
            None => {
                let message = format!("there is no backend {:?}", handle.backend);
                Err(VmmError::Refused { action: "find the machine again", message })
            }
        }
    }

    async fn end_strays(&self, disks: &Path, known: &[i32]) -> Vec<String> {
        let mut ended = Vec::new();
        for one in &self.all {
            ended.extend(one.end_strays(disks, known).await);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kvm: Result<(), String>) -> HostFacts {
        HostFacts {
            guest: Architecture::host(),
            accelerator: None,
            kvm,
            firecracker: None,
            krun_worker: None,
        }
    }

    #[test]
    fn a_name_is_parsed_as_it_is_shown_and_others_are_refused() {
        for one in BackendChoice::ALL {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        let error = "xen".parse::<BackendChoice>().unwrap_err();
        assert_eq!(error, "\"xen\" is no backend; there are auto, qemu, firecracker, libkrun");
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason_and_never_replaced_by_another() {
        let without = facts(Err("there is no /dev/kvm".into()));
        assert_eq!(Backends::choose(BackendChoice::Auto, &without).unwrap().name(), qemu::NAME);
        let refused = Backends::choose(BackendChoice::Firecracker, &without).unwrap_err();
        assert_eq!(refused, "firecracker cannot be used here: it needs KVM: there is no /dev/kvm");
        let refused = Backends::choose(BackendChoice::Libkrun, &without).unwrap_err();
        assert_eq!(refused, "libkrun cannot be used here: it needs KVM: there is no /dev/kvm");
        let emulated = HostFacts { accelerator: Some("tcg".into()), ..facts(Ok(())) };
        let refused = Backends::choose(BackendChoice::Firecracker, &emulated).unwrap_err();
        assert!(refused.ends_with("it needs KVM, and AEGIS_ACCEL=tcg"), "{refused}");
        let foreign = Architecture::ALL.into_iter().find(|one| one.is_foreign()).unwrap();
        let foreign = HostFacts { guest: foreign, ..facts(Ok(())) };
        assert!(Backends::choose(BackendChoice::Firecracker, &foreign).is_err());
    }

    #[test]
    fn a_machine_is_found_again_by_the_backend_that_made_it() {
        let chosen = Backends::choose(BackendChoice::Auto, &facts(Ok(()))).unwrap();
        let names: Vec<&str> = chosen.all.iter().map(|one| one.name()).collect();
        assert_eq!(names, [qemu::NAME, firecracker::NAME, libkrun::NAME]);
    }
}
