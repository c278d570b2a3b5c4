//! What instances reach: the internet by default, only what is allowed otherwise, never the host; at once, while it runs.
//!
//! The internet, the LAN and the metadata service are servers in network namespaces.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use aegis_tests::lab::{HOST, HOST_V6, Lab};
use aegis_tests::{DEADLINE, Daemon, Done, eventually};
use serde_json::Value;

/// An instance that waits for what is to be done in it.
pub(crate) fn start(daemon: &Daemon, handle: &str, options: &[&str]) {
    let base = ["instance", "start", "--name", handle, "--memory", "256"];
    let out = daemon.ok(&[&base[..], options, &["--", "sleep", "1000"]].concat());
    assert!(out.contains("Instance started"), "{out}");
}

pub(crate) fn sh(daemon: &Daemon, handle: &str, script: &str) -> Done {
    daemon.aegis(&["exec", handle, "--", "bash", "-c", script])
}

pub(crate) fn said(daemon: &Daemon, handle: &str, script: &str) -> String {
    let done = sh(daemon, handle, script);
    format!("{}{}", done.out(), done.err())
}

/// A script that tells for each place whether a connection is made, and that it is refused at once if not.
pub(crate) fn reach(places: &[(&str, u16)]) -> String {
    let list: Vec<String> = places.iter().map(|(host, port)| format!("({host:?},{port})")).collect();
    format!(
        "python3 - <<'E'
import socket,time
for host, port in [{}]:
    begun = time.time()
    try:
        socket.create_connection((host, port), timeout=20).close(); word = 'open'
    except socket.gaierror: word = 'no-name'
    except OSError as e: word = 'closed' if time.time() - begun < 5 else 'late'
    print(host, port, word)
E",
        list.join(",")
    )
}

/// The process of an instance's gateway.
pub(crate) fn gateway(id: &str) -> Option<i32> {
    let list = std::process::Command::new("pgrep").args(["-f", &format!("aegis-gateway {id}")]).output();
    String::from_utf8(list.unwrap().stdout).unwrap().trim().parse().ok()
}

/// A command fails, and says so in these words.
pub(crate) fn is_refused(daemon: &Daemon, arguments: &[&str], words: &str) {
    let done = daemon.aegis(arguments);
    assert!(done.code != 0 && done.err().contains(words), "{}", done.err());
}

/// Answers each connection by what it is sent, until that ends.
pub(crate) fn echo(listener: TcpListener) {
    // Ends with the test.
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut reader, mut writer) = (client.try_clone().unwrap(), client);
                let _gone = std::io::copy(&mut reader, &mut writer);
                let _gone = writer.shutdown(std::net::Shutdown::Write);
            });
        }
    });
}

/// Connects to the echo, in the background of the guest.
pub(crate) fn converse(daemon: &Daemon, handle: &str) {
    let talk = "exec 3<>/dev/tcp/203.0.113.1/9000; touch /run/on; while [ ! -e /run/go ]; do sleep 0.1; done
        echo again >&3; read -r back <&3; echo \"got $back\" > /run/got; sleep 1000";
    let script = format!(
        "setsid bash -c '{talk}' > /dev/null 2>&1 < /dev/null & while [ ! -e /run/on ]; do sleep 0.1; done"
    );
    let done = sh(daemon, handle, &script);
    assert_eq!(done.code, 0, "{}", done.err());
}

/// Says something on that connection, and returns what comes of it.
pub(crate) fn go_on(daemon: &Daemon, handle: &str) -> String {
    said(daemon, handle, "touch /run/go; while [ ! -s /run/got ]; do sleep 0.1; done; cat /run/got")
}

