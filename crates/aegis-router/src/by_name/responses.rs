//! Responses of the router itself: not found, refused, waking, failed.

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::admission::Denied;
use super::body::{Body, whole};
use crate::backend::{Refusal, Target, Unresolved};
use crate::{loading_page, protocol_replies};

fn reply(status: u16, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const HTML: &str = "text/html; charset=utf-8";

const JSON: &str = "application/json";

pub(super) fn not_found(page: bool, Unresolved { message, names }: &Unresolved) -> Response<Body> {
    if page {
        reply(404, HTML, loading_page::names_page(message, names))
    } else {
        reply(404, JSON, protocol_replies::error_json("no_such_instance", message, Some(names)))
    }
}

/// Says why a request is not let in. Nothing of what there is.
pub(super) fn refused(page: bool, denied: Denied) -> Response<Body> {
    let (status, code, message) = match denied {
        Denied::Malformed(what) => (400, "bad_request", what),
        Denied::Misdirected => (
            421,
            "misdirected_request",
            "the host is none that is served; use HANDLE.localhost, or set names in config.toml: [router]",
        ),
        Denied::NoToken => (
            401,
            "unauthorized",
            "a token is needed: X-Aegis-Token, or as a password; it is in config.toml: [router] token",
        ),
        Denied::ForeignPage => (
            403,
            "foreign_origin",
            "a page of another site may not open sockets; set names in config.toml: [router] if it is yours",
        ),
        Denied::Tunnel => (501, "not_implemented", "this is no proxy for other hosts"),
    };
    let mut response = if page {
        reply(status, HTML, loading_page::refusal_page(message))
    } else {
        reply(status, JSON, protocol_replies::error_json(code, message, None))
    };
    let headers = response.headers_mut();
    // Of some of them it is not known where they end, and the others had better not come again.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if denied == Denied::NoToken {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"AegisVM\""));
    }
    response
}

pub(super) fn waiting(target: &Target, state: &str) -> Response<Body> {
    let mut response = reply(503, HTML, loading_page::waiting_page(target, state));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

pub(super) fn failed(page: bool, target: &Target, refusal: &Refusal) -> Response<Body> {
    tracing::debug!(instance = %target.name, %refusal, "request refused");
    let status = protocol_replies::status(refusal);
    let mut response = if page {
        reply(status, HTML, loading_page::failure_page(target, refusal))
    } else {
        reply(status, JSON, protocol_replies::error_json(refusal.code(), &refusal.to_string(), None))
    };
    response.headers_mut().insert(header::RETRY_AFTER, protocol_replies::retry_after(refusal).into());
    response
}
