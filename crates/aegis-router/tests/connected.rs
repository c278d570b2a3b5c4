//! Connections that are open while the machine that they lead to stands still, ends, or is gone.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aegis_router::{Listeners, Protocol};
use support::{Host, Only};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const WAIT: Duration = Duration::from_secs(10);

/// A client that is connected to a server, and the server's end.
struct Pair {
    host: Arc<Host>,
    client: TcpStream,
    server: TcpStream,
    _listeners: Listeners,
}

async fn connected() -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = Host::awake(listener.local_addr().unwrap().port());
    let listeners = Listeners::new(Arc::new(Only(Arc::clone(&host))));
    let port = listeners.open("127.0.0.1".parse().unwrap(), 0, host.target(Protocol::Tcp)).unwrap();
    let (said, accepted) = oneshot::channel();
    tokio::spawn(async move { said.send(listener.accept().await.unwrap().0) });
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut server = accepted.await.unwrap();
    client.write_all(b"x").await.unwrap();
    let mut byte = [0];
    server.read_exact(&mut byte).await.unwrap();
    Pair { host, client, server, _listeners: listeners }
}

async fn nobody_is_left(host: &Host) {
    let left = async {
        while host.visits.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, left).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_client_wakes_no_machine_that_is_being_stopped() {
    let Pair { host, mut client, server, .. } = connected().await;
    host.awake.store(false, Ordering::SeqCst);
    host.stopped.store(true, Ordering::SeqCst);
    host.may_wake.notify_one();
    drop(server);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    drop(client);
    nobody_is_left(&host).await;
    assert_eq!(host.wakes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_that_says_something_to_a_machine_that_is_gone_is_reset_and_wakes_nothing() {
    let Pair { host, mut client, server, .. } = connected().await;
    host.awake.store(false, Ordering::SeqCst);
    host.stopped.store(true, Ordering::SeqCst);
    host.may_wake.notify_one();
    client.write_all(b"late").await.unwrap();
    let mut rest = Vec::new();
    assert!(tokio::time::timeout(WAIT, client.read_to_end(&mut rest)).await.unwrap().is_err());
    nobody_is_left(&host).await;
    assert_eq!(host.wakes.load(Ordering::SeqCst), 0);
    drop(server);
}

#[tokio::test]
async fn a_client_that_does_not_look_is_counted_no_more_when_its_machine_is_gone() {
    let Pair { host, client, server, .. } = connected().await;
    drop(server);
    assert_eq!(host.visits.load(Ordering::SeqCst), 1);
    host.cut.notify_waiters();
    nobody_is_left(&host).await;
    drop(client);
}

#[tokio::test]
async fn what_a_machine_said_last_arrives_though_it_is_gone() {
    let Pair { host, mut client, mut server, .. } = connected().await;
    host.cut.notify_waiters();
    server.write_all(&vec![7; 1 << 20]).await.unwrap();
    drop(server);
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    assert_eq!(said.len(), 1 << 20);
}

#[tokio::test]
async fn bytes_that_are_held_arrive_in_order_and_whole_when_it_goes_on() {
    let Pair { host, mut client, mut server, .. } = connected().await;
    host.awake.store(false, Ordering::SeqCst);
    let sent: Vec<u8> = (0..300_000u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        for piece in copy.chunks(1000) {
            client.write_all(piece).await.unwrap();
        }
        client.shutdown().await.unwrap();
        client
    });
    let mut early = [0];
    let none = tokio::time::timeout(Duration::from_millis(200), server.read(&mut early)).await;
    assert!(none.is_err(), "carried to a machine that stands still");
    host.may_wake.notify_one();
    let mut received = Vec::new();
    tokio::time::timeout(WAIT, server.read_to_end(&mut received)).await.unwrap().unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    assert_eq!(host.wakes.load(Ordering::SeqCst), 1);
    drop(writer.await.unwrap());
}

#[tokio::test]
async fn a_machine_that_is_being_ended_hears_its_clients_and_is_not_asked_over_and_over() {
    let Pair { host, mut client, mut server, .. } = connected().await;
    host.awake.store(false, Ordering::SeqCst);
    host.ending.store(true, Ordering::SeqCst);
    client.write_all(b"last words").await.unwrap();
    let mut heard = [0; 10];
    tokio::time::timeout(WAIT, server.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"last words");
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(WAIT, server.read_to_end(&mut rest)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(host.asked.load(Ordering::SeqCst) <= 6, "asked {} times", host.asked.load(Ordering::SeqCst));
    drop(server);
    nobody_is_left(&host).await;
}
