//! Groups: members reach each other by name, as if on a network of their own, and nobody else reaches them.

use std::time::{Duration, Instant};

use aegis_tests::{DEADLINE, Daemon, eventually};

use crate::lifecycle::idle::becomes;
use crate::network::policy::{gateway, is_refused};

/// A server of TCP (port 80: tells who has come, then says everything again) and UDP (port 81), after a while.
const SERVER: &str = r#"
import socket, sys, threading, time
time.sleep(float(sys.argv[1]))
def talk(client, address):
    client.sendall((address[0] + "\n").encode())
    while True:
        try: got = client.recv(65536)
        except OSError: return
        if not got: break
        client.sendall(got)
    client.close()
def datagrams():
    while True:
        got, other = udp.recvfrom(65536)
        udp.sendto(other[0].encode() + b" " + got, other)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 81))
threading.Thread(target=datagrams, daemon=True).start()
tcp = socket.create_server(("0.0.0.0", 80), backlog=1000)
while True:
    threading.Thread(target=talk, args=tcp.accept(), daemon=True).start()
"#;

/// What a client says of each place: who it is there, or how it was refused.
const CLIENT: &str = r#"
import socket, struct, sys, time
def tcp(host):
    s = socket.create_connection((host, 80), 60)
    return "tcp as " + s.makefile().readline().strip()
def udp(host):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.connect((host, 81))
    s.send(b"x" * 9000)
    who, what = s.recv(65536).split(b" ")
    return "udp as %s, %d" % (who.decode(), len(what))
def echo(host):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.settimeout(10)
    body = b"\x00\x07\x00\x01hi"
    total = 0x0800 + sum(struct.unpack("!3H", body))
    total = (total & 0xffff) + (total >> 16)
    s.sendto(b"\x08\x00" + struct.pack("!H", ~total & 0xffff) + body, (socket.gethostbyname(host), 0))
    while True:
        answer = s.recv(100)
        if answer[20] != 8: return "echo" if answer[20] == 0 else "no echo"
for place in sys.argv[1:]:
    for way in (tcp, udp, echo):
        begun = time.time()
        try: word = way(place)
        except socket.gaierror: word = "no name"
        except ConnectionRefusedError: word = "refused"
        except OSError as error: word = error.strerror or str(error)
        late = " late" if time.time() - begun > 20 else ""
        print(place, word + late, flush=True)
        if word == "no name": break
"#;

fn serve(daemon: &Daemon, handle: &str, options: &[&str], delay: &str) {
    let head = ["instance", "start", "--name", handle, "--memory", "192"];
    done(daemon, &[&head, options, &["--", "python3", "-u", "-c", SERVER, delay]].concat());
}

fn done(daemon: &Daemon, arguments: &[&str]) {
    let done = daemon.aegis(arguments);
    assert_eq!(done.code, 0, "{arguments:?}: {}", done.err());
}

fn tell(daemon: &Daemon, handle: &str, places: &[&str]) -> String {
    let done = daemon.aegis(&[&["exec", handle, "--", "python3", "-c", CLIENT], places].concat());
    assert_eq!(done.code, 0, "{}", done.err());
    done.out()
}

/// What a client says of a place that it reaches in every way, as who it is there.
fn reached(place: &str, own: &str) -> String {
    format!("{place} tcp as {own}\n{place} udp as {own}, 9000\n{place} echo\n")
}

fn python(daemon: &Daemon, handle: &str, script: &str) -> String {
    let done = daemon.aegis(&["exec", handle, "--", "python3", "-c", script]);
    format!("{}{}", done.out(), done.err())
}

