//! The network: throughput, connections and names through our gateway, beside `passt` and QEMU's user networking, in the
//! same guest with three cards.
//!
//! The machine gets the other two from a QEMU that adds them to what the daemon asks for; the daemon knows nothing of them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aegis_tests::lab::Lab;
use serde_json::Value;

use crate::daemon::{cpu_ms, memory_mib};
use crate::report::{Figure, Report, percentile};
use crate::wrapper;

/// Runs in the guest, with the card to measure: prints samples by name, one JSON object.
const SCRIPT: &str = include_str!("network.py");
/// Cards, ours first.
const CARDS: [&str; 3] = ["ours", "passt", "slirp"];
/// Sets the other two cards up.
const SET_UP: &str = "set -e
ip addr add 192.0.2.2/24 dev eth1; ip link set eth1 mtu 65520 up
ip route add 203.0.113.101 via 192.0.2.1; ip route add 203.0.113.153 via 192.0.2.1
ip addr add 10.0.2.15/24 dev eth2; ip link set eth2 up; ip route add 203.0.113.102 via 10.0.2.2";
/// Gateways of the figure about idle ones.
const IDLE: usize = 100;

/// What is measured: its name in the script and in the report, its unit, and whether more is better.
const FIGURES: [(&str, &str, &str, bool); 6] = [
    ("down1", "TCP into the guest, 1 flow", "MB/s", true),
    ("up1", "TCP out of the guest, 1 flow", "MB/s", true),
    ("down8", "TCP into the guest, 8 flows", "MB/s", true),
    ("up8", "TCP out of the guest, 8 flows", "MB/s", true),
    ("connect", "connect and first byte", "ms", false),
    ("names", "ask for a name", "ms", false),
];

/// Adds two cards; returns the `PATH` with which they are had.
fn with_cards(dir: &Path) -> String {
    let devices = format!(
        "-netdev stream,id=passt,server=off,addr.type=unix,addr.path={} \
         -device virtio-net-device,netdev=passt,host_mtu=65520 -netdev user,id=slirp -device virtio-net-device,netdev=slirp",
        dir.join("passt.sock").display()
    );
    wrapper::with_devices(dir, &devices);
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default())
}

/// Serves each connection in a thread of its own, until the process ends.
fn serve(listener: TcpListener, each: fn(TcpStream)) {
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || each(client));
        }
    });
}

/// Sends as many bytes as it is asked for.
fn pour(mut client: TcpStream) {
    let mut size = [0; 8];
    if client.read_exact(&mut size).is_ok() {
        let _gone = std::io::copy(&mut std::io::repeat(0).take(u64::from_le_bytes(size)), &mut client);
    }
}

/// Takes all bytes, and says that it has.
fn swallow(mut client: TcpStream) {
    let mut buffer = vec![0; 1 << 20];
    while client.read(&mut buffer).is_ok_and(|count| count > 0) {}
    let _gone = client.write_all(b"x");
}

fn greet(mut client: TcpStream) {
    let _gone = client.write_all(b"x");
}

