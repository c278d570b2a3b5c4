//! What goes over an instance's network: much of it, for long, at once, and up to its bounds.

use std::io::{Read, Write};
use std::time::Duration;

use aegis_tests::lab::{Family, Lab};
use aegis_tests::{DEADLINE, Daemon, bin, eventually};

use crate::network::policy::{converse, echo, go_on, reach, said, start};

#[test]
fn many_connections_large_transfers_and_half_closed_ones_arrive_whole() {
    let lab = Lab::new();
    echo(lab.listen("203.0.113.1:9000"));
    // Says how many bytes came, and their sum.
    let sink = lab.listen("203.0.113.1:9001");
    std::thread::spawn(move || {
        for mut client in sink.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut count, mut sum, mut buffer) = (0u64, 0u64, vec![0; 1 << 16]);
                while let Ok(read @ 1..) = client.read(&mut buffer) {
                    count += read as u64;
                    sum = buffer[..read].iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
                }
                let _gone = client.write_all(format!("{count} {sum}").as_bytes());
            });
        }
    });
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &[]);
    let out = said(
        &daemon,
        "a",
        "python3 - <<'E'
import socket,threading,os,time,resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
def connect(port): return socket.create_connection(('203.0.113.1', port), 60)
# A thousand at once, each with words of its own.
all = [connect(9000) for _ in range(1000)]
for n, s in enumerate(all): s.sendall(b'%05d' % n)
print(sum(s.recv(5, socket.MSG_WAITALL) == b'%05d' % n for n, s in enumerate(all)))
for s in all: s.close()
# Both directions at once, with a slow reader; the end of one direction leaves the other open.
data = os.urandom(1 << 20) * 64
s = connect(9000); got = bytearray()
def send():
    s.sendall(data); s.shutdown(socket.SHUT_WR)
t = threading.Thread(target=send); t.start(); time.sleep(1)
while True:
    part = s.recv(1 << 16)
    if not part: break
    got += part
t.join(); print(got == data)
s = connect(9001); s.sendall(data); s.shutdown(socket.SHUT_WR)
print(s.recv(100).decode() == '%d %d' % (len(data), sum(data[:1 << 20]) * 64))
E",
    );
    assert_eq!(out, "1000\nTrue\nTrue\n");
    let shown = daemon.ok(&["network", "show", "a"]);
    assert!(shown.contains("1002 so far"), "{shown}");
}

#[test]
fn what_is_connected_goes_on_after_a_minutes_pause_and_nothing_of_it_is_left_after_a_boot() {
    let pause = if aegis_tests::short() { 3 } else { 61 };
    let lab = Lab::new();
    echo(lab.listen("203.0.113.1:9000"));
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &[]);
    converse(&daemon, "a");
    assert_ne!(daemon.ok(&["instance", "pause", "a"]), "-");
    std::thread::sleep(Duration::from_secs(pause));
    assert_ne!(daemon.ok(&["instance", "resume", "a"]), "-");
    assert_eq!(go_on(&daemon, "a"), "got again\n");
    assert!(daemon.ok(&["network", "show", "a"]).contains("1 open"));
    assert_ne!(daemon.ok(&["instance", "restart", "a"]), "-");
    eventually("it is up", DEADLINE, || daemon.ok(&["network", "show", "a"]).contains("0 open, 0 so far"));
}

#[test]
fn what_a_guest_has_sent_arrives_however_slowly_it_is_read_after_the_other_end_has_ended() {
    const SIZE: usize = 4 << 20;
    let lab = Lab::new();
    let listener = lab.listen("203.0.113.1:9000");
    // So that what is sent is held up before it comes here.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 8192).unwrap();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let (mut buffer, mut count) = (vec![0; 8192], 0);
        while let Ok(got @ 1..) = client.read(&mut buffer) {
            count += got;
            // Slower than it is sent.
            std::thread::sleep(Duration::from_millis(1));
        }
        count
    });
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &[]);
    let send = format!(
        "python3 -c 'import socket; s = socket.create_connection((\"203.0.113.1\", 9000), 60)
print(s.recv(1)); s.sendall(bytes({SIZE})); s.close()'"
    );
    assert_eq!(said(&daemon, "a", &send), "b''\n");
    assert_eq!(server.join().unwrap(), SIZE);
}

/// Takes what is sent and tells its sum; or sends that much, with its sum known.
const SUMS: &str = r#"
import socket, sys, threading, zlib
blocks = [bytes((n * 7 + k) % 256 for k in range(1 << 16)) * 16 for n in range(8)]
def send(s, count):
    total = 1
    for n in range(count):
        s.sendall(blocks[n % 8]); total = zlib.adler32(blocks[n % 8], total)
    s.shutdown(socket.SHUT_WR)
    return total