#[test]
fn the_internet_is_reached_by_default_and_nothing_nearer() {
    let mut lab = Lab::new();
    let (_, authority) = lab.web();
    // Something to be found, if it could be.
    let _host = [lab.listen_on_host("0.0.0.0:7777"), lab.listen_on_host("[::]:7778")];
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &[]);
    assert_ne!(daemon.ok(&["cp", authority.to_str().unwrap(), "a:/ca.pem"]), "-");
    let fetched = said(
        &daemon,
        "a",
        "curl -sS http://good.example/hello; curl -sS --cacert /ca.pem https://good.example/hello
        curl -sS -6 http://six.example/hello; curl -sS -4 http://good/name; getent hosts other.example",
    );
    let hello = "hello from the world\n";
    assert_eq!(fetched, format!("{}good\n203.0.113.2     other.example\n", hello.repeat(3)));
    let places = [
        ("203.0.113.1", 80),
        ("203.0.113.1", 81),
        ("2001:db8:113::1", 80),
        (HOST, 7777),
        (HOST_V6, 7778),
        ("::ffff:192.0.2.2", 7777),
        ("127.0.0.1", 7777),
        ("0.0.0.0", 7777),
        ("10.63.0.1", 7777),
        ("host.aegis", 7777),
        ("loop.example", 7777),
        ("169.254.169.254", 80),
        ("meta.example", 80),
        ("10.20.0.5", 80),
        ("inside.example", 80),
        ("fd20::5", 80),
        ("::ffff:10.20.0.5", 80),
        ("64:ff9b::a14:5", 80),
        ("nowhere.example", 80),
    ];
    let found = said(&daemon, "a", &reach(&places));
    for (index, ((host, port), line)) in places.iter().zip(found.lines()).enumerate() {
        let expected = match index {
            0 | 2 => "open",
            18 => "no-name",
            _ => "closed",
        };
        assert_eq!(line, format!("{host} {port} {expected}"), "{found}");
    }
    let log = daemon.ok(&["network", "log", "a"]);
    for words in [
        "allow name good.example: preset public",
        "allow out tcp good.example (203.0.113.1) port 443: preset public: public addresses",
        "deny out tcp 192.0.2.2 port 7777: never: host addresses",
        "deny out tcp meta.example (169.254.169.254) port 80: preset public: metadata addresses",
        "end tcp good.example (203.0.113.1) port 80:",
    ] {
        assert!(log.contains(words), "{words} in {log}");
    }
    let echo = said(
        &daemon,
        "a",
        "python3 - <<'E'
import socket,struct
def ping(family, proto, kind, to):
    s = socket.socket(family, socket.SOCK_RAW, proto); s.settimeout(5)
    body = struct.pack('>BBHHH', kind, 0, 0, 7, 9) + b'data'
    if kind == 8:
        n = sum(struct.unpack('>6H', body)); n = (n >> 16) + (n & 65535); body = body[:2] + struct.pack('>H', ~n & 65535) + body[4:]
    s.sendto(body, (to, 0))
    try: return s.recv(1500)[-4:]
    except OSError: return 'nothing'
print(ping(socket.AF_INET, 1, 8, '203.0.113.1'), ping(socket.AF_INET, 1, 8, '10.63.0.1'), ping(socket.AF_INET6, 58, 128, '2001:db8:113::1'))
E",
    );
    assert_eq!(echo, "b'data' b'data' b'data'\n");
}

#[test]
fn without_a_network_there_is_no_way_out() {
    let mut lab = Lab::new();
    lab.web();
    let daemon = Daemon::start_on(&lab, "");
    let script =
        reach(&[("203.0.113.1", 80), ("2001:db8:113::1", 80), ("good.example", 80), ("203.0.113.53", 53)]);
    let done = daemon.aegis(&["run", "--network", "none", "--", "bash", "-c", &script]);
    let expected =
        "203.0.113.1 80 closed\n2001:db8:113::1 80 closed\ngood.example 80 no-name\n203.0.113.53 53 closed\n";
    assert_eq!(done.out(), expected, "{}", done.err());
}

