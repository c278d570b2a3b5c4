//! Ports and the router, where the configuration or the host does not suit them.

use std::io::{Read, Write};
use std::net::TcpListener;

use aegis_tests::Daemon;

use crate::ports::{ask, connect, daemon, echo, public_port, server, start};

#[test]
fn a_name_routers_port_that_is_taken_is_a_warning_that_names_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let daemon = Daemon::none();
    std::fs::write(daemon.root().join("config.toml"), format!("[router]\nlisten = \"{address}\"\n")).unwrap();
    let pid = std::process::id().to_string();
    for round in ["the first", "once more"] {
        let up = daemon.aegis(&["up"]).err();
        assert!(up.contains("warning: no routing by name") && up.contains(&pid), "{round}: {up}");
    }
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
    let status = daemon.ok(&["status"]);
    assert!(status.contains("warning: no routing by name") && status.contains(&pid), "{status}");
}

#[test]
fn settings_that_make_no_sense_keep_the_daemon_from_starting_and_say_where() {
    let daemon = Daemon::none();
    std::fs::write(daemon.root().join("config.toml"), "[idle]\npause = \"soon\"\n").unwrap();
    let done = daemon.aegis(&["up"]);
    assert_ne!(done.code, 0);
    assert!(
        done.err().contains("config.toml") && done.err().contains("idle.pause = \"soon\""),
        "{}",
        done.err()
    );
}

#[test]
fn a_daemon_without_descriptors_refuses_says_so_and_recovers() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let daemon = daemon();
    let guest = server(echo);
    start(&daemon, "web", &[format!("{guest}/tcp")]);
    let port = public_port(&daemon, "web", 0);
    let mut living = connect(port);
    let mut answer = [0; 1];
    living.write_all(&[1]).unwrap();
    living.read_exact(&mut answer).unwrap();
    let pid = Pid::from_raw(daemon.pid());
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count() as u64;
    let few = Rlimit { current: Some(open + 3), maximum: None };
    let before = prlimit(pid, Resource::Nofile, Rlimit { maximum: Some(20_000), ..few }).unwrap();
    // Each that is served is kept, so that the next finds less.
    let mut served = Vec::new();
    let refused = (0..20).any(|_| {
        let mut client = connect(port);
        let whole = client.write_all(&[2]).and_then(|()| client.read_exact(&mut answer)).is_ok();
        served.push(client);
        !whole
    });
    assert!(refused, "twenty connections on three descriptors");
    living.write_all(&[3]).unwrap();
    living.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [3], "what was there before lives on");
    let report = daemon.report();
    assert!(report.contains("out of file descriptors"), "{report}");
    prlimit(pid, Resource::Nofile, before).unwrap();
    drop(served);
    assert_eq!(ask(port).unwrap(), "hello");
    assert_eq!(ask(port).unwrap(), "hello");
}
