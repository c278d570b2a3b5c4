//! Processor architectures of guests, and what differs between them. No other crate names one.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::accelerator::Accelerator;

/// What a guest's processor is. Usually the host's own; any other is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

/// A name that is no architecture's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} is no architecture that a guest can have; there are {}", names())]
pub struct UnknownArchitecture {
    /// The name.
    name: String,
}

fn names() -> String {
    Architecture::ALL.map(Architecture::name).join(", ")
}

impl Architecture {
    /// All there are.
    pub const ALL: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];

    /// The host's own.
    #[must_use]
    pub const fn host() -> Architecture {
        #[cfg(target_arch = "x86_64")]
        return Architecture::X86_64;
        #[cfg(target_arch = "aarch64")]
        return Architecture::Aarch64;
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        compile_error!("Aegis knows no machine for this architecture")
    }

    /// Whether this host's processor cannot execute its programs.
    #[must_use]
    pub fn is_foreign(self) -> bool {
        self != Architecture::host()
    }

    /// Its name, as `uname -m` says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "aarch64",
        }
    }

    /// Its name among platforms of container images.
    #[must_use]
    pub const fn oci_name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "amd64",
            Architecture::Aarch64 => "arm64",
        }
    }

    /// The Debian package with its QEMU.
    #[must_use]
    pub const fn package(self) -> &'static str {
        match self {
            Architecture::X86_64 => "qemu-system-x86",
            Architecture::Aarch64 => "qemu-system-arm",
        }
    }

    /// Its QEMU's program.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Architecture::X86_64 => "qemu-system-x86_64",
            Architecture::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// QEMU's machine type. `microvm` boots without firmware tables or PCI. `pic=off`, which one reads is faster,
    /// was measured to hang every second boot under emulation (no timer interrupt), and `rtc=off` to cost a second;
    /// neither gains anything. `virt` is the board that QEMU has for guests; nothing boots its firmware or its PCI.
    pub(crate) const fn machine(self) -> &'static str {
        match self {
            Architecture::X86_64 => "microvm,acpi=off",
            Architecture::Aarch64 => "virt,gic-version=max",
        }
    }

    /// The processor that emulation makes.
    pub(crate) const fn emulated_cpu(self) -> &'static str {
        match self {
            // Without "fast strings" the guest copies by words, not by bytes: emulation takes each step by itself, and
            // copies four times as much a second.
            Architecture::X86_64 => "max,erms=off,fsrm=off",
            Architecture::Aarch64 => "max",
        }
    }

    /// The kernel's name of the serial line.
    pub(crate) const fn console(self) -> &'static str {
        match self {
            Architecture::X86_64 => "ttyS0",
            Architecture::Aarch64 => "ttyAMA0",
        }
    }

    /// What else the kernel is told.
    pub(crate) const fn kernel_arguments(self, accelerator: Accelerator) -> &'static str {
        match (self, accelerator) {
            // Without firmware a triple fault is the one reset that ends the machine.
            (Architecture::X86_64, Accelerator::Kvm | Accelerator::Hvf) => " reboot=t",
            // Mitigations guard against hardware that emulation does not have. And the kernel's check that the timer
            // ticks gives it a few milliseconds to do so, which a host with twenty guests on two cores was seen not
            // to grant: the kernel then takes the timer for broken, and never comes up. Random addresses
            // (`norandmaps` is without) have every program translated anew whenever it is executed: 25 ms instead of 5
            // for `true`.
            (Architecture::X86_64, Accelerator::Tcg) => " reboot=t mitigations=off no_timer_check norandmaps",
            (Architecture::Aarch64, Accelerator::Kvm | Accelerator::Hvf) => "",
            (Architecture::Aarch64, Accelerator::Tcg) => " mitigations=off norandmaps",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(name: &str) -> Result<Architecture, UnknownArchitecture> {
        let found = Architecture::ALL.into_iter().find(|one| one.name() == name);
        found.ok_or_else(|| UnknownArchitecture { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_parsed_as_it_is_shown_and_others_are_refused() {
        for one in Architecture::ALL {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        let error = "riscv64".parse::<Architecture>().unwrap_err().to_string();
        assert_eq!(error, "\"riscv64\" is no architecture that a guest can have; there are x86_64, aarch64");
    }

    #[test]
    fn the_hosts_own_is_not_foreign_and_all_others_are() {
        assert!(!Architecture::host().is_foreign());
        assert_eq!(Architecture::ALL.into_iter().filter(|one| one.is_foreign()).count(), 1);
    }
}
