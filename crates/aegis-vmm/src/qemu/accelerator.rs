//! Which accelerator to use: found by trying, not by believing.

/// What executes the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Linux hardware virtualisation.
    Kvm,
    /// macOS hardware virtualisation.
    Hvf,
    /// Software emulation: everywhere.
    Tcg,
}

impl Accelerator {
    /// QEMU's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Hvf => "hvf",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// An accelerator and why it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub accelerator: Accelerator,
    /// Why, as a clause for people.
    pub reason: String,
}

/// What the host offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Host {
    /// Whether this is macOS.
    macos: bool,
    /// Whether `/dev/kvm` can be opened for use; else why not.
    kvm: Option<Result<(), String>>,
    /// Whether the processor itself can virtualise.
    virtualisation_flag: bool,
}

/// Looks at the host.
pub(crate) fn look() -> Host {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kvm = std::path::Path::new("/dev/kvm").exists().then(|| {
        let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        opened.map(drop).map_err(|error| error.to_string())
    });
    Host {
        macos: cfg!(target_os = "macos"),
        kvm,
        virtualisation_flag: !cfg!(target_arch = "x86_64") || has_flag(&cpuinfo),
    }
}

fn has_flag(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// Chooses. A host may offer `/dev/kvm` without a processor that virtualises (paravirtual nesting); ordinary
/// kernels were seen to die there, so only the user's own word makes us use it.
pub(crate) fn choose(wanted: Option<&str>, host: &Host) -> Choice {
    let choice = |accelerator, reason: &str| Choice { accelerator, reason: reason.to_owned() };
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

    fn host(kvm: Option<Result<(), String>>, flag: bool) -> Host {
        Host { macos: false, kvm, virtualisation_flag: flag }
    }

    #[test]
    fn kvm_is_used_only_where_it_can_work_or_the_user_insists() {
        let chosen = |wanted, host: &Host| choose(wanted, host).accelerator;
        assert_eq!(chosen(None, &host(Some(Ok(())), true)), Accelerator::Kvm);
        assert_eq!(chosen(None, &host(Some(Ok(())), false)), Accelerator::Tcg);
        assert_eq!(chosen(None, &host(Some(Err("denied".into())), true)), Accelerator::Tcg);
        assert_eq!(chosen(None, &host(None, true)), Accelerator::Tcg);
        assert_eq!(chosen(Some("kvm"), &host(Some(Ok(())), false)), Accelerator::Kvm);
        assert_eq!(chosen(Some("tcg"), &host(Some(Ok(())), true)), Accelerator::Tcg);
        assert_eq!(chosen(None, &Host { macos: true, ..Host::default() }), Accelerator::Hvf);
    }

    #[test]
    fn flags_are_matched_whole() {
        assert!(has_flag("flags\t\t: fpu svm lm\n"));
        assert!(!has_flag("flags\t\t: fpu svm_lock lm\n"));
    }
}