#[test]
fn only_what_is_allowed_by_name_is_reached_and_the_name_has_to_be_true() {
    let mut lab = Lab::new();
    let (_, authority) = lab.web();
    let daemon = Daemon::start_on(&lab, "");
    start(
        &daemon,
        "a",
        &["--allow", "good.example", "--allow", "*.good.example:443", "--allow", "inside.example"],
    );
    assert_ne!(daemon.ok(&["cp", authority.to_str().unwrap(), "a:/ca.pem"]), "-");
    let tries = [
        // What is allowed.
        ("curl -sS http://good.example/hello", true),
        ("curl -sS --cacert /ca.pem https://good.example/hello", true),
        ("curl -sS --cacert /ca.pem https://www.good.example/hello", true),
        // Another port, another name, no name.
        ("curl -sS http://www.good.example/hello", false),
        ("curl -sS http://other.example/hello", false),
        ("curl -sS http://203.0.113.2/hello", false),
        // The neighbour of an allowed name, at its address: by TLS, by Host, by target, on a connection that began well.
        (
            "curl -sS -k --connect-to neighbour.example:443:good.example:443 https://neighbour.example/hello",
            false,
        ),
        ("curl -sS -k https://203.0.113.1/hello", false),
        ("curl -sS -H 'Host: neighbour.example' http://good.example/hello", false),
        ("curl -sS --http1.0 -H 'Host:' http://good.example/hello", false),
        ("curl -sS --request-target http://neighbour.example/hello http://good.example/", false),
        (
            "curl -sSf http://good.example/hello -o /dev/null --next -sSf -H 'Host: neighbour.example' http://good.example/hello",
            false,
        ),
        ("curl -sS --http2-prior-knowledge http://good.example/hello", false),
        // A name that points inside.
        ("curl -sS http://inside.example/hello", false),
        // Another resolver, plain and over TLS.
        (
            "python3 -c 'import socket; socket.create_connection((\"203.0.113.53\", 53), 5)' && echo hello",
            false,
        ),
        (
            "python3 -c 'import socket; socket.create_connection((\"203.0.113.53\", 853), 5)' && echo hello",
            false,
        ),
    ];
    for (script, open) in tries {
        let done = sh(&daemon, "a", &format!("timeout 20 {script}"));
        assert_eq!(
            done.out().contains("hello from the world"),
            open,
            "{script}: {}{}",
            done.out(),
            done.err()
        );
    }
    // The name is asked for, and turns to another address meanwhile: what was pinned is another's then.
    lab.rename("203.0.113.1 good.example", "10.20.0.5 good.example");
    let rebound = said(&daemon, "a", "sleep 6; curl -sS -4 --max-time 10 http://good.example/hello");
    assert!(!rebound.contains("hello from the world"), "{rebound}");
    let log = daemon.ok(&["network", "log", "a"]);
    assert!(log.contains("but a name alone opens no private address"), "{log}");
    assert!(log.contains("deny name other.example: preset none"), "{log}");
    assert!(log.contains("deny out tcp neighbour.example (203.0.113.1) port 443: preset none"), "{log}");
}

