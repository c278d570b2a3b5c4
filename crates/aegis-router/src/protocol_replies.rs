//! Replies to a client that cannot be served, or not yet, in the protocol that it speaks: 503, gRPC trailers, pages. Pure.

use crate::backend::{Refusal, Target};
use crate::loading_page::{failure_page, waiting_page};

/// Most bytes of a request's head that are looked at.
pub(crate) const LONGEST_HEAD: usize = 16 << 10;
/// Most header fields of a request that are looked at.
const MOST_FIELDS: usize = 128;
/// How an HTTP/2 connection begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame (RFC 9113, section 6.5).
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Frame type GOAWAY (RFC 9113, section 6.8).
const GOAWAY: u8 = 7;
/// Error codes of HTTP/2 (RFC 9113, section 7).
const INTERNAL_ERROR: u8 = 2;
const REFUSED_STREAM: u8 = 7;

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientProtocol {
    /// More is needed to tell.
    Incomplete,
    /// A person looks at a page: GET, and HTML is welcome.
    Navigation,
    /// Any other HTTP/1 request.
    Request,
    /// HTTP/2.
    Http2,
    /// Something else, or a head that is too long.
    Other,
}

/// Classifies the first bytes of a connection. More bytes never change what was said before, but for `Incomplete`.
pub(crate) fn classify(bytes: &[u8]) -> ClientProtocol {
    let compared = bytes.len().min(PREFACE.len());
    if bytes.get(..compared) == PREFACE.get(..compared) {
        return if compared == PREFACE.len() { ClientProtocol::Http2 } else { ClientProtocol::Incomplete };
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {
            let field = |name: &str| {
                let found = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
                found.map(|field| String::from_utf8_lossy(field.value).to_ascii_lowercase())
            };
            let welcome = field("accept").is_some_and(|accept| accept.contains("text/html"));
            let page = request.method == Some("GET") && welcome && field("upgrade").is_none();
            if page { ClientProtocol::Navigation } else { ClientProtocol::Request }
        }
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST_HEAD => ClientProtocol::Incomplete,
        Ok(httparse::Status::Partial) | Err(_) => ClientProtocol::Other,
    }
}

/// An error as the API writes them.
pub(crate) fn error_json(code: &str, message: &str, names: Option<&[String]>) -> String {
    let mut error = serde_json::json!({ "code": code, "message": message });
    if let (Some(names), Some(fields)) = (names, error.as_object_mut()) {
        fields.insert("names".to_owned(), names.into());
    }
    format!("{}\n", serde_json::json!({ "error": error }))
}

/// The HTTP status for a refusal.
pub(crate) fn status(refusal: &Refusal) -> u16 {
    match refusal {
        Refusal::PortRefused(_) => 502,
        _ => 503,
    }
}

/// How soon to try again, seconds.
pub(crate) fn retry_after(refusal: &Refusal) -> u32 {
    match refusal {
        Refusal::Disabled | Refusal::Gone => 30,
        _ => 3,
    }
}