def take(s):
    total, count, room = 1, 0, bytearray(1 << 20)
    while True:
        got = s.recv_into(room)
        if not got: return count, total
        total = zlib.adler32(memoryview(room)[:got], total); count += got
def serve(s, count):
    with s:
        if s.recv(1) == b"u": s.sendall(b"%d %d" % take(s))
        else: send(s, count)
if sys.argv[1] == "serve":
    listener = socket.create_server(("203.0.113.1", 9002))
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0], int(sys.argv[2]))).start()
count = int(sys.argv[2])
s = socket.create_connection(("203.0.113.1", 9002), 60); s.settimeout(None); s.sendall(b"u")
sent = send(s, count)
print("up", s.recv(100) == b"%d %d" % (count << 20, sent))
s = socket.create_connection(("203.0.113.1", 9002), 60); s.settimeout(None); s.sendall(b"d")
print("down", take(s) == (count << 20, sent))
"#;

#[test]
fn five_gigabytes_arrive_whole_each_way() {
    let mebibytes = if aegis_tests::short() { "100" } else { "5120" };
    let mut lab = Lab::new();
    lab.start("python3", &["-c", SUMS, "serve", mebibytes]);
    eventually("the server answers", DEADLINE, || lab.connect(([203, 0, 113, 1], 9002).into()).is_ok());
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &[]);
    // Longer than anything else may take: it is much.
    let child = daemon.spawn(&["exec", "a", "--", "python3", "-c", SUMS, "talk", mebibytes]);
    let done = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "up True\ndown True\n", "{:?}", done.stderr);
}

#[test]
fn a_long_conversation_of_grpc_goes_through() {
    let client = bin().join("aegis-grpc-peer");
    assert!(client.exists(), "no {}; run tests/grpc/build", client.display());
    let lab = Lab::new();
    let listener = lab.listen("203.0.113.1:50051");
    // Ends with the test.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(aegis_grpc_peer::serve(listener))
    });
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &["--allow", "203.0.113.1:50051"]);
    assert_ne!(daemon.ok(&["cp", client.to_str().unwrap(), "a:/client"]), "-");
    let out = said(&daemon, "a", "/client http://203.0.113.1:50051");
    assert_eq!(out, "600 messages, 32768190 bytes\n");
}

#[test]
fn bounds_are_kept_counted_and_told_of() {
    let lab = Lab::new();
    echo(lab.listen("203.0.113.1:9000"));
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &["--max-flows", "2", "--max-queries", "3"]);
    let three = "python3 - <<'E'
import socket
all = []
for n in range(3):
    try: all.append(socket.create_connection(('203.0.113.1', 9000), 20)); print('open')
    except OSError as error: print(error.strerror)
E";
    assert_eq!(said(&daemon, "a", three), "open\nopen\nConnection refused\n");
    let asked = said(
        &daemon,
        "a",
        "for n in 1 2 3 4 5 6; do getent ahostsv4 n$n.any.example > /dev/null && echo found; done",
    );
    assert!(asked.lines().count() < 6, "{asked}");
    eventually("it is told of", DEADLINE, || {
        let events = daemon.ok(&["events", "a"]);
        events.contains("  network_limited  flows at a time\n")
            && events.contains("  network_limited  names asked for\n")
    });
    let stats = daemon.ok(&["stats", "a", "--output", "json"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let found = stats.pointer("/0/network/limited").or_else(|| stats.pointer("/network/limited"));
    assert!(found.and_then(serde_json::Value::as_u64).is_some_and(|count| count >= 2), "{stats}");
}

#[test]
fn hosts_with_one_family_of_addresses_reach_what_they_can_and_fail_fast_otherwise() {
    for (family, reached, not) in
        [(Family::V6, "2001:db8:113::1", "203.0.113.1"), (Family::V4, "203.0.113.1", "2001:db8:113::1")]
    {
        let mut lab = Lab::new();
        let _files = lab.web();
        lab.only(family);
        let daemon = Daemon::start_on(&lab, "");
        start(&daemon, "a", &[]);
        // A name with addresses of both families.
        let fetched = said(&daemon, "a", "curl -sS http://good.example/hello");
        assert_eq!(fetched, "hello from the world\n", "{family:?}");
        let tried = said(&daemon, "a", &reach(&[(reached, 80), (not, 80)]));
        assert_eq!(tried, format!("{reached} 80 open\n{not} 80 closed\n"), "{family:?}");
    }
}
