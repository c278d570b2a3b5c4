//! The yardstick: QEMU with the same kernel and nothing of ours around it.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A prepared yardstick.
#[derive(Debug)]
pub(crate) struct Bare {
    dir: tempfile::TempDir,
    kernel: PathBuf,
}

/// One entry of a `newc` archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let head = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        0,
        0,
        0,
        1,
        0,
        content.len(),
        0,
        0,
        device.0,
        device.1,
        name.len() + 1,
        0
    );
    archive.extend_from_slice(head.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

impl Bare {
    /// Builds the yardstick's initramfs.
    pub(crate) fn prepare() -> Bare {
        let dir = tempfile::tempdir().expect("make a directory");
        let arch = std::env::consts::ARCH;
        let target = format!("{arch}-unknown-linux-gnu");
        let built = Command::new("cargo")
            .args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "aegis-benches",
                "--bin",
                "bare-init",
                "--target",
                &target,
            ])
            .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
            .status();
        assert!(built.expect("run cargo").success(), "bare-init does not build");
        let init = std::fs::read(format!("target/{target}/release/bare-init")).expect("read bare-init");
        let mut archive = Vec::new();
        entry(&mut archive, "dev", 0o040_755, (0, 0), b"");
        // With it, the kernel connects init to the console.
        entry(&mut archive, "dev/console", 0o020_600, (5, 1), b"");
        entry(&mut archive, "init", 0o100_755, (0, 0), &init);
        entry(&mut archive, "TRAILER!!!", 0, (0, 0), b"");
        std::fs::write(dir.path().join("initramfs"), archive).expect("write the initramfs");
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        Bare { dir, kernel: home.join(".aegis/kernel/vmlinux") }
    }

    /// The kernel hands a word that it does not know to init. (Not behind `--`: QEMU appends its devices to the line.)
    fn start(&self, mode: &str) -> Running {
        let socket = |name: &str| self.dir.path().join(name);
        let chardev =
            |name: &str| format!("socket,id={name},path={},server=on,wait=off", socket(name).display());
        let initramfs = socket("initramfs");
        let mut command = Command::new(format!("qemu-system-{}", std::env::consts::ARCH));
        command.args([
            "-M",
            "microvm,acpi=off",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            // As the machines under test have it.
            "max,erms=off,fsrm=off",
            "-smp",
            "1",
            "-m",
            "512",
        ]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-append", &format!("console=ttyS0 quiet panic=-1 mitigations=off {mode}")]);
        command.args([
            "-chardev",
            &chardev("console"),
            "-serial",
            "chardev:console",
            "-chardev",
            &chardev("port"),
        ]);
        command.args([
            "-device",
            "virtio-serial-device",
            "-device",
            "virtserialport,chardev=port,nr=1,name=port",
        ]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(initramfs);
        Running(command.stdin(Stdio::null()).spawn().expect("start QEMU"))
    }

    fn connect(&self, name: &str) -> UnixStream {
        let path = self.dir.path().join(name);
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return stream,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
    }

    /// From spawning QEMU to the first user instruction, milliseconds.
    pub(crate) fn boot_ms(&self) -> f64 {
        self.clear();
        let begun = Instant::now();
        let running = self.start("");
        let mut console = self.connect("console");
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !seen.windows(5).any(|window| window == b"@user") {
            let count = console.read(&mut buffer).expect("read the console");
            assert_ne!(count, 0, "the yardstick's machine ended");
            seen.extend_from_slice(&buffer[..count]);
        }
        let elapsed = begun.elapsed().as_secs_f64() * 1e3;
        drop(running);
        elapsed
    }

    /// From the first to the last of `count` bytes through a raw port, milliseconds.
    pub(crate) fn pour_ms(&self, count: usize) -> f64 {
        self.clear();
        let running = self.start("pour");
        let mut port = self.connect("port");
        let mut buffer = vec![0; 1 << 20];
        let mut left = count - port.read(&mut buffer).expect("read the port");
        let begun = Instant::now();
        while left > 0 {
            let read = port.read(&mut buffer).expect("read the port");
            assert_ne!(read, 0, "the yardstick's machine ended");
            left -= read;
        }
        let elapsed = begun.elapsed().as_secs_f64() * 1e3;
        drop(running);
        elapsed
    }

    fn clear(&self) {
        for name in ["console", "port"] {
            remove(&self.dir.path().join(name));
        }
    }
}

fn remove(path: &Path) {
    // The first time there is none.
    let _absent = std::fs::remove_file(path);
}
