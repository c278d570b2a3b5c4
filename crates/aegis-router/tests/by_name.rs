//! The name router before servers of this host, with a client of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aegis_router::NameRouter;
use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{Host, Only};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long anything may take.
const WAIT: Duration = Duration::from_secs(10);
/// Long enough for what is on its way.
const SHORT: Duration = Duration::from_millis(100);

type Reply = Response<BoxBody<Bytes, Infallible>>;

/// A server that answers with what it was asked; in one go, or in pieces with trailers.
async fn answer(mut request: Request<Incoming>) -> Result<Reply, Infallible> {
    if request.headers().contains_key("upgrade") {
        let upgrading = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrading.await.unwrap());
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let reply = Response::builder().status(101).header("upgrade", "echo").header("connection", "upgrade");
        return Ok(reply.body(Empty::new().boxed()).unwrap());
    }
    let field = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let seen = format!(
        "{} {} {:?} host={} for={}",
        request.method(),
        request.uri().path(),
        request.version(),
        field("host").or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default(),
        field("x-forwarded-for").unwrap_or_default(),
    );
    if request.uri().path() == "/echo" {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        return Ok(Response::new(Full::new(body).boxed()));
    }
    if request.uri().path() == "/pieces" {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        tokio::spawn(async move {
            for piece in ["one ", "two ", "three"] {
                sender.send_data(Bytes::from_static(piece.as_bytes())).await.unwrap();
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            sender.send_trailers(trailers).await.unwrap();
        });
        return Ok(Response::new(body.boxed()));
    }
    Ok(Response::new(Full::new(Bytes::from(seen)).boxed()))
}

/// Serves HTTP/1 and HTTP/2; returns the port.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                drop(builder.serve_connection_with_upgrades(TokioIo::new(client), service_fn(answer)).await);
            });
        }
    });
    port
}

fn router(host: &Arc<Host>) -> NameRouter {
    NameRouter::open("127.0.0.1:0".parse().unwrap(), Arc::new(Only(Arc::clone(host)))).unwrap()
}

async fn connect(names: &NameRouter) -> TcpStream {
    TcpStream::connect(names.address()).await.unwrap()
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::builder().uri(path).header("host", "web.localhost:8099").body(Empty::new()).unwrap()
}

async fn text<B: Body<Data = Bytes>>(response: Response<B>) -> String
where
    B::Error: std::fmt::Debug,
{
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn one(names: &NameRouter) -> hyper::client::conn::http1::SendRequest<Empty<Bytes>> {
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connect(names).await)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn a_request_arrives_with_its_host_and_connections_are_used_again() {
    let host = Host::awake(server().await);
    let names = router(&host);
    let mut client = one(&names).await;
    for _ in 0..5 {
        let reply = text(client.send_request(get("/a")).await.unwrap()).await;
        assert_eq!(reply, "GET /a HTTP/1.1 host=web.localhost:8099 for=127.0.0.1");
    }
    assert!(host.connections.load(Ordering::SeqCst) <= 2, "each request made a connection");
    assert_eq!(host.visits.load(Ordering::SeqCst), 0, "no upstream outlasts its request");
    drop(client);
    names.shut_down().await;
}

#[tokio::test]
async fn a_kept_connection_that_has_ended_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = Host::awake(listener.local_addr().unwrap().port());
    // Answers one request on each connection and closes it without having said so.
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _some = client.read(&mut head).await.unwrap();
            client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    });
    let names = router(&host);
    let mut client = one(&names).await;
    for _ in 0..50 {
        let response = client.send_request(get("/")).await.unwrap();
        assert_eq!((response.status().as_u16(), text(response).await.as_str()), (200, "ok"));
    }
}