/// Measures all three.
pub(crate) fn measure(report: &mut Report, rounds: usize) {
    let lab = Lab::new();
    serve(lab.listen("0.0.0.0:5001"), pour);
    serve(lab.listen("0.0.0.0:5002"), swallow);
    serve(lab.listen("0.0.0.0:5003"), greet);
    let dir = tempfile::tempdir().expect("make a directory");
    // It gives its rights up.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).expect("open a directory");
    let socket = dir.path().join("passt.sock");
    let mut passt = Command::new("ip")
        .args(["netns", "exec", lab.host(), "passt", "-f", "-q", "-s"])
        .arg(&socket)
        .stdin(Stdio::null())
        .spawn()
        .expect("passt; run scripts/dependencies bench");
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let path = with_cards(dir.path());
    let daemon = aegis_tests::Daemon::start_on_with(&lab, "", &[("PATH", &path)]);
    let ok = |arguments: &[&str]| daemon.ok(arguments);
    let script = dir.path().join("network.py");
    std::fs::write(&script, SCRIPT).expect("write the script");
    drop(ok(&["instance", "start", "--name", "box", "--", "sleep", "100000"]));
    drop(ok(&["cp", &script.display().to_string(), "box:/network.py"]));
    drop(ok(&["exec", "box", "--", "bash", "-c", SET_UP]));
    let mut samples = vec![[const { Vec::new() }; CARDS.len()]; FIGURES.len()];
    for _ in 0..rounds.div_ceil(3) {
        for (card, name) in CARDS.iter().enumerate() {
            let found: Value =
                serde_json::from_str(&ok(&["exec", "box", "--", "python3", "/network.py", name]))
                    .expect("JSON");
            for ((figure, ..), all) in FIGURES.iter().zip(&mut samples) {
                all[card]
                    .extend(found[*figure].as_array().expect("samples").iter().filter_map(Value::as_f64));
            }
        }
    }
    for ((_, title, unit, more), [ours, passt, slirp]) in FIGURES.iter().zip(samples) {
        let [by_passt, by_slirp] = [&passt, &slirp].map(|samples| percentile(samples, 0.5));
        // The better of the two is the yardstick.
        let passt_is_better = if *more { by_passt >= by_slirp } else { by_passt <= by_slirp };
        let (better, other) = if passt_is_better {
            (("passt", passt), ("QEMU user networking", slirp))
        } else {
            (("QEMU user networking", slirp), ("passt", passt))
        };
        if *more {
            report.at_least_ratio(title, unit, ours, better.0, better.1, 1.0);
        } else {
            report.ratio(title, unit, ours, better.0, better.1, 1.2);
        }
        report.add(Figure::plain(&format!("  and {}", other.0), unit, other.1));
    }
    drop(daemon);
    let _gone = passt.kill();
    let _gone = passt.wait();
}

/// A gateway without a machine.
struct Gateway {
    process: Child,
    _machine: UnixStream,
}

fn gateway(dir: &Path, number: usize) -> Gateway {
    let (machine, frames) = UnixStream::pair().expect("a pair");
    let path = dir.join(format!("{number}.sock"));
    let control = UnixListener::bind(&path).expect("a socket");
    let process = Command::new(aegis_tests::bin().join("aegis-gateway"))
        .stdin(Stdio::from(OwnedFd::from(frames)))
        .stdout(Stdio::from(OwnedFd::from(control)))
        .spawn()
        .expect("start a gateway");
    let mut stream = UnixStream::connect(path).expect("reach it");
    stream.write_all(b"{\"set\":{\"policy\":{\"default\":\"public\",\"rules\":[]}}}\n").expect("tell it");
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).expect("an answer");
    Gateway { process, _machine: machine }
}

/// What gateways take whose guests do nothing.
pub(crate) fn idle(report: &mut Report) {
    let dir = tempfile::tempdir().expect("make a directory");
    let mut all: Vec<Gateway> = (0..IDLE).map(|number| gateway(dir.path(), number)).collect();
    std::thread::sleep(Duration::from_secs(2));
    let pid = |one: &Gateway| i32::try_from(one.process.id()).expect("a pid");
    let pids: Vec<i32> = all.iter().map(pid).collect();
    let cpu = || pids.iter().map(|pid| cpu_ms(*pid)).sum::<f64>();
    let (before, begun) = (cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(20));
    let used = (cpu() - before) / (begun.elapsed().as_secs_f64() * 1e3) * 100.0;
    let memory = pids.iter().map(|pid| memory_mib(*pid, &["Pss:"])).collect();
    report.add(Figure::at_most("gateway memory of an idle instance (proportional)", "MiB", memory, 1.0));
    report.add(Figure::at_most("CPU of 100 idle gateways", "% of a core", vec![used], 0.1));
    for one in &mut all {
        let _gone = one.process.kill();
        let _gone = one.process.wait();
    }
}