fn reply(status: u16, retry_after: u32, kind: &str, body: &str) -> Vec<u8> {
    let reason = if status == 502 { "Bad Gateway" } else { "Service Unavailable" };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nRetry-After: {retry_after}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The whole reply with a page that refreshes itself.
pub(crate) fn waiting_reply(target: &Target, state: &str) -> Vec<u8> {
    reply(503, 1, "text/html; charset=utf-8", &waiting_page(target, state))
}

/// What is said before a connection that cannot be served is closed; `None` if nothing can be said, so that it is reset.
pub(crate) fn failure_reply(opening: ClientProtocol, target: &Target, refusal: &Refusal) -> Option<Vec<u8>> {
    let (status, retry) = (status(refusal), retry_after(refusal));
    match opening {
        ClientProtocol::Navigation => {
            Some(reply(status, retry, "text/html; charset=utf-8", &failure_page(target, refusal)))
        }
        ClientProtocol::Request => {
            let body = error_json(refusal.code(), &refusal.to_string(), None);
            Some(reply(status, retry, "application/json", &body))
        }
        ClientProtocol::Http2 => Some(goaway(refusal)),
        ClientProtocol::Incomplete | ClientProtocol::Other => None,
    }
}

/// The beginning and the end of an HTTP/2 connection. No stream was processed, so all may be tried again.
fn goaway(refusal: &Refusal) -> Vec<u8> {
    let code = if matches!(refusal, Refusal::TimedOut(_) | Refusal::TooManyConnections) {
        REFUSED_STREAM
    } else {
        INTERNAL_ERROR
    };
    let mut out = SETTINGS.to_vec();
    out.extend([0, 0, 8, GOAWAY, 0, 0, 0, 0, 0]);
    out.extend([0, 0, 0, 0, 0, 0, 0, code]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::Protocol;

    fn target() -> Target {
        Target { instance: "inst-1".into(), name: "<web>".into(), guest_port: 80, protocol: Protocol::Http }
    }

    #[test]
    fn a_browser_is_told_from_a_program() {
        let browser = b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html,*/*\r\n\r\n";
        assert_eq!(classify(browser), ClientProtocol::Navigation);
        assert_eq!(classify(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"), ClientProtocol::Request);
        assert_eq!(classify(b"POST / HTTP/1.1\r\nAccept: text/html\r\n\r\n"), ClientProtocol::Request);
        let socket = b"GET / HTTP/1.1\r\nAccept: text/html\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(classify(socket), ClientProtocol::Request);
        assert_eq!(classify(PREFACE), ClientProtocol::Http2);
        assert_eq!(classify(b"SSH-2.0-x\r\n"), ClientProtocol::Other);
        assert_eq!(classify(b""), ClientProtocol::Incomplete);
    }

    #[test]
    fn what_a_page_names_is_escaped() {
        let text = String::from_utf8(waiting_reply(&target(), "paused")).unwrap();
        assert!(text.contains("&lt;web&gt; is waking up") && !text.contains("<web>"), "{text}");
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("Cache-Control: no-store"));
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(text.contains(&format!("Content-Length: {}\r\n", body.len())));
    }

    #[test]
    fn each_protocol_has_an_honest_failure() {
        let refusal = Refusal::PortRefused(80);
        let said = |opening| failure_reply(opening, &target(), &refusal);
        let json = String::from_utf8(said(ClientProtocol::Request).unwrap()).unwrap();
        assert!(json.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{json}");
        assert!(json.ends_with("{\"error\":{\"code\":\"port_refused\",\"message\":\"nothing listens on port 80 in the instance\"}}\n"));
        assert_eq!(said(ClientProtocol::Other), None);
        let frames = said(ClientProtocol::Http2).unwrap();
        assert_eq!((frames.len(), frames[3], frames[12]), (9 + 17, 4, GOAWAY));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_more_of_them_change_nothing(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200,
        ) {
            let first = classify(&bytes[..at.min(bytes.len())]);
            prop_assert!(first == ClientProtocol::Incomplete || first == classify(&bytes));
        }

        #[test]
        fn it_does_not_matter_how_a_request_arrives(
            method in "(GET|POST|PRI)", accept in "(text/html|\\*/\\*)", upgrade in any::<bool>(), at in 0usize..200,
        ) {
            let upgrade = if upgrade { "Upgrade: websocket\r\n" } else { "" };
            let text = format!("{method} /x HTTP/1.1\r\nAccept: {accept}\r\n{upgrade}\r\n");
            let whole = classify(text.as_bytes());
            prop_assert!(whole != ClientProtocol::Incomplete);
            let part = classify(&text.as_bytes()[..at.min(text.len())]);
            prop_assert!(part == ClientProtocol::Incomplete || part == whole);
        }

        #[test]
        fn names_and_messages_never_break_the_json(message in ".{0,40}", names in proptest::collection::vec(".{0,20}", 0..4)) {
            let text = error_json("x", &message, Some(&names));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(value["error"]["names"].as_array().unwrap().len(), names.len());
        }
    }
}
