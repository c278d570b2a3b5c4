//! Two minutes of everything at once, on real machines: connections, pauses, stops, disables, execs, restores, forks, idle
//! timers, dead machines and dead daemons, in random order, with clients of every kind that stay. SHORT=1 makes it twenty
//! seconds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aegis_tests::{DEADLINE, Daemon, eventually};

use crate::lifecycle::clients::{Client, KINDS, Kind, start};

const NAMES: [&str; 2] = ["one", "two"];

/// A member of their group that speaks to both of them, over and over.
const MEMBER: &str = r#"
import random, socket, time
while True:
    try:
        with socket.create_connection((random.choice(["one.team", "two.team"]), 80), 60) as s:
            for _ in range(random.randrange(8)):
                s.sendall(b"x")
                if not s.recv(9): break
                time.sleep(random.random())
    except OSError: time.sleep(0.2)
    time.sleep(1)
"#;

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
    let mut answer = [0; 6];
    match stream.write_all(b"served").and_then(|()| stream.read_exact(&mut answer)) {
        Ok(()) => &answer == b"served",
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

/// A client that stays for a while, and sooner or later another one: each is answered, or its connection ends.
fn stays(daemon: &Daemon, name: &str, kind: Kind, over: &AtomicBool, mut dice: Dice) {
    let mut port = None;
    while !over.load(Ordering::Relaxed) {
        // The daemon may just be away; the number stays the same.
        port = port.or_else(|| daemon.info(name).map(|info| kind.port(&info)));
        let client = port.and_then(|port| Client::try_served(port, name, kind));
        if client.is_none() && matches!(kind, Kind::KeptAliveByName | Kind::WebSocketByName) {
            // The name router has another port after a crash.
            port = None;
        }
        if let Some(mut client) = client {
            client.stream.set_read_timeout(Some(Duration::from_secs(70))).unwrap();
            for _ in 0..dice.roll(4) {
                std::thread::sleep(Duration::from_millis(dice.roll(1500)));
                client.says_more();
                if let Err(error) = client.listens() {
                    assert_ne!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock,
                        "{kind:?}: neither answered nor ended"
                    );
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Puts it back, or is told why not; in time.
fn restore(daemon: &Daemon, name: &str) {
    let marked = daemon.aegis(&["exec", name, "--", "sh", "-c", "echo x > /root/later; sync"]).code == 0;
    let begun = Instant::now();
    let done = daemon.aegis(&["snapshot", "restore", &format!("s-{name}")]);
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}: {}", begun.elapsed(), done.err());
    if done.code == 0 && marked {
        let look = daemon.aegis(&["exec", name, "--", "sh", "-c", "ls /root/later 2>/dev/null || echo none"]);
        assert!(look.code != 0 || look.out() == "none\n", "restored, and not as it was: {}", look.out());
    }
}

/// Forks it, and deletes what comes of that.
fn fork(daemon: &Daemon, name: &str) {
    let _any = daemon.aegis(&["fork", name, "--name", "child"]);
    let _any = daemon.aegis(&["instance", "delete", "child-1"]);
}

/// One thing that happens to an instance.
fn happen(daemon: &Daemon, dice: &mut Dice, name: &str) -> &'static str {
    let act = |verb: &str| {
        // Whoever else acts at this moment may make it impossible; that is no failure.
        let _any = daemon.aegis(&["instance", verb, name]);
    };
    match dice.roll(13) {
        0 | 1 => {
            act("pause");
            "pause"
        }
        2 => {
            let done = daemon.aegis(&["instance", "stop", name]);
            assert_eq!(done.code, 0, "a stop that was not answered: {}", done.err());
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
        8 | 9 => {
            restore(daemon, name);
            "restore"
        }
        10 => {
            fork(daemon, name);
            "fork"
        }
        11 => {
            act("hibernate");
            "hibernate"
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
    let daemon = Arc::new(Daemon::start());
    for name in NAMES {
        let rest = ["--idle-pause", "700ms", "--idle-stop", "700ms", "--idle-connections-after", "300ms"];
        start(&daemon, name, &[&rest[..], &["--group", "team"]].concat());
        drop(Client::served(&daemon, name, Kind::Tcp));
        let _out = daemon.ok(&["snapshot", "create", name, &format!("s-{name}")]);
    }
    let member = ["instance", "start", "--name", "member", "--memory", "160", "--group", "team"];
    let _out = daemon.ok(&[&member[..], &["--restart", "always", "--", "python3", "-c", MEMBER]].concat());
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
    let staying = NAMES.into_iter().flat_map(|name| KINDS.map(|kind| (name, kind))).zip(seed..);
    let staying: Vec<_> = staying
        .map(|((name, kind), seed)| {
            let (daemon, over) = (Arc::clone(&daemon), Arc::clone(&over));
            std::thread::spawn(move || stays(&daemon, name, kind, &over, Dice(seed)))
        })
        .collect();
    let (mut dice, mut steps) = (Dice(seed), Vec::new());
    while Instant::now() < until {
        let name = NAMES[usize::try_from(dice.roll(2)).unwrap()];
        steps.push((name, happen(&daemon, &mut dice, name)));
        let machines = daemon.machines().len();
        assert!(
            machines <= NAMES.len() + 1,
            "{machines} machines for three instances; seed {seed}, {steps:?}"
        );
        // Somebody else's connection may be cut by what has just happened; the next one is not.
        let port = ports[usize::from(name == "two")];
        eventually(&format!("{name} serves; seed {seed}, {steps:?}"), DEADLINE, || served(port));
        assert_eq!(port_of(&daemon, name), port, "seed {seed}, {steps:?}");
    }
    over.store(true, Ordering::Relaxed);
    for client in clients.into_iter().chain(staying) {
        client.join().expect("a client that never hung");
    }
    assert!(answers.load(Ordering::Relaxed) > 0 && steps.len() > 3, "{} steps", steps.len());
    for name in ["one", "two", "member"] {
        assert_eq!(daemon.aegis(&["instance", "delete", name]).code, 0);
    }
    eventually("no machine is left", DEADLINE, || daemon.machines().is_empty());
}
