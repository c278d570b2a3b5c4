//! `make bench`: measures, each figure beside its yardstick in the same run, prints a table and writes JSON.
//!
//! `ROUNDS=5` for a quick look, `ONLY=wake,router` for some of its parts: machines, instant, wake, router, copies, images,
//! workspace, network.
//!
//! Machines are shared and noisy: look at the ratios. Samples of a figure and of its yardstick alternate, so that
//! noise hits both.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for developers; what fails, fails loudly"
)]

mod bare;
mod copies;
mod daemon;
mod images;
mod instant;
mod network;
mod report;
mod router;
mod wake;
mod workspace;
mod wrapper;

use std::time::{Duration, Instant};

use bare::Bare;
use daemon::Daemon;
use report::{Figure, Report};

/// Bytes of the throughput figures.
const POURED: usize = 200 << 20;

fn main() {
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let mut report = Report::default();
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|one| one == part);
    if wanted("machines") {
        let bare = Bare::prepare();
        boot(&mut report, &bare, rounds);
        exec(&mut report, rounds * 4);
        throughput(&mut report, &bare, rounds.div_ceil(3));
        ten_instances(&mut report);
        long_list(&mut report, rounds * 2);
    }
    if wanted("instant") {
        instant::templates(&mut report, &Bare::prepare(), rounds);
        instant::hibernation(&mut report, rounds);
        instant::forks(&mut report, rounds);
    }
    if wanted("wake") {
        wake::measure(&mut report, rounds);
        wake::many_paused(&mut report);
    }
    if wanted("router") {
        router::measure(&mut report, rounds);
    }
    if wanted("copies") {
        copies::measure(&mut report, rounds);
    }
    if wanted("images") {
        images::measure(&mut report, rounds);
    }
    if wanted("workspace") {
        workspace::measure(&mut report, rounds);
    }
    if wanted("network") {
        network::measure(&mut report, rounds);
        network::idle(&mut report);
    }
    report.print();
    let path = std::env::var("BENCH_JSON").unwrap_or_else(|_| "bench.json".to_owned());
    std::fs::write(&path, report.json()).expect("write the results");
    println!("\nwritten to {path}");
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1e3
}

fn boot(report: &mut Report, bare: &Bare, rounds: usize) {
    let daemon = Daemon::start();
    let run = || drop(daemon.aegis(&["run", "--no-template", "--", "true"]));
    run();
    let (mut ours, mut yardstick) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        yardstick.push(bare.boot_ms());
        ours.push(timed(run));
    }
    report.ratio(
        "aegis run --no-template -- true, whole command",
        "ms",
        ours,
        "bare QEMU to the first user instruction",
        yardstick,
        1.4,
    );
}

fn exec(report: &mut Report, rounds: usize) {
    let daemon = Daemon::start();
    let id = daemon.instance("box");
    // What a fork, exec and wait of the same program takes inside, each second of guest time being one of ours.
    let script = "s=$(date +%s%N); i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done; e=$(date +%s%N); echo $(((e-s)/100000))";
    let inside = || -> f64 {
        daemon.aegis(&["exec", &id, "--", "sh", "-c", script]).trim().parse().expect("a number")
    };
    let mut api = daemon.open_connection();
    let (mut command, mut request, mut spawns) = (Vec::new(), Vec::new(), Vec::new());
    daemon.aegis(&["exec", &id, "--", "true"]);
    for round in 0..rounds {
        command.push(timed(|| drop(daemon.aegis(&["exec", &id, "--", "/bin/true"]))));
        request.push(timed(|| api.exec_true(&id)));
        if round % 10 == 0 {
            spawns.push(inside() / 1000.0);
        }
    }
    let spawn = report::percentile(&spawns, 0.5);
    report.add(Figure::plain("spawn of the same program inside the guest", "ms", spawns));
    let less = |samples: Vec<f64>| samples.into_iter().map(|sample| sample - spawn).collect();
    report.add(Figure::at_most("no-op aegis exec, whole command, less the spawn", "ms", less(command), 8.0));
    report.add(Figure::at_most(
        "no-op exec, API on an open connection, less the spawn",
        "ms",
        less(request),
        3.0,
    ));
}

