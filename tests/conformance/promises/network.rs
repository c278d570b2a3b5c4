//! Ports, the host, and other instances.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::bench::{Bench, eventually};

/// A server that answers each connection with a word.
const SERVER: &str = "import socket\ns=socket.create_server(('0.0.0.0', 7000))\nwhile True:\n c,_=s.accept(); c.sendall(b'served'); c.close()";

/// Starts `box` with that server, and returns where it is reached.
pub(super) fn serve(bench: &Bench, options: &[&str]) -> String {
    let all = [
        &["instance", "start", "--name", "box", "--expose", "7000", "--memory", "256m"],
        options,
        &["--", "python3", "-c", SERVER],
    ];
    bench.ok(&all.concat());
    let info = bench.info("box");
    let port = info["endpoints"][0]["public_port"].as_u64().expect("a port");
    let address = format!("127.0.0.1:{port}");
    eventually("the server answers", || ask(&address) == "served");
    address
}

pub(super) fn ask(address: &str) -> String {
    let mut said = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set a time");
        // A reset is no answer.
        let _nothing = stream.read_to_string(&mut said);
    }
    said
}

pub(super) fn port(bench: &Bench) {
    let address = serve(bench, &[]);
    for _ in 0..20 {
        assert_eq!(ask(&address), "served");
    }
}

pub(super) fn connection_wakes_paused(bench: &Bench) {
    let address = serve(bench, &[]);
    bench.ok(&["instance", "pause", "box"]);
    assert_eq!(ask(&address), "served");
}

pub(super) fn connection_wakes_stopped(bench: &Bench) {
    let address = serve(bench, &[]);
    bench.ok(&["instance", "stop", "box"]);
    eventually("the server answers", || ask(&address) == "served");
}

/// What a guest hears of a listener on the host's loopback interface.
fn guest_hears(bench: &Bench, options: &dyn Fn(u16) -> Vec<String>, host: &str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("its address").port();
    listener.set_nonblocking(false).expect("wait for connections");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _gone = stream.write_all(b"host");
        }
    });
    let script = format!(
        "import socket\ntry:\n s=socket.create_connection(('{host}',{port}),5); print(s.recv(9).decode())\nexcept OSError: print('refused')"
    );
    let options = options(port);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    bench.ok(&[&["run"], options.as_slice(), &["--", "python3", "-c", &script]].concat())
}

pub(super) fn no_loopback(bench: &Bench) {
    for host in ["127.0.0.1", "10.63.0.1"] {
        assert_eq!(guest_hears(bench, &|_| Vec::new(), host), "refused", "{host}");
    }
}

pub(super) fn host_port(bench: &Bench) {
    let opened = |port: u16| vec!["--host-port".to_owned(), port.to_string()];
    assert_eq!(guest_hears(bench, &opened, "host.aegis"), "host");
}

pub(super) fn group(bench: &Bench) {
    bench.ok(&["instance", "start", "--name", "box", "--group", "pair", "--", "python3", "-c", SERVER]);
    bench.ok(&["instance", "start", "--name", "other", "--group", "pair", "--", "sleep", "infinity"]);
    let script = "import socket\ns=socket.create_connection(('box.pair',7000),5); print(s.recv(9).decode())";
    eventually("it is reached by its name", || {
        let output = bench.run(&["exec", "other", "--", "python3", "-c", script]);
        String::from_utf8_lossy(&output.stdout).trim() == "served"
    });
}
