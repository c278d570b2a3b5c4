//! The name router before a real daemon: who is served by name, and who is not. The guest's server is the test's own.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use aegis_tests::{DEADLINE, Daemon};
use serde_json::Value;

/// A server that answers each request with its head.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test.
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                let count = client.read(&mut head).unwrap_or(0);
                let reply =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\nConnection: close\r\n\r\n");
                let _gone =
                    client.write_all(reply.as_bytes()).and_then(|()| client.write_all(&head[..count]));
            });
        }
    });
    port
}

fn daemon(settings: &str) -> (Daemon, String) {
    let daemon =
        Daemon::start_configured(settings, &[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let port = server().to_string();
    let start =
        ["instance", "start", "--name", "web", "--workdir", "/tmp", "--expose", &port, "--", "sleep", "1000"];
    assert!(daemon.ok(&start).contains("Instance started"));
    let info: Value = daemon.info("web").unwrap();
    let url = info["url"].as_str().unwrap();
    let port = url.trim_end_matches('/').rsplit(':').next().unwrap();
    (daemon, format!("127.0.0.1:{port}"))
}

/// What comes back for a head, from a client that then has no more to say.
fn ask(router: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(router).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(router: &str, fields: &str) -> String {
    let answer = ask(router, &format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n"));
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_page_anywhere_does_not_read_the_only_instance() {
    let (daemon, router) = daemon("");
    assert_eq!(status(&router, "Host: web.localhost"), "200");
    assert_eq!(status(&router, "Host: localhost"), "200", "the only one");
    assert!(ask(&router, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "), "and half closed");
    assert_eq!(daemon.aegis(&["instance", "pause", "web"]).code, 0);
    let page = ask(&router, "GET / HTTP/1.1\r\nHost: evil.example\r\nAccept-Language: en\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 421 ") && !page.contains("web"), "{page}");
    assert_eq!(status(&router, "Host: evil.example\r\nX-Aegis-Instance: web\r\nAccept-Language: en"), "421");
    assert_eq!(status(&router, "Host: web.localhost\r\nHost: web.localhost"), "400");
    assert_eq!(
        status(&router, "Host: web.localhost\r\nUpgrade: websocket\r\nOrigin: https://evil.example"),
        "403"
    );
    assert_eq!(daemon.state("web"), "paused", "none of them woke it");
    assert_eq!(status(&router, "Host: evil.example\r\nX-Aegis-Instance: web"), "200", "a program");
    assert_eq!(daemon.state("web"), "running");
}

#[test]
fn names_and_a_token_are_settings() {
    let settings = "names = [\"sandbox.example\"]\ntoken = \"0123456789abcdef\"\n";
    let (daemon, router) = daemon(settings);
    assert_eq!(daemon.aegis(&["instance", "pause", "web"]).code, 0);
    assert_eq!(status(&router, "Host: web.localhost"), "401");
    assert_eq!(status(&router, "Host: web.sandbox.example\r\nX-Aegis-Token: 0123456789abcdeX"), "401");
    assert_eq!(daemon.state("web"), "paused");
    let seen = ask(
        &router,
        "GET / HTTP/1.0\r\nHost: web.sandbox.example\r\nX-Aegis-Token: 0123456789abcdef\r\n\r\n",
    );
    assert!(seen.starts_with("HTTP/1.0 200 ") && !seen.contains("0123456789abcdef"), "{seen}");
}
