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
    architecture: Architecture,
    /// Whether this is macOS.
    macos: bool,
    /// Whether `/dev/kvm` can be opened for use; else why not.
    kvm: Option<Result<(), String>>,
    /// Whether the processor itself can virtualise.
    virtualisation_flag: bool,
}

/// Looks at the host.
pub(crate) fn probe_host() -> Host {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kvm = std::path::Path::new("/dev/kvm").exists().then(|| {
        let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        opened.map(drop).map_err(|error| error.to_string())
    });
    let architecture = Architecture::host();
    Host {
        architecture,
        macos: cfg!(target_os = "macos"),
        kvm,
        virtualisation_flag: architecture != Architecture::X86_64 || has_flag(&cpuinfo),
    }
}

fn has_flag(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// Chooses. Hardware executes its own instructions only, so a foreign guest is emulated whatever the user wants. A host
/// may offer `/dev/kvm` without a processor that virtualises (paravirtual nesting); ordinary kernels were seen to die
/// there, so only the user's own word makes us use it.
pub(crate) fn choose(wanted: Option<&str>, host: &Host, guest: Architecture) -> AcceleratorChoice {
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
    match &host.kvm {
        None => choice(Accelerator::Tcg, "there is no /dev/kvm"),
        Some(Err(error)) => choice(Accelerator::Tcg, &format!("/dev/kvm cannot be opened: {error}")),
        Some(Ok(())) if !host.virtualisation_flag => choice(
            Accelerator::Tcg,
            "/dev/kvm is there, but the processor has no vmx or svm; AEGIS_ACCEL=kvm insists",
        ),
        Some(Ok(())) => choice(Accelerator::Kvm, "/dev/kvm works"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Architecture = Architecture::X86_64;

    fn host(kvm: Option<Result<(), String>>, flag: bool) -> Host {
        Host { architecture: OWN, macos: false, kvm, virtualisation_flag: flag }
    }

    #[test]
    fn kvm_is_used_only_where_it_can_work_or_the_user_insists() {
        let chosen = |wanted, host: &Host| choose(wanted, host, OWN).accelerator;
        assert_eq!(chosen(None, &host(Some(Ok(())), true)), Accelerator::Kvm);
        assert_eq!(chosen(None, &host(Some(Ok(())), false)), Accelerator::Tcg);
        assert_eq!(chosen(None, &host(Some(Err("denied".into())), true)), Accelerator::Tcg);
        assert_eq!(chosen(None, &host(None, true)), Accelerator::Tcg);
        assert_eq!(chosen(Some("kvm"), &host(Some(Ok(())), false)), Accelerator::Kvm);
        assert_eq!(chosen(Some("tcg"), &host(Some(Ok(())), true)), Accelerator::Tcg);
        assert_eq!(chosen(None, &Host { macos: true, ..host(None, false) }), Accelerator::Hvf);
    }

    #[test]
    fn a_foreign_guest_is_emulated_whatever_the_host_offers_and_the_user_wants() {
        let best = host(Some(Ok(())), true);
        for host in [best.clone(), Host { macos: true, ..best }] {
            for wanted in [None, Some("kvm"), Some("hvf"), Some("tcg")] {
                let choice = choose(wanted, &host, Architecture::Aarch64);
                assert_eq!(choice.accelerator, Accelerator::Tcg);
                assert_eq!(choice.reason, "this x86_64 host can only emulate aarch64");
            }
        }
    }

    #[test]
    fn flags_are_matched_whole() {
        assert!(has_flag("flags\t\t: fpu svm lm\n"));
        assert!(!has_flag("flags\t\t: fpu svm_lock lm\n"));
    }
}
