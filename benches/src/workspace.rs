//! The workspace: what developers' tools do in `/workspace`, beside QEMU's own virtio-9p in the same guest.
//!
//! The machine gets its 9p device from a QEMU that adds it to what the daemon asks for; the daemon knows nothing of it.

use std::path::Path;

use serde_json::Value;

use crate::daemon::Daemon;
use crate::report::Report;
use crate::wrapper;

/// Runs in the guest, with the directory to measure in: prints milliseconds by name, one JSON object.
const SCRIPT: &str = include_str!("workspace.py");

/// What is measured: its name in the script, and in the report.
const FIGURES: [(&str, &str); 7] = [
    ("find", "find over 3,000 files in /workspace"),
    ("read", "read all of them"),
    ("create", "create 500 files"),
    ("status", "git status of 500 files"),
    ("untar", "untar 500 files"),
    ("write_big", "write 32 MB and fsync"),
    ("read_big", "read 32 MB"),
];

/// Adds a 9p device; returns the directory that has to come first in `PATH`.
fn with_9p(dir: &Path) -> String {
    let device = format!(
        "-fsdev local,id=p9,path={},security_model=none,multidevs=remap -device virtio-9p-device,fsdev=p9,mount_tag=p9",
        dir.join("9p").display()
    );
    wrapper::with_devices(dir, &device);
    dir.display().to_string()
}

/// 3,000 files of 3 KB, and one of 32 MB.
fn fill(dir: &Path) {
    for number in 0..3000usize {
        let at = dir.join(format!("src/d{}", number / 100));
        std::fs::create_dir_all(&at).expect("make a directory");
        let contents: Vec<u8> = (0..3000usize).map(|i| (i * 7 + number).to_le_bytes()[0]).collect();
        std::fs::write(at.join(format!("f{number}.c")), contents).expect("write");
    }
    let big: Vec<u8> = (0..32usize << 20).map(|i| (i >> 3).to_le_bytes()[0]).collect();
    std::fs::write(dir.join("big"), big).expect("write");
    std::fs::write(dir.join("measure.py"), SCRIPT).expect("write");
}

/// Measures the workspace.
pub(crate) fn measure(report: &mut Report, rounds: usize) {
    let dir = tempfile::tempdir().expect("make a directory");
    for name in ["own", "9p"] {
        fill(&dir.path().join(name));
    }
    let daemon = Daemon::start_with_path(&with_9p(dir.path()));
    let workspace = dir.path().join("own").display().to_string();
    let start = ["instance", "start", "--name", "box", "--workspace", &workspace, "--", "sleep", "100000"];
    daemon.aegis(&start);
    let mount = "mkdir -p /p9; mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 p9 /p9";
    daemon.aegis(&["exec", "box", "--", "sh", "-c", mount]);
    let mut samples = vec![(Vec::new(), Vec::new()); FIGURES.len()];
    for _ in 0..rounds.div_ceil(3) {
        let [ours, others] = ["/workspace", "/p9"].map(|at| {
            let out = daemon.aegis(&["exec", "box", "--", "python3", "/workspace/measure.py", at]);
            serde_json::from_str::<Value>(&out).expect("JSON of the script")
        });
        for ((name, _), (own, other)) in FIGURES.iter().zip(&mut samples) {
            own.push(ours[*name].as_f64().expect("a figure"));
            other.push(others[*name].as_f64().expect("a figure"));
        }
    }
    for ((_, title), (own, other)) in FIGURES.iter().zip(samples) {
        report.ratio(title, "ms", own, "virtio-9p in the same guest", other, 1.0);
    }
}
