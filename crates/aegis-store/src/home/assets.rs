//! What guests boot from: looked for in the home first, then among what is prepared for all homes.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Home, HomeError, check_trusted};

impl Home {
    /// The guest kernel, `kernel/vmlinux`.
    ///
    /// # Errors
    /// [`HomeError::AssetMissing`] with every path tried.
    pub fn kernel(&self) -> Result<PathBuf, HomeError> {
        self.asset("the guest kernel", "kernel/vmlinux")
    }

    /// The initial file system with the harness, `kernel/initramfs.cpio`.
    ///
    /// # Errors
    /// [`HomeError::AssetMissing`] with every path tried.
    pub fn initramfs(&self) -> Result<PathBuf, HomeError> {
        self.asset("the guest initramfs", "kernel/initramfs.cpio")
    }

    /// The image of the kernel's modules: the file that `kernel/modules` points to, links resolved, so that a machine can
    /// keep naming this very file after the link moves on.
    ///
    /// # Errors
    /// [`HomeError::AssetMissing`] with every path tried.
    pub fn modules(&self) -> Result<PathBuf, HomeError> {
        self.resolved("the kernel's modules", "kernel/modules")
    }

    /// An image of a kernel's modules by its file name in `kernel`.
    ///
    /// # Errors
    /// As of [`Home::rootfs_named`].
    pub fn modules_named(&self, file_name: &str) -> Result<PathBuf, HomeError> {
        self.named("the kernel's modules", "kernel", file_name)
    }

    /// The default root file system: the file that `base-rootfs/current` points to, symbolic links resolved,
    /// so that an instance can keep naming this very file after `current` moves on.
    ///
    /// # Errors
    /// [`HomeError::AssetMissing`] with every path tried; a dangling link counts as missing.
    pub fn base_rootfs(&self) -> Result<PathBuf, HomeError> {
        self.resolved("the base root file system", "base-rootfs/current")
    }

    /// A root file system by its file name in `base-rootfs`.
    ///
    /// # Errors
    /// [`HomeError::InvalidName`] if `file_name` is not one plain path component, [`HomeError::AssetMissing`]
    /// with every path tried.
    pub fn rootfs_named(&self, file_name: &str) -> Result<PathBuf, HomeError> {
        self.named("the root file system", "base-rootfs", file_name)
    }

    fn resolved(&self, what: &'static str, relative: &str) -> Result<PathBuf, HomeError> {
        let link = self.asset(what, relative)?;
        fs::canonicalize(&link).map_err(|_| HomeError::AssetMissing { what, looked: vec![link] })
    }

    fn named(&self, what: &'static str, directory: &str, file_name: &str) -> Result<PathBuf, HomeError> {
        let mut components = Path::new(file_name).components();
        let plain =
            matches!(components.next(), Some(std::path::Component::Normal(name)) if name == file_name);
        if !plain || components.next().is_some() {
            return Err(HomeError::InvalidName { what: "name of a file", name: file_name.to_owned() });
        }
        self.asset(what, &format!("{directory}/{file_name}"))
    }

    fn asset(&self, what: &'static str, relative: &str) -> Result<PathBuf, HomeError> {
        let looked: Vec<PathBuf> = self.assets.iter().map(|directory| directory.join(relative)).collect();
        match looked.iter().find(|path| path.is_file()) {
            Some(found) => {
                check_asset(found)?;
                Ok(found.clone())
            }
            None => Err(HomeError::AssetMissing { what, looked }),
        }
    }
}

/// Refuses what machines boot from if somebody else could change it.
fn check_asset(path: &Path) -> Result<(), HomeError> {
    path.parent().map_or(Ok(()), check_trusted)?;
    check_trusted(path)
}
