//! Instant start: from a template, and from disk.

use std::time::{Duration, Instant};

use crate::bare::Bare;
use crate::daemon::{Daemon, memory_mib};
use crate::report::{Figure, Report};
use crate::{timed, wake};

/// A server like that of the other wakes, in a guest that uses 100 MiB.
const BALLAST: &str = "import os\nballast = os.urandom(60 << 20)\n";
/// How long a template may take to be there.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until the list of templates has this in it.
fn wait_for(daemon: &Daemon, what: &str) {
    let begun = Instant::now();
    while !daemon.aegis(&["template", "list"]).contains(what) {
        assert!(begun.elapsed() < DEADLINE, "nothing is {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Measures starts from a template beside the bare boot: as users have them, who start something now and then, on the
/// machine that is ready; and one after the other, when there is none.
pub(crate) fn templates(report: &mut Report, bare: &Bare, rounds: usize) {
    let (daemon, without) = (Daemon::start_configured(""), Daemon::start());
    let run = |daemon: &Daemon| drop(daemon.aegis(&["run", "--", "true"]));
    for one in [&daemon, &without] {
        run(one);
        wait_for(one, "MiB");
        run(one);
    }
    let (mut ours, mut cold, mut yardstick) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        wait_for(&daemon, "ready");
        ours.push(timed(|| run(&daemon)));
        wait_for(&daemon, "ready");
        yardstick.push(bare.boot_ms());
        cold.push(timed(|| run(&without)));
    }
    let spare = daemon.machines();
    let each = unique_mib(&spare) / f64::from(u32::try_from(spare.len()).unwrap_or(u32::MAX));
    report.add(Figure::at_most("aegis run -- true, template present", "ms", ours.clone(), 150.0));
    report.ratio(
        "the same, whole command",
        "ms",
        ours,
        "bare QEMU to the first user instruction",
        yardstick,
        0.4,
    );
    report.add(Figure::plain("  the same without a machine that is ready", "ms", cold));
    report.add(Figure::plain("  memory that a machine that is ready has for itself", "MiB", vec![each]));
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

/// How many children at once.
const MANY: u32 = 50;

/// Memory that processes have for themselves, MiB.
fn unique_mib(pids: &[i32]) -> f64 {
    pids.iter().map(|pid| memory_mib(*pid, &["Private_Clean:", "Private_Dirty:"])).sum()
}

/// Measures forks of a parent that uses 100 MiB.
pub(crate) fn forks(report: &mut Report, rounds: usize) {
    let daemon = Daemon::start();
    let _port = wake::start_with(&daemon, "web", BALLAST);
    let (mut stood, mut whole, mut answered, mut exec) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut reply = String::new();
        let begun = Instant::now();
        whole.push(timed(|| reply = daemon.aegis(&["fork", "web", "--output", "json"])));
        exec.push(timed(|| drop(daemon.aegis(&["exec", "web-1", "--", "true"]))));
        answered.push(begun.elapsed().as_secs_f64() * 1e3);
        let reply: serde_json::Value = serde_json::from_str(&reply).expect("JSON");
        stood.push(reply["stood_ms"].as_f64().expect("a time"));
        daemon.aegis(&["instance", "delete", "web-1"]);
    }
    report.add(Figure::at_most("fork of a parent that uses 100 MiB: its pause", "ms", stood, 60.0));
    report.add(Figure::plain("  aegis fork, whole command", "ms", whole));
    report.add(Figure::plain("  the first exec in the child, whole command", "ms", exec));
    report.add(Figure::at_most("  fork, then exec in the child, both commands", "ms", answered, 150.0));
    let name = format!("{MANY} forks of a 256 MiB parent, whole command");
    let before = daemon.processes();
    let took = timed(|| drop(daemon.aegis(&["fork", "web", "--count", &MANY.to_string()])));
    report.add(Figure::at_most(&name, "s", vec![took / 1e3], 6.0));
    // What an idle child does by itself, it has done by then.
    std::thread::sleep(Duration::from_secs(5));
    let children: Vec<i32> = daemon.processes().into_iter().filter(|pid| !before.contains(pid)).collect();
    let each = unique_mib(&children) / f64::from(MANY);
    report.add(Figure::at_most("  memory that each idle child has for itself", "MiB", vec![each], 35.0));
}