#[test]
fn rules_take_effect_at_once_also_on_what_is_connected() {
    let lab = Lab::new();
    echo(lab.listen("203.0.113.1:9000"));
    let daemon =
        Daemon::start_on(&lab, "[network]\ndefault = \"none\"\nrules = [\"allow 203.0.113.0/24:9000\"]\n");
    start(&daemon, "a", &[]);
    let talk = "python3 -u - <<'E'
import socket,sys
s = socket.create_connection(('203.0.113.1', 9000), 10)
print('connected', flush=True)
try:
    while True:
        s.sendall(b'x'); s.recv(1); print('.', end='', flush=True)
        import time; time.sleep(0.05)
except OSError as e: print(' ended')
E";
    let mut child = daemon.spawn(&["exec", "a", "--", "bash", "-c", talk]);
    let mut out = child.stdout.take().unwrap();
    aegis_tests::read_until(&mut out, "connected\n..");
    let shown = daemon.ok(&["network", "deny", "a", "203.0.113.0/28"]);
    assert_eq!(shown, "deny 203.0.113.0/28\nallow 203.0.113.0/24:9000\notherwise: none\n");
    let begun = Instant::now();
    aegis_tests::read_until(&mut out, " ended\n");
    assert!(begun.elapsed() < Duration::from_secs(20));
    child.wait().unwrap();
    let to = [("203.0.113.1", 9000)];
    assert_eq!(said(&daemon, "a", &reach(&to)), "203.0.113.1 9000 closed\n");
    assert_eq!(daemon.ok(&["network", "allow", "a", "203.0.113.0/28"]).lines().count(), 3);
    assert_eq!(said(&daemon, "a", &reach(&to)), "203.0.113.1 9000 open\n");
    // It is the instance's own from now on.
    assert_eq!(daemon.aegis(&["network", "check", "a", "203.0.113.1:9000"]).code, 0);
    assert_ne!(daemon.ok(&["instance", "stop", "a"]), "-");
    let check = daemon.aegis(&["network", "check", "a", "https://169.254.169.254/"]);
    assert_eq!(
        (check.code, check.out().as_str()),
        (1, "deny  169.254.169.254  preset none: metadata addresses\n")
    );
    let check = daemon.aegis(&["network", "check", "a", &format!("http://{HOST}/")]);
    assert_eq!(check.out(), format!("deny  {HOST}  never: host addresses\n"));
    for (arguments, words) in [
        (["network", "allow", "a", "1.2.3.4.5"], "no address"),
        (["network", "deny", "a", "x:99999"], "expected a port"),
        (["network", "allow", "nobody", "x.example"], "there is no instance"),
    ] {
        is_refused(&daemon, &arguments, words);
    }
}

#[test]
fn a_gateway_that_is_killed_is_back_and_says_so_and_outlives_the_daemon() {
    let lab = Lab::new();
    echo(lab.listen("203.0.113.1:9000"));
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &[]);
    converse(&daemon, "a");
    let id = daemon.info("a").unwrap()["id"].as_str().unwrap().to_owned();
    let gateway = || gateway(&id);
    let first = gateway().unwrap();
    // Its daemon's crash is no event for what is connected.
    daemon.crash();
    daemon.up();
    assert_eq!(gateway(), Some(first));
    eventually("the next daemon speaks to it", DEADLINE, || {
        daemon.ok(&["network", "show", "a"]).contains("up")
    });
    assert!(
        daemon.ok(&["network", "show", "a"]).contains("1 open"),
        "{}",
        daemon.ok(&["network", "show", "a"])
    );
    assert_eq!(go_on(&daemon, "a"), "got again\n");
    assert_eq!(daemon.ok(&["network", "deny", "a", "10.0.0.0/8"]).lines().count(), 2);
    let begun = Instant::now();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    eventually("another one is there", DEADLINE, || gateway().is_some_and(|pid| pid != first));
    eventually("it works", DEADLINE, || {
        said(&daemon, "a", &reach(&[("203.0.113.1", 9000)])) == "203.0.113.1 9000 open\n"
    });
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(daemon.aegis(&["network", "check", "a", "10.20.0.5:80"]).code, 1);
    let log = daemon.ok(&["logs", "a"]);
    assert!(log.contains("the network is gone") && log.contains("the network is back"), "{log}");
    let events = daemon.ok(&["events", "a"]);
    assert!(events.contains("  network_down\n") && events.contains("  network_up\n"), "{events}");
    assert_ne!(daemon.ok(&["instance", "delete", "a"]), "-");
    eventually("it has gone with its machine", DEADLINE, || gateway().is_none());
}

#[test]
fn a_port_of_the_host_is_reached_when_asked_for_and_nothing_else_of_it() {
    let lab = Lab::new();
    let listener = lab.listen_on_host("127.0.0.1:0");
    let port = listener.local_addr().unwrap().port();
    echo(listener);
    echo(lab.listen_on_host(&format!("127.0.0.1:{}", port ^ 1)));
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &["--network", "none", "--host-port", &port.to_string()]);
    let found = said(
        &daemon,
        "a",
        &reach(&[("host.aegis", port), ("host.aegis", port ^ 1), ("127.0.0.1", port), (HOST, port)]),
    );
    let expected = format!(
        "host.aegis {port} open\nhost.aegis {} closed\n127.0.0.1 {port} closed\n{HOST} {port} closed\n",
        port ^ 1
    );
    assert_eq!(found, expected);
}

