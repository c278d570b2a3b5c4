//! OCI image layouts, made with `umoci`.

use std::path::Path;

use crate::tool::{text, tool};

/// An OCI layout that `umoci` makes.
#[derive(Debug)]
pub struct Layout {
    _dir: tempfile::TempDir,
    at: String,
}

impl Layout {
    /// An empty one.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new() -> Layout {
        let dir = tempfile::tempdir().expect("make a directory");
        let at = text(&dir.path().join("layout")).to_owned();
        tool("umoci", &["init", "--layout", &at]);
        Layout { _dir: dir, at }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.at
    }

    /// Makes an image with busybox for all the usual commands.
    ///
    /// # Panics
    /// If that fails.
    pub fn busybox(&self, tag: &str) {
        tool("umoci", &["new", "--image", &self.named(tag)]);
        self.layer(tag, |root| {
            for dir in ["bin", "etc", "root"] {
                std::fs::create_dir(root.join(dir)).expect("make a directory");
            }
            std::fs::copy("/bin/busybox", root.join("bin/busybox"))
                .expect("busybox; see scripts/dependencies test");
            for applet in
                ["sh", "cat", "echo", "env", "id", "ls", "sleep", "stat", "true", "cksum", "readlink"]
            {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("link");
            }
            std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("write");
        });
    }

    fn named(&self, tag: &str) -> String {
        format!("{}:{tag}", self.path())
    }

    /// Adds a layer with what `change` does to the image's root.
    ///
    /// # Panics
    /// If that fails.
    pub fn layer(&self, tag: &str, change: impl FnOnce(&Path)) {
        let bundle = tempfile::tempdir().expect("make a directory");
        let (image, at) = (self.named(tag), bundle.path().join("b"));
        let rootless: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--rootless"] };
        tool("umoci", &[&["unpack", "--image", &image], rootless, &[text(&at)]].concat());
        change(&at.join("rootfs"));
        tool("umoci", &["repack", "--image", &image, text(&at)]);
    }

    /// Changes an image's configuration.
    ///
    /// # Panics
    /// If that fails.
    pub fn configure(&self, tag: &str, options: &[&str]) {
        tool("umoci", &[&["config", "--image", &self.named(tag)], options].concat());
    }

    /// Gives an image another tag.
    ///
    /// # Panics
    /// If that fails.
    pub fn tag(&self, tag: &str, other: &str) {
        tool("umoci", &["tag", "--image", &self.named(tag), other]);
    }
}

impl Default for Layout {
    fn default() -> Layout {
        Layout::new()
    }
}
