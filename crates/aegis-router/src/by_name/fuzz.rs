//! What the fuzzer drives of the name router; see [`crate::fuzz`].

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::{host, request};

/// What `Connection` and these are about is never passed on.
const OF_THE_CONNECTION: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "proxy-authorization", "upgrade"];

/// What is said of a host.
pub(crate) fn host(text: &str, local: IpAddr) {
    let names: Vec<host::Host> =
        ["sandbox.example", "10.9.9.9"].into_iter().filter_map(host::parse).collect();
    drop(host::of_origin(text));
    let Some(parsed) = host::parse(text) else { return };
    let served = parsed.wanted(local, &names).is_some();
    let own = match &parsed {
        host::Host::Name(name) => {
            assert_eq!(host::parse(name).as_ref(), Some(&parsed));
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
            let ends = |domain: &str| name == domain || name.ends_with(&format!(".{domain}"));
            ends("localhost") || ends("sandbox.example")
        }
        host::Host::Address(address) => {
            let address = address.to_canonical();
            address.is_loopback() || address.to_string() == "10.9.9.9"
        }
    };
    assert!(!served || own, "{text:?} is served");
}

/// What is passed on of a head.
pub(crate) fn head(bytes: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut fields);
    if !parsed.parse(bytes).is_ok_and(|status| status.is_complete()) {
        return;
    }
    let mut headers = HeaderMap::new();
    for field in parsed.headers.iter() {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value))
        {
            headers.append(name, value);
        }
    }
    let (host, length) = (headers.get(header::HOST).cloned(), headers.get(header::CONTENT_LENGTH).cloned());
    request::strip(&mut headers, false);
    request::forwarded(&mut headers, IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), Some("web.localhost"));
    for name in OF_THE_CONNECTION {
        assert!(!headers.contains_key(name), "{name} is passed on");
    }
    assert_eq!(
        (headers.get(header::HOST), headers.get(header::CONTENT_LENGTH)),
        (host.as_ref(), length.as_ref())
    );
    assert!(headers.get(header::TE).is_none_or(|te| te == "trailers"));
    assert!(headers.get("x-forwarded-host").is_some_and(|host| host == "web.localhost"));
    let who = headers.get_all("x-forwarded-for").iter().next_back().and_then(|value| value.to_str().ok());
    assert!(who.is_some_and(|who| who.ends_with("127.0.0.1")));
    // To some servers these are the same.
    for twin in
        ["x_forwarded-for", "x-forwarded_for", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto"]
    {
        assert!(!headers.contains_key(twin), "{twin} is passed on");
    }
}
