//! What a program in the guest may ask of its own instance: to stay awake. HTTP requests in, replies out; pure.
//!
//! `POST /v1/keepalive` with `{"ttl_ms":60000,"reason":"training"}`, `DELETE` and `GET` of the same.

use serde::Deserialize;
use serde_json::json;

/// Lease of a request that names no time, milliseconds.
const DEFAULT_TTL_MS: u64 = 30_000;
/// Longest lease, milliseconds. It may be renewed.
const MOST_TTL_MS: u64 = 60 * 60_000;
/// Longest reason, characters.
const MOST_REASON: usize = 200;
/// Longest head of a request, bytes.
const LONGEST_HEAD: usize = 8 << 10;
/// Longest body of a request, bytes.
const LONGEST_BODY: usize = 4 << 10;
/// Most header fields.
const MOST_FIELDS: usize = 64;
/// Most bytes that are worth reading of a request.
pub const LONGEST_REQUEST: usize = LONGEST_HEAD + LONGEST_BODY;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepAwakeRequest {
    /// Stay awake for so many milliseconds, and why.
    Keep(u64, String),
    /// Do not any more.
    Release,
    /// Whether it does.
    Tell,
}

/// A request that cannot be met: status and sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(u16, String);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Body {
    ttl_ms: Option<u64>,
    reason: String,
}

fn refuse<T>(status: u16, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(status, text.into()))
}

/// Parses a request; `None` if more of it is to come.
///
/// # Errors
/// [`Refusal`].
pub fn parse(bytes: &[u8]) -> Result<Option<KeepAwakeRequest>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let body_at = match request.parse(bytes) {
        Ok(httparse::Status::Complete(at)) => at,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return refuse(431, "the head of the request is too long"),
        Err(error) => return refuse(400, format!("no HTTP request: {error}")),
    };
    if request.path != Some("/v1/keepalive") {
        return refuse(404, "there is /v1/keepalive and nothing else");
    }
    match request.method {
        Some("GET") => Ok(Some(KeepAwakeRequest::Tell)),
        Some("DELETE") => Ok(Some(KeepAwakeRequest::Release)),
        Some("POST") => {
            let length =
                request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
            let length = match length
                .map(|field| std::str::from_utf8(field.value).unwrap_or("?").trim().parse::<usize>())
            {
                Some(Ok(length)) => length,
                Some(Err(_)) => return refuse(400, "Content-Length is no number"),
                None => return refuse(411, "a body with a Content-Length is needed"),
            };
            if length > LONGEST_BODY {
                return refuse(413, format!("a body has at most {LONGEST_BODY} bytes"));
            }
            match bytes.get(body_at..body_at + length) {
                Some(body) => keep(body).map(Some),
                None => Ok(None),
            }
        }
        _ => refuse(405, "there are GET, POST and DELETE"),
    }
}

fn keep(body: &[u8]) -> Result<KeepAwakeRequest, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    let Body { ttl_ms, reason } = match serde_json::from_slice(body) {
        Ok(body) => body,
        Err(error) => return refuse(400, format!("the body does not fit: {error}")),
    };
    let ttl_ms = ttl_ms.unwrap_or(DEFAULT_TTL_MS);
    if ttl_ms == 0 || ttl_ms > MOST_TTL_MS {
        return refuse(400, format!("ttl_ms is 1 to {MOST_TTL_MS}; a lease may be renewed"));
    }
    if reason.chars().count() > MOST_REASON || reason.chars().any(char::is_control) {
        return refuse(400, format!("a reason has at most {MOST_REASON} characters, on one line"));
    }
    Ok(KeepAwakeRequest::Keep(ttl_ms, reason))
}

/// What the guest has asked for, as the reply tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// How much of the lease is left, milliseconds; 0 for none.
    pub remaining_ms: u64,
    /// Why.
    pub reason: String,
}

/// The reply to a request, whole.
#[must_use]
pub fn reply(result: Result<&Held, &Refusal>) -> Vec<u8> {
    let (status, body) = match result {
        Ok(held) => {
            let remaining = (held.remaining_ms > 0).then_some(held.remaining_ms);
            let body =
                json!({ "held": remaining.is_some(), "remaining_ms": remaining, "reason": held.reason });
            (200, body)
        }
        Err(Refusal(status, text)) => {
            (*status, json!({ "error": { "code": "invalid_argument", "message": text } }))
        }
    };
    let phrase = match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        _ => "Bad Request",
    };
    let body = format!("{body}\n");
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn post(body: &str) -> Vec<u8> {
        format!("POST /v1/keepalive HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    }

    fn status(bytes: &[u8]) -> u16 {
        parse(bytes).unwrap_err().0
    }

    #[test]
    fn a_lease_is_asked_for_and_given_up() {
        let asked = parse(&post("{\"ttl_ms\":60000,\"reason\":\"training\"}")).unwrap();
        assert_eq!(asked, Some(KeepAwakeRequest::Keep(60_000, "training".into())));
        assert_eq!(parse(&post("")).unwrap(), Some(KeepAwakeRequest::Keep(DEFAULT_TTL_MS, String::new())));
        assert_eq!(parse(b"DELETE /v1/keepalive HTTP/1.1\r\n\r\n").unwrap(), Some(KeepAwakeRequest::Release));
        assert_eq!(parse(b"GET /v1/keepalive HTTP/1.1\r\n\r\n").unwrap(), Some(KeepAwakeRequest::Tell));
    }

    #[test]
    fn what_cannot_be_met_is_refused_with_its_reason() {
        assert_eq!(status(&post("{\"ttl_ms\":3600001}")), 400);
        assert_eq!(status(&post("{\"ttl_ms\":0}")), 400);
        assert_eq!(status(&post("{\"tll\":1}")), 400);
        assert_eq!(status(&post("{\"reason\":\"a\\nb\"}")), 400);
        assert_eq!(status(b"POST /v1/keepalive HTTP/1.1\r\n\r\n"), 411);
        assert_eq!(status(b"POST /v1/keepalive HTTP/1.1\r\nContent-Length: 99999\r\n\r\n"), 413);
        assert_eq!(status(b"PUT /v1/keepalive HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), 404);
        assert_eq!(status(&[b'a'; LONGEST_HEAD]), 431);
    }

    #[test]
    fn a_reply_says_how_long_it_is() {
        let text = String::from_utf8(reply(Ok(&Held { remaining_ms: 5, reason: "\"x\"".into() }))).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert_eq!(body, "{\"held\":true,\"reason\":\"\\\"x\\\"\",\"remaining_ms\":5}\n");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), posted in any::<bool>()) {
            let bytes = if posted { post(&String::from_utf8_lossy(&bytes)) } else { bytes };
            drop(parse(&bytes));
        }

        #[test]
        fn it_does_not_matter_how_a_request_arrives(ttl in 1u64..=MOST_TTL_MS, at in 0usize..120) {
            let whole = post(&format!("{{\"ttl_ms\":{ttl}}}"));
            let part = parse(&whole[..at.min(whole.len())]).unwrap();
            prop_assert!(part.is_none() || at >= whole.len());
        }
    }
}
