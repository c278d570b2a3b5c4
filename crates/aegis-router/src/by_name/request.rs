//! What a request asks for, and what of it is passed on. Pure.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Version};

use crate::backend::Wanted;

/// Names an instance, whatever the host is.
const INSTANCE: &str = "x-aegis-instance";
/// What every name ends with.
const DOMAIN: &str = ".localhost";
/// Longest name that is looked up.
const LONGEST_NAME: usize = 64;

/// Fields that belong to one connection, and are never passed on (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// The same; they have no constants.
const MORE_HOP_BY_HOP: [&str; 2] = ["keep-alive", "proxy-connection"];

/// The host that a request names, as it was written.
pub(super) fn host<B>(request: &Request<B>) -> Option<String> {
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let field = || request.headers().get(header::HOST)?.to_str().ok().map(str::to_owned);
    authority.or_else(field)
}

/// What instance a request is for.
pub(super) fn wanted<B>(request: &Request<B>) -> Wanted {
    if let Some(name) = request.headers().get(INSTANCE).and_then(|name| name.to_str().ok()) {
        return Wanted::Handle(name.chars().take(LONGEST_NAME).collect());
    }
    host(request).map_or(Wanted::Only, |host| by_host(&host))
}

fn by_host(host: &str) -> Wanted {
    let name =
        host.rsplit_once(':').map_or(host, |(name, _port)| name).trim_end_matches('.').to_ascii_lowercase();
    let Some(label) =
        name.strip_suffix(DOMAIN).filter(|label| !label.is_empty() && label.len() <= LONGEST_NAME)
    else {
        return Wanted::Only;
    };
    // An application may give names of its own to parts of itself: the last label is the instance's.
    let label = label.rsplit('.').next().unwrap_or(label);
    match label.split_once("--") {
        Some((port, handle)) => match port.parse() {
            Ok(port) => Wanted::HandlePort(handle.to_owned(), port),
            Err(_) => Wanted::Handle(label.to_owned()),
        },
        None => Wanted::Handle(label.to_owned()),
    }
}

/// Whether a person looks at a page.
pub(super) fn is_navigation<B>(request: &Request<B>) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    request.method() == Method::GET
        && accept.is_some_and(|accept| accept.to_ascii_lowercase().contains("text/html"))
        && !request.headers().contains_key(header::UPGRADE)
}

/// Whether the client wants to speak another protocol on this connection.
pub(super) fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() < Version::HTTP_2 && request.headers().contains_key(header::UPGRADE)
}

/// Removes what belongs to one connection. An upgrade keeps the fields that ask for it.
pub(super) fn strip(headers: &mut HeaderMap, keep_upgrade: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let upgrade = headers.get(header::UPGRADE).cloned().filter(|_| keep_upgrade);
    // gRPC clients insist on this one, and it is the only value that may be passed on.
    let trailers = headers.get(header::TE).is_some_and(|te| te == "trailers");
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    for name in MORE_HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Says for whom this was passed on.
pub(super) fn forwarded(headers: &mut HeaderMap, client: IpAddr, host: Option<&str>) {
    let before = headers.get("x-forwarded-for").and_then(|before| before.to_str().ok());
    let all = before.map_or_else(|| client.to_string(), |before| format!("{before}, {client}"));
    for (name, value) in [
        ("x-forwarded-for", Some(all.as_str())),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", Some("http")),
    ] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(host: &str) -> Request<()> {
        Request::builder().uri("/").header("host", host).body(()).unwrap()
    }

    #[test]
    fn a_host_names_an_instance_and_perhaps_its_port() {
        let handle = |name: &str| Wanted::Handle(name.into());
        for (host, expected) in [
            ("web.localhost:8099", handle("web")),
            ("WEB.localhost", handle("web")),
            ("web.localhost.:8099", handle("web")),
            ("9000--web.localhost:8099", Wanted::HandlePort("web".into(), 9000)),
            ("x--web.localhost", handle("x--web")),
            ("api.web.localhost", handle("web")),
            ("localhost:8099", Wanted::Only),
            ("127.0.0.1:8099", Wanted::Only),
            ("[::1]:8099", Wanted::Only),
            (".localhost", Wanted::Only),
        ] {
            assert_eq!(wanted(&request(host)), expected, "{host}");
        }
        let mut named = request("web.localhost");
        named.headers_mut().insert("X-Aegis-Instance", "other".parse().unwrap());
        assert_eq!(wanted(&named), handle("other"));
    }

    #[test]
    fn what_belongs_to_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, x-own"),
            ("keep-alive", "3"),
            ("x-own", "1"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "1"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        let mut upgraded = headers.clone();
        strip(&mut headers, false);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-kept"]);
        strip(&mut upgraded, true);
        assert_eq!(
            (&upgraded["upgrade"], &upgraded["connection"]),
            (&"websocket".parse().unwrap(), &"upgrade".parse().unwrap())
        );
    }

    #[test]
    fn the_client_is_told_of_beside_those_before_it() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "10.0.0.1".parse().unwrap());
        forwarded(&mut headers, IpAddr::from([127, 0, 0, 1]), Some("web.localhost"));
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 127.0.0.1");
        assert_eq!(headers["x-forwarded-host"], "web.localhost");
    }

    proptest! {
        #[test]
        fn arbitrary_hosts_never_panic(host in "[ -~]{0,80}") {
            if let Ok(value) = HeaderValue::from_str(&host) {
                let mut request = request("x");
                request.headers_mut().insert(header::HOST, value);
                drop(wanted(&request));
            }
        }
    }
}
