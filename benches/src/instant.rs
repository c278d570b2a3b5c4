//! Instant start: from a template, and from disk.

use std::time::{Duration, Instant};

use crate::bare::Bare;
use crate::daemon::Daemon;
use crate::report::{Figure, Report};
use crate::{timed, wake};

/// A server like that of the other wakes, in a guest that uses 100 MiB.
const BALLAST: &str = "import os\nballast = os.urandom(60 << 20)\n";
/// How long a template may take to be there.
const DEADLINE: Duration = Duration::from_secs(60);

fn wait_for_template(daemon: &Daemon) {
    let begun = Instant::now();
    while daemon.aegis(&["template", "list"]).starts_with("No templates") {
        assert!(begun.elapsed() < DEADLINE, "there is no template");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Measures starts from a template beside the bare boot.
pub(crate) fn templates(report: &mut Report, bare: &Bare, rounds: usize) {
    let daemon = Daemon::start();
    let run = || drop(daemon.aegis(&["run", "--", "true"]));
    run();
    wait_for_template(&daemon);
    run();
    let (mut ours, mut yardstick) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        yardstick.push(bare.boot_ms());
        ours.push(timed(run));
    }
    report.add(Figure::at_most("aegis run -- true, template present", "ms", ours.clone(), 150.0));
    report.ratio(
        "the same, whole command",
        "ms",
        ours,
        "bare QEMU to the first user instruction",
        yardstick,
        0.4,
    );
}

/// Measures the way to disk and back.
pub(crate) fn hibernation(report: &mut Report, rounds: usize) {
    let daemon = Daemon::start();
    let port = wake::start_with(&daemon, "web", BALLAST);
    let mut running = Vec::new();
    let (mut to_disk, mut back, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        running.push(wake::first_byte_ms(port));
        to_disk.push(timed(|| drop(daemon.aegis(&["instance", "hibernate", "web"]))));
        left.push(f64::from(u32::try_from(daemon.machines().len()).unwrap_or(u32::MAX)));
        back.push(wake::first_byte_ms(port));
    }
    let name = "hibernate a 256 MiB guest that uses 100 MiB, whole command";
    report.add(Figure::at_most(name, "ms", to_disk, 300.0));
    report.add(Figure::at_most("  processes, and so memory, that it has afterwards", "", left, 0.0));
    report.add(Figure::at_most("wake from hibernated: connect to first byte", "ms", back, 250.0));
    report.add(Figure::plain("  against connect to first byte while running", "ms", running));
}
