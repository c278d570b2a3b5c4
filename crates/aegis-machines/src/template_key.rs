//! Kinds of machines: those of one kind can be started from the same template.

use aegis_vmm::MachineSpec;

/// A machine, and what others must have in common with it to be started from its template.
#[derive(Debug)]
pub struct TemplateKey {
    /// The machine.
    pub spec: MachineSpec,
    /// What others must have in common with it.
    pub compatibility_key: String,
    /// Size of its own disk, MiB.
    pub disk_mib: u64,
}

impl TemplateKey {
    /// Whether a machine of this one that has its root mounted already can be that of the other. Its monitor may write no
    /// file that is larger than the disk that it was made with.
    #[must_use]
    pub fn fits(&self, other: &TemplateKey) -> bool {
        self.compatibility_key == other.compatibility_key
            && self.spec.root_disk == other.spec.root_disk
            && self.spec.modules == other.spec.modules
            && self.disk_mib >= other.disk_mib
    }
}
