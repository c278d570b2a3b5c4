//! The reverse proxy: passes one request on.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::admission::{self, Admitted, Denied, Peer};
use super::body::{Body, Broken, Counted, whole};
use super::pool::{Http1Sender, Http2Sender};
use super::request::{forwarded, is_navigation, strip, wants_upgrade};
use super::responses::{failed, not_found, refused, waiting};
use super::shared::Shared;
use crate::backend::{Refusal, Target, Upstream};
use crate::port_connection::PATIENCE;
use crate::splice::splice;

/// A connection that takes a request.
enum Sender {
    Http1Sender(Http1Sender),
    Http2Sender(Http2Sender),
}

/// Answers a request.
pub(super) async fn answer(shared: &Shared, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let page = is_navigation(&request);
    let admitted = match admission::admit(&shared.admission, peer, &request, |port| {
        shared.backends.instance_of_port(port)
    }) {
        Ok(admitted) => admitted,
        Err(denied) => return refused(page, denied),
    };
    let target = match shared.backends.resolve(&admitted.wanted) {
        Ok(target) => target,
        Err(mut unresolved) => {
            if !admitted.tell_names {
                unresolved.names.clear();
            }
            return not_found(page, &unresolved);
        }
    };
    let broken = Broken::default();
    let passed = match shared.backends.upstream(&target) {
        Ok(upstream) => pass(shared, peer, &target, upstream, admitted, &broken, request).await,
        Err(refusal) => Err(refusal),
    };
    match passed {
        Ok(response) => response,
        Err(_) if broken.is_set() => refused(page, Denied::Malformed("the body is broken")),
        Err(refusal) => failed(page, &target, &refusal),
    }
}

async fn pass(
    shared: &Shared,
    peer: Peer,
    target: &Target,
    upstream: Arc<dyn Upstream>,
    admitted: Admitted,
    broken: &Broken,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let upgrade = wants_upgrade(&request);
    let host = admitted.host;
    strip(request.headers_mut(), upgrade);
    admission::take_out(&shared.admission, request.headers_mut());
    forwarded(request.headers_mut(), peer.client, host.as_deref());
    let many = request.version() == Version::HTTP_2;
    let sender = ready(shared, target, &*upstream, many, upgrade);
    let sender = if is_navigation(&request) {
        // The wake goes on without this request.
        match timeout(PATIENCE, sender).await {
            Ok(sender) => sender?,
            Err(_) => return Ok(waiting(target, upstream.state())),
        }
    } else {
        sender.await?
    };
    match sender {
        Sender::Http2Sender(mut many) => {
            let request = request.map(|body| Counted::to_guest(body, &upstream, broken));
            let response = many.send_request(request).await;
            Ok(finish(response.map_err(|error| no_reply(&error))?, &upstream))
        }
        Sender::Http1Sender(one) => {
            let request = origin_form(request, host.as_deref());
            if upgrade {
                return switch(shared, one, request, upstream, broken).await;
            }
            let request = request.map(|body| Counted::to_guest(body, &upstream, broken));
            exchange(shared, target, one, request, &upstream).await
        }
    }
}

/// Returns when the instance runs and there is a connection to it.
async fn ready(
    shared: &Shared,
    target: &Target,
    upstream: &dyn Upstream,
    many: bool,
    fresh: bool,
) -> Result<Sender, Refusal> {
    if !upstream.is_awake() {
        upstream.wake().await?;
    }
    if many {
        return shared.pool.many(target, upstream).await.map(Sender::Http2Sender);
    }
    let kept = if fresh { None } else { shared.pool.take(target) };
    match kept {
        Some(one) => Ok(Sender::Http1Sender(one)),
        None => shared.pool.open(upstream.connect().await?).await.map(Sender::Http1Sender),
    }
}

/// A request as it is written to a server: the path alone, and the host in its field, where a target had another one.
fn origin_form(mut request: Request<Incoming>, host: Option<&str>) -> Request<Incoming> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    if let Some(value) = host.and_then(|host| HeaderValue::from_str(host).ok()) {
        request.headers_mut().insert(header::HOST, value);
    }
    // What was parsed as a path is one.
    *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    *request.version_mut() = Version::HTTP_11;
    request
}

/// Sends a request and returns the reply. One that a kept connection did not take, because it had just ended, goes to
/// a new one.
async fn exchange(
    shared: &Shared,
    target: &Target,
    mut one: Http1Sender,
    request: Request<Body>,
    upstream: &Arc<dyn Upstream>,
) -> Result<Response<Body>, Refusal> {
    let response = match one.try_send_request(request).await {
        Ok(response) => response,
        Err(mut failed) => match failed.take_message() {
            Some(request) => {
                one = shared.pool.open(upstream.connect().await?).await?;
                one.send_request(request).await.map_err(|error| no_reply(&error))?
            }
            None => return Err(no_reply(failed.error())),
        },
    };
    let (pool, target) = (shared.pool.clone(), target.clone());
    // Ready again when the reply has been read to its end.
    let keeping = async move {
        if one.ready().await.is_ok() {
            pool.put(&target, one);
        }
    };
    let ending = shared.ending.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = keeping => {}
            () = ending.cancelled() => {}
        }
    });
    Ok(finish(response, upstream))
}

/// Passes a change of protocol on, and then the bytes.
async fn switch(
    shared: &Shared,
    mut one: Http1Sender,
    mut request: Request<Incoming>,
    upstream: Arc<dyn Upstream>,
    broken: &Broken,
) -> Result<Response<Body>, Refusal> {
    let of_client = hyper::upgrade::on(&mut request);
    let request = request.map(|body| Counted::to_guest(body, &upstream, broken));
    let mut response = one.send_request(request).await.map_err(|error| no_reply(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(finish(response, &upstream));
    }
    let of_guest = hyper::upgrade::on(&mut response);
    let ending = shared.ending.clone();
    shared.tasks.spawn(async move {
        let carried = async {
            let (client, guest) = tokio::try_join!(of_client, of_guest).map_err(std::io::Error::other)?;
            splice(&mut TokioIo::new(client), &mut TokioIo::new(guest), &*upstream).await
        };
        tokio::select! {
            // Either side has gone; there is nobody to tell.
            _over = carried => {}
            () = ending.cancelled() => {}
        }
    });
    let (mut parts, _empty) = response.into_parts();
    strip(&mut parts.headers, true);
    Ok(Response::from_parts(parts, whole(String::new())))
}

fn finish(response: Response<Incoming>, upstream: &Arc<dyn Upstream>) -> Response<Body> {
    let mut response = response.map(|body| Counted::to_client(body, upstream));
    let headers = response.headers_mut();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // The chunks say how long it is, whatever else it says (RFC 9112, section 6.3): they have been taken apart by now.
        headers.remove(header::CONTENT_LENGTH);
    }
    strip(headers, false);
    response
}

fn no_reply(error: &hyper::Error) -> Refusal {
    Refusal::Failed(format!("the server in the instance gave no reply: {error}"))
}
