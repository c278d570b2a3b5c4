//! The name router before clients that write what they like, and servers that do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aegis_router::{Admission, NameRouter};
use support::{Host, Only};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Answers each connection's first head with the head itself, or with what it is told to.
async fn raw_server(reply: Option<&'static str>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
                    match client.read_u8().await {
                        Ok(byte) => seen.push(byte),
                        Err(_) => return,
                    }
                }
                let echo = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
                    seen.len(),
                    String::from_utf8_lossy(&seen)
                );
                // A client that has gone is no matter.
                let _gone = client.write_all(reply.unwrap_or(&echo).as_bytes()).await;
                let mut rest = Vec::new();
                let _gone = client.read_to_end(&mut rest).await;
            });
        }
    });
    port
}

async fn router(reply: Option<&'static str>) -> (NameRouter, Arc<Host>) {
    let host = Host::awake(raw_server(reply).await);
    let backends = Arc::new(Only(Arc::clone(&host)));
    (NameRouter::open("127.0.0.1:0".parse().unwrap(), backends).unwrap(), host)
}

/// What is said to bytes, until the router says no more. It does so at the end of what it answers, as asked.
async fn say(names: &NameRouter, bytes: &str) -> String {
    let mut client = TcpStream::connect(names.address()).await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let read = timeout(Duration::from_secs(20), client.read_to_end(&mut said)).await;
    read.unwrap_or_else(|_| panic!("no end: {bytes:?}: {}", String::from_utf8_lossy(&said))).unwrap();
    String::from_utf8(said).unwrap()
}

async fn get(names: &NameRouter, fields: &str) -> String {
    say(names, &format!("GET / HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")).await
}

fn status(said: &str) -> &str {
    said.split(' ').nth(1).unwrap_or(said)
}