/// Lets a client say something to a member again and again, in the background of the guest.
fn begin_chat(daemon: &Daemon, handle: &str, with: &str) {
    let script = format!(
        "import socket, time
s = socket.create_connection((\"{with}\", 80), 60)
f = s.makefile(); f.readline()
try:
    while True:
        s.sendall(b\"x\\n\")
        if f.readline() != \"x\\n\": raise OSError(\"end\")
        print(\".\", end=\"\", flush=True); time.sleep(0.05)
except OSError as error: print(\" ended:\", error, flush=True)"
    );
    let background = format!("setsid python3 -u -c '{script}' > /run/chat 2>&1 < /dev/null &");
    let done = daemon.aegis(&["exec", handle, "--", "bash", "-c", &background]);
    assert_eq!(done.code, 0, "{}", done.err());
    goes_on(daemon, handle);
}

/// Whether the chat goes on.
fn goes_on(daemon: &Daemon, handle: &str) {
    let so_far = said(daemon, handle).len();
    eventually("the chat goes on", DEADLINE, || {
        let said = said(daemon, handle);
        assert!(!said.contains("ended"), "{said}");
        said.len() > so_far + 5
    });
}

fn said(daemon: &Daemon, handle: &str) -> String {
    daemon.aegis(&["exec", handle, "--", "cat", "/run/chat"]).out()
}

fn addresses(daemon: &Daemon, handle: &str) -> String {
    let shown = daemon.ok(&["exec", handle, "--", "ip", "-4", "-o", "addr", "show", "eth0"]);
    let words = shown.split_whitespace().filter(|word| word.contains('/'));
    words.map(|word| word.split('/').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
}

#[test]
fn members_reach_each_other_by_name_and_nobody_else_reaches_them() {
    let daemon = Daemon::start();
    serve(&daemon, "a", &["--group", "crew", "--network", "none"], "0");
    serve(&daemon, "b", &["--group", "crew", "--group", "other"], "0");
    serve(&daemon, "c", &["--group", "other"], "0");
    serve(&daemon, "d", &[], "0");
    let listed = daemon.ok(&["network", "groups"]);
    let names: Vec<String> = listed
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        names,
        ["a.crew 198.19.0.1", "b.crew 198.19.0.2", "b.other 198.19.1.1", "c.other 198.19.1.2"],
        "{listed}"
    );
    // Whatever else it may reach, and as whom it is in that group.
    assert_eq!(tell(&daemon, "a", &["b.crew"]), reached("b.crew", "198.19.0.1"));
    let said = tell(&daemon, "b", &["a.crew", "c.other"]);
    assert_eq!(said, reached("a.crew", "198.19.0.2") + &reached("c.other", "198.19.1.1"));
    assert_eq!(tell(&daemon, "a", &["a.crew"]), reached("a.crew", "198.19.0.1"));
    // Members of members are strangers, and so is everybody else; by name and by address.
    let closed = |place: &str| format!("{place} refused\n{place} refused\n{place} no echo\n");
    assert_eq!(
        tell(&daemon, "a", &["c.other", "198.19.1.2"]),
        format!("c.other no name\n{}", closed("198.19.1.2"))
    );
    for stranger in ["c", "d"] {
        let said = tell(&daemon, stranger, &["198.19.0.1", "198.19.0.2"]);
        assert_eq!(said, closed("198.19.0.1") + &closed("198.19.0.2"), "{stranger}");
    }
    let log = daemon.ok(&["network", "log", "b"]);
    assert!(log.contains("allow in tcp a.crew (198.19.0.1) port 80: members of a group"), "{log}");
    // What it may reach says nothing of who reaches it, and the other way round.
    done(&daemon, &["network", "deny", "b", "--in", "a.crew:80/tcp"]);
    done(&daemon, &["network", "deny", "c", "group"]);
    assert_eq!(
        tell(&daemon, "a", &["b.crew"]),
        "b.crew refused\nb.crew udp as 198.19.0.1, 9000\nb.crew echo\n"
    );
    assert_eq!(tell(&daemon, "b", &["a.crew"]), reached("a.crew", "198.19.0.2"));
    assert_eq!(tell(&daemon, "c", &["b.other"]), closed("b.other"));
    assert_eq!(tell(&daemon, "b", &["c.other"]), reached("c.other", "198.19.1.1"));
    let check = daemon.aegis(&["network", "check", "c", "b.other:80"]);
    assert_eq!((check.code, check.out().as_str()), (1, "deny  b.other  rule: deny group\n"));
    for (arguments, words) in [
        (["network", "join", "a", "No_Group"], "names of groups follow the same rule"),
        (["network", "join", "a", "aegis"], "no group can be named"),
        (["network", "leave", "a", "other"], "no member of a group"),
    ] {
        is_refused(&daemon, &arguments, words);
    }
}

#[test]
fn a_member_that_rests_is_woken_and_stays_awake_as_long_as_it_is_used() {
    let daemon = Daemon::start();
    done(
        &daemon,
        &["instance", "start", "--name", "a", "--group", "crew", "--memory", "192", "--", "sleep", "1000"],
    );
    serve(&daemon, "b", &["--group", "crew", "--idle-pause", "1s", "--idle-stop", "2s"], "1");
    let own = reached("b.crew", "198.19.0.1");
    becomes(&daemon, "b", "paused");
    assert_eq!(tell(&daemon, "a", &["b.crew"]), own);
    // A conversation of datagrams counts for a while, a connection as long as it is open.
    begin_chat(&daemon, "a", "b.crew");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(daemon.state("b"), "running");
    assert_eq!(daemon.info("b").unwrap()["active_connections"], 1);
    // Down to the end of the ladder, and up from there, where the server takes its time. With a member go its
    // connections, and its datagrams are forgotten.
    done(&daemon, &["instance", "restart", "a"]);
    becomes(&daemon, "b", "stopped");
    assert_eq!(tell(&daemon, "a", &["b.crew"]), own);
    done(&daemon, &["instance", "disable", "b"]);
    let begun = Instant::now();
    let said = tell(&daemon, "a", &["b.crew"]);
    assert!(said.starts_with("b.crew No route to host\n"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// Memory that the gateway of an instance has for itself, KiB.
fn private_kib(id: &str) -> u64 {
    let pid = gateway(id).unwrap();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn connections_between_members_carry_all_and_end_as_they_were_ended() {
    let daemon = Daemon::start();
    serve(&daemon, "b", &["--group", "crew"], "0");
    done(
        &daemon,
        &["instance", "start", "--name", "a", "--group", "crew", "--memory", "256", "--", "sleep", "1000"],
    );
    let script = "import socket, hashlib, threading
s = socket.create_connection(('b.crew', 80), 60)
f = s.makefile('rb'); f.readline()
chunk = bytes(range(251)) * 4000
sent, got, count = hashlib.sha256(), hashlib.sha256(), 0
def send():
    for _ in range(64): s.sendall(chunk); sent.update(chunk)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while True:
    part = f.read1(65536)
    if not part: break
    got.update(part); count += len(part)
print(count, sent.digest() == got.digest())";
    assert_eq!(python(&daemon, "a", script), "64256000 True\n");
    // Gateways that have been busy are small again.
    for name in ["a", "b"] {
        let id = daemon.info(name).unwrap()["id"].as_str().unwrap().to_owned();
        eventually("the gateway gives its memory back", DEADLINE, || private_kib(&id) < 1024);
    }
    // Many at once, each with words of its own.
    let many = "import socket
all = [socket.socket() for _ in range(300)]
for s in all: s.setblocking(False); s.connect_ex(('b.crew', 80))
for s in all: s.setblocking(True); s.settimeout(60)
for n, s in enumerate(all): f = s.makefile('rwb'); f.readline(); f.write(b'%d\\n' % n); f.flush(); assert f.readline() == b'%d\\n' % n
print('all')";
    assert_eq!(python(&daemon, "a", many), "all\n");
    // Half an answer is not taken for a whole one: a reset arrives as one, both ways.
    let resets = "import socket, struct, sys
s = socket.create_server(('0.0.0.0', 82))
for _ in range(2):
    c, _a = s.accept(); c.sendall(b'half'); c.recv(1); c.sendall(b'ok')
    try: more = c.recv(1)
    except ConnectionResetError: print('reset by a', flush=True); continue
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); c.close()";
    let mut server = daemon.spawn(&["exec", "b", "--", "python3", "-u", "-c", resets]);
    let mut out = server.stdout.take().unwrap();
    let ended = "import socket, struct, time
for reset in (False, True):
    for _ in range(100):
        try: s = socket.create_connection(('b.crew', 82), 60); break
        except ConnectionRefusedError: time.sleep(0.1)
    print(s.recv(9)); s.sendall(b'1'); s.recv(2)
    if reset:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close(); break
    s.sendall(b'2')
    try: print(s.recv(9))
    except ConnectionResetError: print('reset by b')";
    assert_eq!(python(&daemon, "a", ended), "b'half'\nreset by b\nb'half'\n");
    aegis_tests::read_until(&mut out, "reset by a\n");
    server.wait().unwrap();
}

#[test]
fn instances_join_and_leave_while_they_run_and_connections_outlive_the_daemon() {
    let daemon = Daemon::start();
    serve(&daemon, "a", &[], "0");
    serve(&daemon, "b", &[], "0");
    assert_eq!(addresses(&daemon, "a"), "10.63.0.2");
    assert_eq!(daemon.ok(&["network", "groups"]), "No groups.\n");
    assert_eq!(daemon.ok(&["network", "join", "a", "crew"]), "in crew as 198.19.0.1\n");
    // One that stands still is told when it goes on.
    done(&daemon, &["instance", "pause", "b"]);
    assert_eq!(daemon.ok(&["network", "join", "b", "crew"]), "in crew as 198.19.0.2\n");
    assert_eq!(daemon.ok(&["network", "join", "b", "crew"]), "in crew as 198.19.0.2\n");
    assert_eq!(tell(&daemon, "a", &["b.crew"]), reached("b.crew", "198.19.0.1"));
    assert_eq!(
        (addresses(&daemon, "a").as_str(), addresses(&daemon, "b").as_str()),
        ("10.63.0.2 198.19.0.1", "10.63.0.2 198.19.0.2")
    );
    begin_chat(&daemon, "a", "b.crew");
    // The daemon's crash is no event for them.
    daemon.crash();
    daemon.up();
    goes_on(&daemon, "a");
    assert_eq!(tell(&daemon, "b", &["a.crew"]), reached("a.crew", "198.19.0.2"));
    goes_on(&daemon, "a");
    assert_eq!(daemon.info("b").unwrap()["active_connections"], 1);
    // Who leaves is left at once.
    assert_eq!(daemon.ok(&["network", "leave", "b", "crew"]), "in no group\n");
    eventually("the connection ends", DEADLINE, || said(&daemon, "a").contains(" ended:"));
    assert_eq!(tell(&daemon, "a", &["b.crew"]), "b.crew no name\n");
    assert_eq!(addresses(&daemon, "b"), "10.63.0.2");
    // What was joined lasts, and what is deleted is gone.
    done(&daemon, &["network", "join", "b", "crew"]);
    done(&daemon, &["instance", "restart", "b"]);
    assert_eq!(tell(&daemon, "a", &["b.crew"]), reached("b.crew", "198.19.0.1"));
    done(&daemon, &["instance", "delete", "b"]);
    assert_eq!(daemon.ok(&["network", "groups"]).lines().count(), 2);
    assert_eq!(tell(&daemon, "a", &["b.crew"]), "b.crew no name\n");
}