/// In the guest: how fast the same command gets its output into a pipe whose reader throws it away. No way out of
/// the guest that begins with a pipe can be faster.
const PIPE_FLOOR: &str = r#"
import fcntl, os, subprocess, time
r, w = os.pipe()
fcntl.fcntl(w, 1031, 262144)
null = os.open("/dev/null", os.O_WRONLY)
subprocess.Popen(["head", "-c", "200M", "/dev/zero"], stdout=w)
os.close(w)
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
begun = time.time()
total = 0
while count := os.splice(r, null, 262144):
    total += count
print(total / (time.time() - begun) / 1e6)
"#;

fn throughput(report: &mut Report, bare: &Bare, rounds: usize) {
    let daemon = Daemon::start();
    let id = daemon.instance("box");
    let rate = |ms: f64| POURED as f64 / 1e6 / (ms / 1e3);
    let (mut ours, mut raw, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        raw.push(rate(bare.pour_ms(POURED)));
        ours.push(rate(timed(|| {
            daemon.drain(&["exec", &id, "--", "head", "-c", "200M", "/dev/zero"], POURED)
        })));
        let inside = daemon.aegis(&["exec", &id, "--", "python3", "-c", PIPE_FLOOR]);
        floor.push(inside.trim().parse().expect("a number"));
    }
    report.at_least_ratio(
        "aegis exec -- head -c 200M /dev/zero",
        "MB/s",
        ours,
        "raw virtio-serial port",
        raw,
        0.7,
    );
    report.add(Figure::plain("  against head into a pipe inside the guest, read by nobody", "MB/s", floor));
}

fn ten_instances(report: &mut Report) {
    let daemon = Daemon::start();
    for number in 0..10 {
        daemon.instance(&format!("idle-{number}"));
    }
    std::thread::sleep(Duration::from_secs(5));
    let pid = daemon.pid();
    let (before, begun) = (daemon::cpu_ms(pid), Instant::now());
    std::thread::sleep(Duration::from_secs(20));
    let cpu = (daemon::cpu_ms(pid) - before) / (begun.elapsed().as_secs_f64() * 1e3) * 100.0;
    let memory = daemon::status_mib(pid, "VmRSS");
    report.add(Figure::at_most("daemon memory with ten running instances", "MiB", vec![memory], 40.0));
    report.add(Figure::at_most("daemon CPU while they idle", "% of a core", vec![cpu], 0.5));
    let machines = daemon.machines();
    let each = |field: &str| machines.iter().map(|pid| daemon::status_mib(*pid, field)).collect::<Vec<_>>();
    report.add(Figure::plain(
        "idle instance: memory of its template in use (shared by all)",
        "MiB",
        each("RssShmem"),
    ));
    report.add(Figure::plain(
        "idle instance: memory of its own (guest, QEMU's heap, translated code)",
        "MiB",
        each("RssAnon"),
    ));
    report.add(Figure::plain(
        "idle instance: QEMU's program and libraries (shared by all)",
        "MiB",
        each("RssFile"),
    ));
    let guest_cpu: f64 = machines.iter().map(|pid| daemon::cpu_ms(*pid)).sum();
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(10));
    let used: f64 = machines.iter().map(|pid| daemon::cpu_ms(*pid)).sum::<f64>() - guest_cpu;
    let share = used / (begun.elapsed().as_secs_f64() * 1e3) * 100.0 / 10.0;
    report.add(Figure::plain("idle instance: CPU of its QEMU", "% of a core", vec![share]));
}

fn long_list(report: &mut Report, rounds: usize) {
    let daemon = Daemon::start_with_stored(1000);
    let samples = (0..rounds).map(|_| timed(|| drop(daemon.aegis(&["instance", "list"])))).collect();
    report.add(Figure::at_most("aegis instance list with 1,000 stored instances", "ms", samples, 20.0));
}
