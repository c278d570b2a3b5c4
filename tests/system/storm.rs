//! Two minutes of everything at once, on real machines: connections, pauses, stops, disables, execs, idle timers, dead
//! machines and dead daemons, in random order. SHORT=1 makes it twenty seconds.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aegis_tests::{DEADLINE, Daemon, eventually};

const SERVER: &str = "
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', 80))
s.listen(1024)
while True:
    c, _ = s.accept()
    c.sendall(b'served')
    c.close()
";
const NAMES: [&str; 2] = ["one", "two"];

/// Numbers that look random and can be had again (Numerical Recipes' linear congruential generator).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & 0xFFFF_FFFF;
        (self.0 >> 8) % sides
    }
}

/// Whether a connection is served; never waits for longer than a wake and the start of a server may take.
fn served(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(70))).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer == b"served",
        Err(error) => {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "a connection was neither served nor refused"
            );
            false
        }
    }
}

fn port_of(daemon: &Daemon, name: &str) -> u16 {
    let port = daemon.info(name).unwrap()["endpoints"][0]["public_port"].as_u64().unwrap();
    port.try_into().unwrap()
}

/// One thing that happens to an instance.
fn happen(daemon: &Daemon, dice: &mut Dice, name: &str) -> &'static str {
    let act = |verb: &str| {
        // Whoever else acts at this moment may make it impossible; that is no failure.
        let _any = daemon.aegis(&["instance", verb, name]);
    };
    match dice.roll(9) {
        0 | 1 => {
            act("pause");
            "pause"
        }
        2 => {
            act("stop");
            "stop"
        }
        3 => {
            act("restart");
            "restart"
        }
        4 => {
            let _any = daemon.aegis(&["exec", name, "--", "true"]);
            "exec"
        }
        5 => {
            act("disable");
            let refused = !served(port_of(daemon, name));
            assert!(refused && daemon.state(name) == "stopped", "a disabled instance was woken");
            assert_eq!(daemon.aegis(&["instance", "start", "--name", name]).code, 0);
            "disable and start"
        }
        6 => {
            std::thread::sleep(Duration::from_millis(1000 + dice.roll(1500)));
            "idle time"
        }
        7 => {
            for pid in daemon.machines().into_iter().take(1) {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                // It may have ended by itself.
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            "death of a machine"
        }
        _ => {
            daemon.crash();
            daemon.up();
            "crash of the daemon"
        }
    }
}

#[test]
fn whatever_happens_in_whatever_order_the_next_connection_is_served() {
    let long = std::env::var_os("SHORT").is_none();
    let until = Instant::now() + Duration::from_secs(if long { 120 } else { 20 });
    let daemon = Daemon::start();
    for name in NAMES {
        let head = ["instance", "start", "--name", name, "--memory", "160", "--expose", "80/tcp"];
        let rest = ["--idle-pause", "700ms", "--idle-stop", "700ms", "--", "python3", "-c", SERVER];
        assert_eq!(daemon.aegis(&[&head[..], &rest[..]].concat()).code, 0);
    }
    let ports = NAMES.map(|name| port_of(&daemon, name));
    let over = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = ports
        .into_iter()
        .map(|port| {
            let (over, answers) = (Arc::clone(&over), Arc::clone(&answers));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    answers.fetch_add(usize::from(served(port)), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(300));
                }
            })
        })
        .collect();
    let seed = u64::from(std::process::id());
    let (mut dice, mut steps) = (Dice(seed), Vec::new());
    while Instant::now() < until {
        let name = NAMES[usize::try_from(dice.roll(2)).unwrap()];
        steps.push((name, happen(&daemon, &mut dice, name)));
        let machines = daemon.machines().len();
        assert!(machines <= NAMES.len(), "{machines} machines for two instances; seed {seed}, {steps:?}");
        // Somebody else's connection may be cut by what has just happened; the next one is not.
        let port = ports[usize::from(name == "two")];
        eventually(&format!("{name} serves; seed {seed}, {steps:?}"), DEADLINE, || served(port));
        assert_eq!(port_of(&daemon, name), port, "seed {seed}, {steps:?}");
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client that never hung");
    }
    assert!(answers.load(Ordering::Relaxed) > 0 && steps.len() > 3, "{} steps", steps.len());
    for name in NAMES {
        assert_eq!(daemon.aegis(&["instance", "delete", name]).code, 0);
    }
    eventually("no machine is left", DEADLINE, || daemon.machines().is_empty());
}
