//! What executes the code of a guest.

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
