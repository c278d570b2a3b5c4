//! Public ports whose instance sleeps: what each protocol's client gets, and that nothing it said early is lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aegis_router::{Listeners, Protocol};
use rustix::process::{Resource, getrlimit, setrlimit};
use support::{Host, Only};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Sends back everything it gets, when that has ended.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                let _broken = client.read_to_end(&mut all).await;
                let _broken = client.write_all(&all).await;
            });
        }
    });
    port
}

fn open(host: &Arc<Host>, protocol: Protocol) -> (Listeners, u16) {
    let listeners = Listeners::new(Arc::new(Only(Arc::clone(host))));
    let port = listeners.open(LOOPBACK, 0, host.target(protocol)).unwrap();
    (listeners, port)
}

async fn say(port: u16, text: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect((LOOPBACK, port)).await.unwrap();
    client.write_all(text).await.unwrap();
    client
}

async fn hear(mut client: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    client.read_to_end(&mut all).await?;
    Ok(all)
}

#[tokio::test]
async fn a_browser_gets_a_page_that_refreshes_itself_and_the_instance_wakes() {
    let host = Host::asleep(echo().await);
    let (_listeners, port) = open(&host, Protocol::Http);
    let client = say(port, b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n").await;
    let page = String::from_utf8(hear(client).await.unwrap()).unwrap();
    assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
    for words in
        ["Retry-After: 1\r\n", "no-store", "http-equiv=\"refresh\"", "web is waking up", "It is paused"]
    {
        assert!(page.contains(words), "{words} in {page}");
    }
}

#[tokio::test]
async fn what_is_said_while_it_wakes_arrives_whole_whatever_the_protocol() {
    for (protocol, early) in [
        (Protocol::Http, &b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"[..]),
        (Protocol::Http, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        (Protocol::Grpc, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        (Protocol::Ws, b"GET / HTTP/1.1\r\nAccept: text/html\r\nUpgrade: websocket\r\n\r\n"),
        (Protocol::Tcp, b"\x16\x03\x01 anything"),
    ] {
        let host = Host::asleep(echo().await);
        let (_listeners, port) = open(&host, protocol);
        let mut client = say(port, early).await;
        // More than is looked at, and an end of this half.
        let more = vec![b'x'; 100_000];
        let writer = tokio::spawn(async move {
            client.write_all(&more).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        while host.visits.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        host.may_wake.notify_one();
        let heard = hear(writer.await.unwrap()).await.unwrap();
        assert_eq!((&heard[..early.len()], heard.len()), (early, early.len() + 100_000), "{protocol}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_in_the_clients_language() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let host = Host::awake(port);
    let (_listeners, port) = open(&host, Protocol::Http);
    let reply = hear(say(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await).await.unwrap();
    let reply = String::from_utf8(reply).unwrap();
    assert!(
        reply.starts_with("HTTP/1.1 502 Bad Gateway\r\n") && reply.contains("\"port_refused\""),
        "{reply}"
    );
    let frames = hear(say(port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await).await.unwrap();
    assert_eq!((frames[3], frames[12]), (4, 7), "SETTINGS, then GOAWAY");
    let (_listeners, port) = open(&host, Protocol::Tcp);
    let reset = hear(say(port, b"anything").await).await.unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_port_that_is_closed_takes_no_more_and_ends_nothing() {
    let host = Host::awake(echo().await);
    let (listeners, port) = open(&host, Protocol::Tcp);
    let mut client = say(port, b"before").await;
    while host.connections.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    listeners.close(LOOPBACK, port);
    while TcpStream::connect((LOOPBACK, port)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    client.shutdown().await.unwrap();
    assert_eq!(hear(client).await.unwrap(), b"before");
}

/// In a process of its own, because the limit is the process's: the test runs itself again.
#[test]
fn without_descriptors_new_connections_are_refused_and_it_recovers() {
    const INNER: &str = "AEGIS_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(INNER).is_none() {
        let own = std::env::current_exe().unwrap();
        let name = "without_descriptors_new_connections_are_refused_and_it_recovers";
        let run =
            std::process::Command::new(own).args(["--exact", name, "--nocapture"]).env(INNER, "1").output();
        let run = run.unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = Host::awake(echo().await);
        let (_listeners, port) = open(&host, Protocol::Tcp);
        let mut living = say(port, b"living").await;
        while host.connections.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(64);
        setrlimit(Resource::Nofile, limit).unwrap();
        // The client's own descriptor comes first, and nothing is left for the other side.
        let client = tokio::net::TcpSocket::new_v4().unwrap();
        let mut hoard: Vec<OwnedFd> = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file.into());
        }
        let client = client.connect((LOOPBACK, port).into()).await.unwrap();
        let refused = hear(client).await;
        assert!(refused.is_err() || refused.unwrap().is_empty(), "it was served without a descriptor");
        hoard.clear();
        living.shutdown().await.unwrap();
        assert_eq!(hear(living).await.unwrap(), b"living", "what was there before lives on");
        let mut client = say(port, b"after").await;
        client.shutdown().await.unwrap();
        assert_eq!(hear(client).await.unwrap(), b"after", "it recovers");
    });
}