#[tokio::test]
async fn a_page_whose_name_leads_here_reads_nothing() {
    let (names, host) = router(None).await;
    for served in
        ["localhost:8099", "127.0.0.1", "[::1]:1", "web.localhost", "WEB.LOCALHOST.:80", "a.web.localhost"]
    {
        let said = get(&names, &format!("Host: {served}\r\n")).await;
        assert_eq!(status(&said), "200", "{served}: {said}");
    }
    let before = host.connections.load(Ordering::SeqCst);
    for foreign in
        ["evil.example", "evil.example:8099", "10.0.0.1", "0.0.0.0:8099", "localhost.evil.example", "x"]
    {
        for more in ["", "Accept: text/html\r\n", "X-Aegis-Instance: web\r\nAccept-Language: en\r\n"] {
            let said = get(&names, &format!("Host: {foreign}\r\n{more}")).await;
            assert_eq!(status(&said), "421", "{foreign}: {said}");
            assert!(!said.contains("web"), "{said}");
        }
    }
    assert_eq!(host.connections.load(Ordering::SeqCst), before, "something got through");
    let program = get(&names, "Host: gateway.example\r\nX-Aegis-Instance: web\r\n").await;
    assert_eq!(status(&program), "200", "{program}");
    assert!(!program.to_lowercase().contains("x-aegis"), "{program}");
    assert_eq!(status(&say(&names, "GET / HTTP/1.0\r\n\r\n").await), "200");
    let absolute =
        say(&names, "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await;
    assert_eq!(status(&absolute), "421");
    let absolute =
        say(&names, "GET http://web.localhost/x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
            .await;
    assert!(absolute.contains("GET /x HTTP/1.1\r\n") && absolute.contains("web.localhost\r\n"), "{absolute}");
    assert!(!absolute.contains("evil"), "{absolute}");
}

#[tokio::test]
async fn a_request_that_says_two_things_is_refused() {
    let (names, _) = router(None).await;
    for fields in [
        "Host: web.localhost\r\nHost: web.localhost\r\n",
        "Host: web.localhost\r\nHost: evil.example\r\n",
        "Host: a,b\r\n",
        "Host: web.localhost evil.example\r\n",
        "Host: user@web.localhost\r\n",
        "Host: web.localhost:80:80\r\n",
        "Host: web.local%68ost\r\n",
        "Host: w\u{e4}b.localhost\r\n",
        "",
        "Host: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "Host: localhost\r\nContent-Length: -1\r\n",
        "Host: localhost\r\nTransfer-Encoding: gzip\r\n",
    ] {
        let said = get(&names, fields).await;
        assert_eq!(status(&said), "400", "{fields:?}: {said}");
    }
    let tunnel = say(&names, "CONNECT web.localhost:80 HTTP/1.1\r\nHost: web.localhost:80\r\n\r\n").await;
    assert_eq!(status(&tunnel), "501");
}

#[tokio::test]
async fn a_request_with_both_lengths_arrives_with_one() {
    let (names, _) = router(None).await;
    for lengths in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{lengths}\r\n");
        // What follows the chunks would be a request of its own to whoever counts otherwise.
        let said =
            say(&names, &format!("{head}0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(status(&said), "200", "{said}");
        assert_eq!(said.matches("HTTP/1.1 200").count(), 1, "{said}");
        assert!(!said.contains("smuggled") && !said.contains("ontent-length: 3"), "{said}");
    }
}

#[tokio::test]
async fn a_broken_body_is_the_clients_fault() {
    let (names, _) = router(Some("")).await;
    for body in ["zz\r\n", "5\r\nab", "-1\r\n\r\n", "5;\r\nabcdefgh\r\n"] {
        let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut client = TcpStream::connect(names.address()).await.unwrap();
        client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = String::new();
        timeout(Duration::from_secs(20), client.read_to_string(&mut said)).await.unwrap().unwrap();
        assert_eq!(status(&said), "400", "{body:?}: {said}");
    }
}

#[tokio::test]
async fn a_client_cannot_remove_what_the_router_says() {
    let (names, _) = router(None).await;
    let request = "GET / HTTP/1.1\r\nHost: web.localhost\r\n\
         Connection: close, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Host\r\n\
         X-Forwarded-For: 10.0.0.1\r\nX_Forwarded_For: 10.0.0.2\r\n\r\n";
    let said = say(&names, request).await.to_lowercase();
    for expected in [
        "x-forwarded-for: 10.0.0.1, 127.0.0.1\r\n",
        "x-forwarded-host: web.localhost\r\n",
        "x-forwarded-proto: http\r\n",
        "\r\nhost: web.localhost\r\n",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("10.0.0.2"), "{said}");
}

#[tokio::test]
async fn a_reply_with_both_lengths_is_not_cut() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nwhole\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 300\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n",
    ] {
        let (names, _) = router(Some(reply)).await;
        let said = get(&names, "Host: localhost\r\n").await;
        assert!(said.contains("whole"), "{said}");
        assert!(!said.to_lowercase().contains("content-length"), "{said}");
    }
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_answer() {
    let slow = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let _some = client.read(&mut head).await.unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
                client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await.unwrap();
            }
        });
        port
    };
    let names = NameRouter::open("127.0.0.1:0".parse().unwrap(), Arc::new(Only(Host::awake(slow)))).unwrap();
    for request in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let mut client = TcpStream::connect(names.address()).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = String::new();
        timeout(Duration::from_secs(20), client.read_to_string(&mut said)).await.unwrap().unwrap();
        assert!(said.ends_with("slow"), "{request:?}: {said}");
    }
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_let_go_and_keeps_nobody_out() {
    let (names, _) = router(None).await;
    let mut silent = Vec::new();
    for n in 0..1200 {
        let mut client = TcpStream::connect(names.address()).await.unwrap();
        client.write_all(["GET / HTTP/1.1\r\nHo", "", "PRI * HT"][n % 3].as_bytes()).await.unwrap();
        silent.push(client);
    }
    let started = Instant::now();
    let said = get(&names, "Host: localhost\r\n").await;
    assert_eq!(status(&said), "200");
    assert!(started.elapsed() < Duration::from_secs(5), "it waited for {:?}", started.elapsed());
    for mut client in silent {
        let mut rest = Vec::new();
        // Closed or reset; either is an end.
        let _ended = timeout(Duration::from_secs(20), client.read_to_end(&mut rest)).await.expect("let go");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_token_and_names_are_as_they_were_configured() {
    let admission = Admission::new(&["sandbox.example".into()], Some("0123456789abcdef".into())).unwrap();
    let host = Host::awake(raw_server(None).await);
    let backends = Arc::new(Only(Arc::clone(&host)));
    let names = NameRouter::open_to("127.0.0.1:0".parse().unwrap(), backends, admission).unwrap();
    let without = get(&names, "Host: web.sandbox.example\r\n").await;
    assert_eq!(status(&without), "401");
    assert!(
        without.to_lowercase().contains("www-authenticate: basic") && without.contains("X-Aegis-Token"),
        "{without}"
    );
    for name in ["web.sandbox.example:8099", "sandbox.example", "web.localhost"] {
        let said = get(&names, &format!("Host: {name}\r\nX-Aegis-Token: 0123456789abcdef\r\n")).await;
        assert_eq!(status(&said), "200", "{name}: {said}");
        assert!(!said.contains("0123456789abcdef"), "{said}");
    }
    let unknown = get(&names, "Host: nix.sandbox.example\r\nX-Aegis-Token: 0123456789abcdef\r\n").await;
    assert_eq!(status(&unknown), "404");
    assert!(unknown.contains("\"names\":[]"), "{unknown}");
}

#[tokio::test]
async fn a_socket_of_a_foreign_page_is_refused() {
    let (names, host) = router(None).await;
    let upgrade = "Host: web.localhost\r\nUpgrade: websocket\r\nOrigin: https://evil.example\r\n";
    let said = say(&names, &format!("GET / HTTP/1.1\r\n{upgrade}Connection: upgrade\r\n\r\n")).await;
    assert_eq!(status(&said), "403", "{said}");
    assert_eq!(host.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_is_not_let_in_wakes_nothing() {
    let host = Host::asleep(raw_server(None).await);
    let admission = Admission::new(&[], Some("0123456789abcdef".into())).unwrap();
    let backends = Arc::new(Only(Arc::clone(&host)));
    let names = NameRouter::open_to("127.0.0.1:0".parse().unwrap(), backends, admission).unwrap();
    host.may_wake.notify_one();
    assert_eq!(status(&get(&names, "Host: web.localhost\r\n").await), "401");
    assert_eq!(
        status(&get(&names, "Host: evil.example\r\nX-Aegis-Token: 0123456789abcdef\r\n").await),
        "421"
    );
    assert_eq!((host.wakes.load(Ordering::SeqCst), host.connections.load(Ordering::SeqCst)), (0, 0));
    assert_eq!(status(&get(&names, "Host: localhost\r\nX-Aegis-Token: 0123456789abcdef\r\n").await), "200");
    assert_eq!(host.wakes.load(Ordering::SeqCst), 1);
}
