//! What passes where names are judged: what is recognised, and what a rule opens to anything.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};

use aegis_tests::Daemon;
use aegis_tests::lab::Lab;

use crate::network::policy::{echo, said, start};

/// Says something to a port of `good.example`, and prints what comes back, or how it ended and after how many seconds.
const SAY: &str = r#"python3 - <<'E'
import socket, time
def say(port, data, first=b''):
    begun = time.time()
    try:
        s = socket.create_connection(('good.example', port), 10); s.settimeout(10)
        while first and not s.recv(100).endswith(first): pass
        s.sendall(data)
        word = s.recv(100)[:20]
    except ConnectionError: word = 'reset'
    print(port, word, 'at once' if time.time() - begun < 0.9 else 'later' if time.time() - begun < 5 else 'late')
say(5432, b'\0raw', b'hello\n')
say(9418, b'0032git-upload-pack /x.git\0host=good.example\0')
say(80, b'GET /hello\tHTTP/1.1\r\nHost: neighbour.example\r\n\r\n')
say(443, b'\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10')
say(80, b'HELP')
say(80, b'GET /name HTTP/1.1\r\nHost: good.example\r\nConnection: close\r\n\r\n')
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((socket.gethostbyname('good.example'), 4433)); s.settimeout(10)
s.send(b'x'); print(s.recv(9))
s.send(b'\xc3\0\0\0\x01\x08' + bytes(1200))
try: print(s.recv(9))
except ConnectionError: print('refused')
E"#;

#[test]
fn what_is_not_recognised_passes_by_a_rule_that_says_so_and_by_no_other() {
    let mut lab = Lab::new();
    lab.web();
    echo(lab.listen("203.0.113.1:9418"));
    let (greeting, datagrams) = (lab.listen("203.0.113.1:5432"), lab.datagrams("203.0.113.1:4433"));
    // Both end with the test.
    std::thread::spawn(move || {
        for mut client in greeting.incoming().flatten() {
            let mut said = [0; 4];
            let _gone = client.write_all(b"hello\n").and_then(|()| client.read_exact(&mut said));
            let _gone = client.write_all(&said);
        }
    });
    std::thread::spawn(move || {
        let mut said = [0; 2000];
        while let Ok((count, from)) = datagrams.recv_from(&mut said) {
            let _gone = datagrams.send_to(&said[..count.min(9)], from);
        }
    });
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &["--allow", "good.example", "--allow", "good.example:5432/raw"]);
    let found = said(&daemon, "a", SAY);
    let refused = "9418 reset at once\n80 reset at once\n443 reset at once\n80 reset later\n";
    let answered = "80 b'HTTP/1.1 200 OK\\r\\nSer' at once\nb'x'\nrefused\n";
    assert_eq!(found, format!("5432 b'\\x00raw' at once\n{refused}{answered}"));
    let log = daemon.ok(&["network", "log", "a"]);
    let because = "neither TLS nor HTTP, where names are judged: takes a rule WHAT:PORT/raw";
    assert!(log.contains(&format!("port 9418: {because}")), "{log}");
    assert!(
        log.contains("allow out tcp good.example (203.0.113.1) port 5432: rule: allow good.example:5432/raw"),
        "{log}"
    );
    assert_ne!(daemon.ok(&["network", "allow", "a", "good.example:9418/raw"]), "-");
    let found = said(&daemon, "a", SAY);
    assert!(found.contains("9418 b'0032git-upload-pack ' at once\n"), "{found}");
}

/// A server of HTTP/2 without TLS that says which host it was asked for; it ends when its standard input does.
const HTTP2: &str = "const server = require('http2').createServer({}, (request, response) => {
  request.resume(); request.on('end', () => response.end('served:' + request.authority + '\\n'));
}).listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit()).resume();";

#[test]
fn http_2_without_tls_is_judged_by_the_authority_of_each_request() {
    let lab = Lab::new();
    let mut node = Command::new("node")
        .args(["-e", HTTP2])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node; run scripts/dependencies test");
    let port = aegis_tests::read_until(node.stdout.as_mut().unwrap(), "\n").trim().parse::<u16>().unwrap();
    let listener = lab.listen("203.0.113.1:8080");
    // All end with the test.
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _end = std::io::copy(&mut from, &mut to);
                let _gone = to.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _end = std::io::copy(&mut server, &mut client);
                let _gone = client.shutdown(Shutdown::Both);
            });
        }
    });
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &["--allow", "good.example"]);
    let curl = "curl -sS --max-time 20 --http2-prior-knowledge";
    let asked = said(
        &daemon,
        "a",
        &format!("{curl} http://good.example:8080/ && {curl} -d body http://good.example:8080/x"),
    );
    assert_eq!(asked, "served:good.example:8080\nserved:good.example:8080\n");
    let other = said(
        &daemon,
        "a",
        &format!("{curl} -H 'Host: neighbour.example' http://good.example:8080/ 2>&1; echo $?"),
    );
    assert!(!other.contains("served") && !other.ends_with("\n0\n"), "{other}");
    let log = daemon.ok(&["network", "log", "a"]);
    assert!(log.contains("neighbour.example"), "{log}");
    drop(node.stdin.take());
    let _end = node.wait();
}