#[test]
fn a_host_behind_a_proxy_takes_its_instances_along() {
    let mut lab = Lab::new();
    let (_, authority) = lab.web();
    lab.only_by_proxy();
    let variables = [
        ("HTTPS_PROXY", "http://u:p@192.0.2.1:3128"),
        ("NO_PROXY", "inside.example"),
        ("SSL_CERT_FILE", authority.to_str().unwrap()),
    ];
    let daemon = Daemon::start_on_with(&lab, "", &variables);
    start(&daemon, "a", &["--trust-host-cas", "--network", "public", "--deny", "other.example"]);
    // Programs know nothing of it, and the host finds no name itself.
    let out = said(
        &daemon,
        "a",
        "unset HTTPS_PROXY https_proxy
        curl -sS http://good.example/hello; curl -sS https://www.good.example/hello
        curl -sS http://203.0.113.1/hello
        curl -sS -m 20 http://other.example/hello || echo $?; curl -sS -m 20 http://10.20.0.5/hello || echo $?
        curl -sS -m 20 -o /dev/null http://nowhere.example/ || echo $?",
    );
    let hello = "hello from the world\n";
    assert!(out.starts_with(&format!("{}7\n7\n7\n", hello.repeat(3))), "{out}");
    // Those that want to be told of one are offered one, which knows the password and obeys the same rules.
    let out = said(
        &daemon,
        "a",
        "echo $HTTPS_PROXY $https_proxy $NO_PROXY
        said='%{http_connect} %{http_code}\n'
        curl -sS -w \"$said\" https://good.example/hello
        curl -sS -w \"$said\" -x $HTTPS_PROXY -p http://203.0.113.1/hello
        curl -s -w \"$said\" https://other.example/hello
        curl -s -w \"$said\" https://10.20.0.5/hello
        curl -s -w \"$said\" https://nowhere.example/hello
        curl -s -o /dev/null -w \"$said\" -x $HTTPS_PROXY http://good.example/hello",
    );
    let offered = "http://10.63.0.1:3128";
    let expected = format!(
        "{offered} {offered} localhost,127.0.0.1,::1,10.63.0.2\n{hello}200 200\n{hello}200 200\n403 000\n403 000\n502 000\n000 405\n"
    );
    assert_eq!(out, expected);
    // Names that lead to whoever looks them up are nobody's to look up; those of somebody's own network are of that kind.
    let names = "127.0.0.1. 127.1 2130706433 0x7f000001 0xa9fea9fe 169.254.169.254. 203.0.113.1. localhost \
                 a.localhost metadata.google.internal printer.local wiki";
    let asked = format!(
        "for name in {names} $(cat /proc/sys/kernel/hostname)
        do python3 -c 'import socket, sys
s = socket.create_connection((\"10.63.0.1\", 3128))
to = sys.argv[1] + \":80\"
s.sendall((\"CONNECT \" + to + \" HTTP/1.1\\r\\nHost: \" + to + \"\\r\\n\\r\\n\").encode())
print(sys.argv[1], s.recv(12).decode())' $name; done"
    );
    let out = said(&daemon, "a", &asked);
    assert_eq!(out.lines().count(), 13, "{out}");
    assert!(out.lines().all(|line| line.ends_with(" 502") || line.ends_with(" 403")), "{out}");
    let info: Value =
        serde_json::from_str(&daemon.ok(&["instance", "info", "a", "--output", "json"])).unwrap();
    assert!(info["env_keys"].as_array().unwrap().contains(&"HTTPS_PROXY".into()), "{info}");
}
