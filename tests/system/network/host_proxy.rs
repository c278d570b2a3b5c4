//! Instances of a host that reaches the internet through a proxy.

use aegis_tests::Daemon;
use aegis_tests::lab::Lab;
use serde_json::Value;

/// An instance that waits for what is to be done in it.
use super::policy::{said, start};

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
