//! What a request asks for, and what of it is passed on. Pure.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Version};

/// What the router says of a request's way.
const FORWARDED: [&str; 3] = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
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

/// Whether `Connection` may name a field for removal: not what says whom a message is for, how long it is and where it
/// has been, whoever asks for that.
fn is_removable(name: &HeaderName) -> bool {
    *name != header::HOST && *name != header::CONTENT_LENGTH && !FORWARDED.contains(&name.as_str())
}

/// Removes what belongs to one connection. An upgrade keeps the fields that ask for it.
pub(super) fn strip(headers: &mut HeaderMap, keep_upgrade: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(is_removable)
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

/// Says for whom this was passed on. After [`strip`], which removes whatever the client likes.
pub(super) fn forwarded(headers: &mut HeaderMap, client: IpAddr, host: Option<&str>) {
    // To servers that turn fields into variables both are one.
    let twin = |name: &HeaderName| FORWARDED.contains(&name.as_str().replace('_', "-").as_str());
    let twins: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().contains('_') && twin(name)).cloned().collect();
    for name in twins {
        headers.remove(name);
    }
    let [for_name, host_name, proto_name] = FORWARDED;
    let before = headers.get_all(for_name).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<String> = before.map(str::to_owned).chain([client.to_string()]).collect();
    for (name, value) in [
        (for_name, Some(all.join(", "))),
        (host_name, host.map(str::to_owned)),
        (proto_name, Some("http".to_owned())),
    ] {
        headers.remove(name);
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_client_cannot_remove_or_double_what_is_said_of_it() {
        let mut headers = HeaderMap::new();
        let connection = "X-Forwarded-For, x-forwarded-host, Host, Content-Length, x-own, close";
        for (name, value) in [
            ("connection", connection),
            ("host", "web.localhost"),
            ("content-length", "3"),
            ("x-own", "1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x_forwarded_for", "10.0.0.3"),
            ("x-forwarded_host", "evil.example"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "https"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        strip(&mut headers, false);
        forwarded(&mut headers, IpAddr::from([127, 0, 0, 1]), Some("web.localhost"));
        let mut left: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        let expected = [
            ("content-length", "3"),
            ("host", "web.localhost"),
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2, 127.0.0.1"),
            ("x-forwarded-host", "web.localhost"),
            ("x-forwarded-proto", "http"),
        ];
        assert_eq!(left, expected);
    }
}