#[tokio::test]
async fn a_large_body_passes_both_ways() {
    let host = Host::awake(server().await);
    let names = router(&host);
    let stream = TokioIo::new(connect(&names).await);
    let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let body: Vec<u8> = (0..20_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let request =
        Request::post("/echo").header("host", "web.localhost").body(Full::new(Bytes::from(body.clone())));
    let response = client.send_request(request.unwrap()).await.unwrap();
    assert!(response.into_body().collect().await.unwrap().to_bytes() == body);
}

#[tokio::test]
async fn http2_goes_to_the_guest_as_http2_with_its_trailers() {
    let host = Host::awake(server().await);
    let names = router(&host);
    let stream = TokioIo::new(connect(&names).await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let get = |path: &str| {
        let uri = format!("http://web.localhost:8099{path}");
        Request::builder().uri(uri).header("te", "trailers").body(Empty::<Bytes>::new()).unwrap()
    };
    let reply = text(client.send_request(get("/a")).await.unwrap()).await;
    assert_eq!(reply, "GET /a HTTP/2.0 host=web.localhost:8099 for=127.0.0.1");
    let mut response = client.send_request(get("/pieces")).await.unwrap();
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = response.body_mut().frame().await {
        let frame: Frame<Bytes> = frame.unwrap();
        match frame.into_data() {
            Ok(bytes) => data.extend(bytes),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    assert_eq!(String::from_utf8(data).unwrap(), "one two three");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn an_upgrade_passes_and_then_the_bytes_do() {
    let host = Host::awake(server().await);
    let names = router(&host);
    let mut client = connect(&names).await;
    let head = "GET /socket HTTP/1.1\r\nHost: web.localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(client.read_u8().await.unwrap());
    }
    assert!(seen.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&seen));
    assert_eq!(host.visits.load(Ordering::SeqCst), 1, "it is in use");
    client.write_all(b"bytes").await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"bytes");
}

#[tokio::test]
async fn a_browser_gets_a_page_while_it_wakes_and_everybody_else_waits() {
    let host = Host::asleep(server().await);
    let names = router(&host);
    let mut browser = get("/");
    browser.headers_mut().insert("accept", HeaderValue::from_static("text/html,*/*"));
    let response = one(&names).await.send_request(browser).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(text(response).await.contains("web is waking up"));
    let mut client = one(&names).await;
    let waiting = tokio::spawn(async move { text(client.send_request(get("/b")).await.unwrap()).await });
    while host.visits.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    host.may_wake.notify_one();
    assert_eq!(waiting.await.unwrap(), "GET /b HTTP/1.1 host=web.localhost:8099 for=127.0.0.1");
    assert_eq!(host.wakes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_name_that_means_nothing_is_answered_with_those_that_do() {
    let host = Host::awake(server().await);
    let names = router(&host);
    let mut request = get("/");
    request.headers_mut().insert("host", HeaderValue::from_static("nix.localhost"));
    let response = one(&names).await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(
        text(response).await,
        "{\"error\":{\"code\":\"no_such_instance\",\"message\":\"no such instance\",\"names\":[\"web\"]}}\n"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_bad_gateway() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let names = router(&Host::awake(port));
    let response = one(&names).await.send_request(get("/")).await.unwrap();
    assert_eq!(response.status(), 502);
    assert!(text(response).await.contains("\"port_refused\""));
}

#[tokio::test]
async fn a_machine_that_stands_still_in_the_middle_of_a_request_goes_on_for_what_comes_of_it() {
    let host = Host::awake(server().await);
    let names = router(&host);
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(connect(&names).await))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://web.localhost:8099/echo").body(body).unwrap();
    let response = tokio::spawn(client.send_request(request));
    sender.send_data(Bytes::from_static(b"one ")).await.unwrap();
    let connected = async {
        while host.connections.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, connected).await.unwrap();
    for (piece, wakes) in [("two ", 1), ("three", 2)] {
        tokio::time::sleep(SHORT).await;
        host.awake.store(false, Ordering::SeqCst);
        sender.send_data(Bytes::from_static(piece.as_bytes())).await.unwrap();
        tokio::time::sleep(SHORT).await;
        assert_eq!(host.wakes.load(Ordering::SeqCst), wakes - 1, "it decides when it goes on");
        host.may_wake.notify_one();
        let woken = async {
            while host.wakes.load(Ordering::SeqCst) < wakes {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(WAIT, woken).await.unwrap();
    }
    // The end is told, too.
    tokio::time::sleep(SHORT).await;
    host.awake.store(false, Ordering::SeqCst);
    host.may_wake.notify_one();
    drop(sender);
    let response = tokio::time::timeout(WAIT, response).await.unwrap().unwrap().unwrap();
    assert_eq!(text(response).await, "one two three");
    assert_eq!(host.wakes.load(Ordering::SeqCst), 3);
}
