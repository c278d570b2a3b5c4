//! Which accelerator to use: found by trying, not by believing.

use crate::Architecture;
use crate::accelerator::Accelerator;

/// An accelerator and why it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceleratorChoice {
    /// Which.
    pub accelerator: Accelerator,
    /// Why, as a clause for people.
    pub reason: String,
}

/// What the host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// What its processor is.
    pub(crate) architecture: Architecture,
    /// Whether this is macOS.
    pub(crate) macos: bool,
}

impl Host {
    /// This one.
    pub(crate) fn this() -> Host {
        Host { architecture: Architecture::host(), macos: cfg!(target_os = "macos") }
    }
}

/// Chooses. Hardware executes its own instructions only, so a foreign guest is emulated whatever the user wants. A `/dev/kvm`
/// that is of no use is used on the user's own word alone.
pub(crate) fn choose(
    wanted: Option<&str>,
    host: &Host,
    guest: Architecture,
    kvm: &Result<(), String>,
) -> AcceleratorChoice {
    let choice = |accelerator, reason: &str| AcceleratorChoice { accelerator, reason: reason.to_owned() };
    if guest != host.architecture {
        let reason = format!("this {} host can only emulate {guest}", host.architecture);
        return choice(Accelerator::Tcg, &reason);
    }
    match wanted {
        Some("kvm") => return choice(Accelerator::Kvm, "AEGIS_ACCEL=kvm"),
        Some("hvf") => return choice(Accelerator::Hvf, "AEGIS_ACCEL=hvf"),
        Some("tcg") => return choice(Accelerator::Tcg, "AEGIS_ACCEL=tcg"),
        _ => {}
    }
    if host.macos {
        return choice(Accelerator::Hvf, "macOS");
    }
    match kvm {
        Ok(()) => choice(Accelerator::Kvm, "/dev/kvm works"),
        Err(why) => choice(Accelerator::Tcg, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Architecture = Architecture::X86_64;
    const HOST: Host = Host { architecture: OWN, macos: false };

    #[test]
    fn kvm_is_used_only_where_a_machine_has_worked_or_the_user_insists() {
        let works = choose(None, &HOST, OWN, &Ok(()));
        assert_eq!((works.accelerator, works.reason.as_str()), (Accelerator::Kvm, "/dev/kvm works"));
        let broken = choose(None, &HOST, OWN, &Err("it is broken".to_owned()));
        assert_eq!((broken.accelerator, broken.reason.as_str()), (Accelerator::Tcg, "it is broken"));
        assert_eq!(choose(Some("kvm"), &HOST, OWN, &Err(String::new())).accelerator, Accelerator::Kvm);
        assert_eq!(choose(Some("tcg"), &HOST, OWN, &Err(String::new())).accelerator, Accelerator::Tcg);
        assert_eq!(
            choose(None, &Host { macos: true, ..HOST }, OWN, &Err(String::new())).accelerator,
            Accelerator::Hvf
        );
    }

    #[test]
    fn a_foreign_guest_is_emulated_whatever_the_host_offers_and_the_user_wants() {
        for host in [HOST, Host { macos: true, ..HOST }] {
            for wanted in [None, Some("kvm"), Some("hvf"), Some("tcg")] {
                let choice = choose(wanted, &host, Architecture::Aarch64, &Ok(()));
                assert_eq!(choice.accelerator, Accelerator::Tcg);
                assert_eq!(choice.reason, "this x86_64 host can only emulate aarch64");
            }
        }
    }
}
