//! Admission control of requests: decided by a request's head alone. Pure.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, Version};

use super::host::{self, Host, LONGEST_NAME};
use crate::backend::{InstanceIdentity, InstanceName};

/// Names an instance, where no host can.
const INSTANCE: &str = "x-aegis-instance";
/// Holds the token, where one is needed.
const TOKEN: &str = "x-aegis-token";
/// Shortest token: long enough that nobody finds it by trying.
const SHORTEST_TOKEN: usize = 16;

/// Whom the name router serves, besides whoever names this machine.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Admission {
    names: Vec<Host>,
    token: Option<String>,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        out.debug_struct("Admission").field("names", &self.names).field("token", &token).finish()
    }
}

impl Admission {
    /// Serves these host names, too, and what is below them; and only who sends the token, if there is one.
    ///
    /// # Errors
    /// A sentence about the first that cannot be.
    pub fn new(names: &[String], token: Option<String>) -> Result<Admission, String> {
        let parsed = |name: &String| {
            let host = host::parse(name).filter(|_| !name.contains(':') || name.ends_with(']'));
            host.ok_or_else(|| format!("{name:?} is no host name"))
        };
        let names = names.iter().map(parsed).collect::<Result<_, _>>()?;
        let fit = |token: &String| {
            token.len() >= SHORTEST_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if token.as_ref().is_some_and(|token| !fit(token)) {
            return Err(format!("a token has at least {SHORTEST_TOKEN} characters of ASCII, and no spaces"));
        }
        Ok(Admission { names, token })
    }
}

/// Where a connection is from, and where it arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) client: IpAddr,
    pub(super) local: SocketAddr,
}

/// What a request that is let in asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) wanted: InstanceName,
    /// The host as it was written; the authority of the target before the field.
    pub(super) host: Option<String>,
    /// Whether it may be told the names there are.
    pub(super) tell_names: bool,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// It makes no sense.
    Malformed(&'static str),
    /// Its host is none of ours.
    Misdirected,
    /// It has no token, or another one.
    NoToken,
    /// A page of somebody else opens a socket.
    ForeignPage,
    /// It wants a tunnel.
    Tunnel,
}

/// Decides on a request.
///
/// `instance_of_port` tells whose public port a number is.
pub(super) fn admit<B>(
    admission: &Admission,
    peer: Peer,
    request: &Request<B>,
    instance_of_port: impl Fn(u16) -> Option<InstanceIdentity>,
) -> Result<Admitted, Denied> {
    if request.method() == Method::CONNECT {
        return Err(Denied::Tunnel);
    }
    let headers = request.headers();
    let (host, written) = host_of(request)?;
    let explicit =
        single(headers, INSTANCE).map_err(|()| Denied::Malformed("X-Aegis-Instance makes no sense"))?;
    let with_token = admission.token.as_ref().map(|token| has_token(headers, token));
    let by_host = match &host {
        None => Some(InstanceName::Only),
        Some(host) => host.wanted(peer.local.ip(), &admission.names),
    };
    // A page whose host leads here can set any field, so a name alone is not enough of one that may be a page.
    if by_host.is_none() && (explicit.is_none() || (is_browser(headers) && with_token != Some(true))) {
        return Err(Denied::Misdirected);
    }
    if with_token == Some(false) {
        return Err(Denied::NoToken);
    }
    let short = |name: &str| name.chars().take(LONGEST_NAME).collect();
    let wanted =
        explicit.map(|name| InstanceName::Handle(short(name))).or(by_host).ok_or(Denied::Misdirected)?;
    let own_page = || {
        is_own_page(admission, peer, headers, host.as_ref())
            && is_of_its_own_port(headers, &wanted, instance_of_port)
    };
    if headers.contains_key(header::UPGRADE) && !own_page() {
        return Err(Denied::ForeignPage);
    }
    let local = host.is_none_or(|host| host.is_local()) && peer.client.to_canonical().is_loopback();
    Ok(Admitted { wanted, host: written, tell_names: local && !is_cross_site(headers) })
}

/// The only value of a field, if there is one.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

/// The host of a request, and as it was written. Of a target with a host of its own that one counts (RFC 9112, section
/// 3.2.2), but the field has to make sense all the same, and in HTTP/2 to say the same (RFC 9113, section 8.3.1).
fn host_of<B>(request: &Request<B>) -> Result<(Option<Host>, Option<String>), Denied> {
    let field = single(request.headers(), header::HOST.as_str());
    let field = field.map_err(|()| Denied::Malformed("a request has one Host, of ASCII"))?;
    if field.is_none() && request.version() == Version::HTTP_11 {
        return Err(Denied::Malformed("a request of HTTP/1.1 has a Host"));
    }
    let parsed =
        |text: &str| host::parse(text).ok_or(Denied::Malformed("the host is no name and no address"));
    // An empty one says that there is none.
    let field = field.filter(|field| !field.is_empty());
    let of_field = field.map(parsed).transpose()?;
    let Some(authority) = request.uri().authority() else {
        return Ok((of_field, field.map(str::to_owned)));
    };
    let of_target = parsed(authority.as_str())?;
    if request.version() == Version::HTTP_2 && of_field.is_some_and(|of_field| of_field != of_target) {
        return Err(Denied::Malformed("Host and :authority differ"));
    }
    Ok((Some(of_target), Some(authority.as_str().to_owned())))
}

/// Whether it may be a browser's: of what those send, scripts can leave out some, but not `Accept-Language`.
fn is_browser(headers: &HeaderMap) -> bool {
    let sends = |name: &str| headers.contains_key(name);
    let agent =
        headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    agent
        || [
            "accept-language",
            "cookie",
            "origin",
            "referer",
            "sec-fetch-dest",
            "sec-fetch-mode",
            "sec-fetch-site",
        ]
        .into_iter()
        .any(sends)
}

/// Whether a browser says that a page of another site asks.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    headers.contains_key(header::ORIGIN) || site.is_some_and(|site| !matches!(site, b"same-origin" | b"none"))
}

/// Whether a page may open a socket: one that came from the same host, from another name of the same instance, or from this
/// machine itself. Browsers ask no server for leave before they let a page read one. Programs send no origin.
fn is_own_page(admission: &Admission, peer: Peer, headers: &HeaderMap, host: Option<&Host>) -> bool {
    let means = |host: &Host| host.wanted(peer.local.ip(), &admission.names);
    let own = |origin: &str| {
        let Some(page) = host::of_origin(origin) else { return false };
        host == Some(&page)
            || match means(&page) {
                // This router serves whichever instance is the only one under that name, perhaps another one than now.
                Some(InstanceName::Only) => host::port_of_origin(origin) != Some(peer.local.port()),
                // What is shown by another instance is somebody else's.
                Some(InstanceName::Handle(one) | InstanceName::HandlePort(one, _)) => match host
                    .and_then(means)
                {
                    Some(InstanceName::Handle(other) | InstanceName::HandlePort(other, _)) => one == other,
                    Some(InstanceName::Only) | None => false,
                },
                None => false,
            }
    };
    headers.get_all(header::ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(own))
}

/// Whether no page is another instance's by the port that it came from: what is served on a public port is that instance's,
/// though its host is this machine.
fn is_of_its_own_port(
    headers: &HeaderMap,
    wanted: &InstanceName,
    instance_of_port: impl Fn(u16) -> Option<InstanceIdentity>,
) -> bool {
    let is_meant = |owner: InstanceIdentity| match wanted {
        InstanceName::Handle(name) | InstanceName::HandlePort(name, _) => {
            **name == *owner.name || **name == *owner.instance
        }
        // There is but one that is served so.
        InstanceName::Only => true,
    };
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let port = origin.to_str().ok().and_then(host::port_of_origin);
        port.and_then(&instance_of_port).is_none_or(is_meant)
    })
}

/// Whether the token is there: in its field, or as the password that a browser asks for.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let sent = |value: &[u8]| same(value, token.as_bytes());
    let field = headers.get(TOKEN).is_some_and(|value| sent(value.as_bytes()));
    field || password(headers).is_some_and(|password| sent(&password))
}

/// The password of basic authentication (RFC 7617).
fn password(headers: &HeaderMap) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = base64::engine::general_purpose::STANDARD.decode(credentials.trim()).ok()?;
    let colon = plain.iter().position(|byte| *byte == b':')?;
    plain.get(colon + 1..).map(<[u8]>::to_vec)
}

/// Compares in a time that tells nothing but the length.
fn same(one: &[u8], two: &[u8]) -> bool {
    one.len() == two.len()
        && one.iter().zip(two).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b))) == 0
}

/// Takes out what was said to the router and not to the server: all of `X-Aegis-…`, and the token where it is a password.
pub(super) fn take_out(admission: &Admission, headers: &mut HeaderMap) {
    let ours: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("x-aegis-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    if let Some(token) = &admission.token
        && password(headers).is_some_and(|password| same(&password, token.as_bytes()))
    {
        headers.remove(header::AUTHORIZATION);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN_TEXT: &str = "0123456789abcdef";
    const HERE: Peer = Peer {
        client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        local: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8099),
    };

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let builder = fields
            .iter()
            .fold(Request::builder().uri("/"), |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).unwrap()
    }

    /// The public port of another instance, and one of its own.
    fn owner(port: u16) -> Option<InstanceIdentity> {
        let of = |name: &str| InstanceIdentity { instance: format!("inst-{name}").into(), name: name.into() };
        match port {
            49152 => Some(of("other")),
            49153 => Some(of("web")),
            _ => None,
        }
    }

    fn admitted(fields: &[(&str, &str)]) -> Result<InstanceName, Denied> {
        admit(&Admission::default(), HERE, &request(fields), owner).map(|admitted| admitted.wanted)
    }

    #[test]
    fn a_host_of_somebody_else_opens_nothing() {
        assert_eq!(admitted(&[("host", "web.localhost")]), Ok(InstanceName::Handle("web".into())));
        assert_eq!(admitted(&[("host", "")]), Ok(InstanceName::Only));
        assert_eq!(admitted(&[("host", "evil.example:8099")]), Err(Denied::Misdirected));
        let named = [("host", "gateway.example"), ("x-aegis-instance", "web")];
        assert_eq!(admitted(&named), Ok(InstanceName::Handle("web".into())));
        for mark in [
            ("origin", "http://evil.example"),
            ("accept-language", ""),
            ("referer", "http://evil.example/"),
            ("sec-fetch-mode", "cors"),
            ("user-agent", "Mozilla/5.0 (X11)"),
            ("cookie", "a=b"),
        ] {
            assert_eq!(admitted(&[named[0], named[1], mark]), Err(Denied::Misdirected), "{mark:?}");
        }
        let browser = [("host", "localhost:8099"), ("x-aegis-instance", "web"), ("accept-language", "en")];
        assert_eq!(admitted(&browser), Ok(InstanceName::Handle("web".into())));
    }

    #[test]
    fn a_request_says_once_what_it_is_for() {
        let malformed = |fields: &[(&str, &str)]| matches!(admitted(fields), Err(Denied::Malformed(_)));
        assert!(malformed(&[]), "HTTP/1.1 has a host");
        assert!(malformed(&[("host", "web.localhost"), ("host", "web.localhost")]));
        assert!(malformed(&[("host", "a,b")]) && malformed(&[("host", "u@localhost")]));
        assert!(malformed(&[("host", "localhost"), ("x-aegis-instance", "a"), ("x-aegis-instance", "b")]));
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(admit(&Admission::default(), HERE, &old, owner).unwrap().wanted, InstanceName::Only);
        let mut absolute = request(&[("host", "evil.example")]);
        *absolute.uri_mut() = "http://web.localhost:8099/x".parse().unwrap();
        let passed = admit(&Admission::default(), HERE, &absolute, owner).unwrap();
        assert_eq!(
            (passed.wanted, passed.host),
            (InstanceName::Handle("web".into()), Some("web.localhost:8099".into()))
        );
        *absolute.uri_mut() = "http://evil.example/x".parse().unwrap();
        absolute.headers_mut().insert("host", "web.localhost".parse().unwrap());
        assert_eq!(admit(&Admission::default(), HERE, &absolute, owner), Err(Denied::Misdirected));
        *absolute.version_mut() = Version::HTTP_2;
        assert!(matches!(admit(&Admission::default(), HERE, &absolute, owner), Err(Denied::Malformed(_))));
        *absolute.uri_mut() = "http://u:p@web.localhost/x".parse().unwrap();
        assert!(matches!(admit(&Admission::default(), HERE, &absolute, owner), Err(Denied::Malformed(_))));
    }

    #[test]
    fn a_page_opens_sockets_to_its_own_kind_only() {
        let socket = |origin: &str| {
            admitted(&[("host", "web.localhost:8099"), ("upgrade", "websocket"), ("origin", origin)])
                .map(|_| ())
        };
        for own in [
            "http://web.localhost:8099",
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://8080--web.localhost",
            "http://ui.web.localhost",
            "http://127.0.0.1:49153",
        ] {
            assert_eq!(socket(own), Ok(()), "{own}");
        }
        for foreign in [
            "https://evil.example",
            "null",
            "file://",
            "http://localhost.evil.example",
            "",
            "http://other.localhost:8099",
            "http://80--other.localhost",
            "http://web.other.localhost",
            // What was the only instance once, on this router.
            "http://localhost:8099",
            "http://127.0.0.1:8099",
            "https://[::1]:8099",
            "http://127.5.5.5:8099",
            // What another instance serves on its public port.
            "http://127.0.0.1:49152",
            "http://localhost:49152",
            "https://[::1]:49152",
        ] {
            assert_eq!(socket(foreign), Err(Denied::ForeignPage), "{foreign}");
        }
        assert!(admitted(&[("host", "web.localhost"), ("upgrade", "websocket")]).is_ok(), "a program");
        let only =
            [("host", "localhost:8099"), ("upgrade", "websocket"), ("origin", "http://localhost:8099")];
        assert!(admitted(&only).is_ok(), "a page of the only instance");
    }

    #[test]
    fn a_token_is_needed_where_there_is_one_and_never_passed_on() {
        let admission = Admission::new(&[], Some(TOKEN_TEXT.into())).unwrap();
        let wanted = |fields: &[(&str, &str)]| {
            admit(&admission, HERE, &request(fields), owner).map(|admitted| admitted.wanted)
        };
        let host = ("host", "web.localhost");
        assert_eq!(wanted(&[host]), Err(Denied::NoToken));
        for wrong in ["", "0123456789abcdeF", "0123456789abcdef0"] {
            assert_eq!(wanted(&[host, ("x-aegis-token", wrong)]), Err(Denied::NoToken));
        }
        assert!(wanted(&[host, ("x-aegis-token", TOKEN_TEXT)]).is_ok());
        // "me:0123456789abcdef"
        let basic = ("authorization", "Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg==");
        assert!(wanted(&[host, basic]).is_ok());
        assert_eq!(wanted(&[("host", "evil.example"), basic]), Err(Denied::Misdirected));
        let mut passed = request(&[host, basic, ("x-aegis-token", TOKEN_TEXT), ("x-aegis-instance", "web")]);
        take_out(&admission, passed.headers_mut());
        assert_eq!(passed.headers().keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["host"]);
        let mut others = request(&[("authorization", "Bearer 0123456789abcdef")]);
        take_out(&admission, others.headers_mut());
        assert_eq!(others.headers().len(), 1);
        assert!(!format!("{admission:?}").contains(TOKEN_TEXT));
    }

    #[test]
    fn names_are_told_to_programs_of_this_machine() {
        let told = |peer: Peer, fields: &[(&str, &str)]| {
            admit(&Admission::default(), peer, &request(fields), owner).unwrap().tell_names
        };
        let host = ("host", "nix.localhost");
        assert!(told(HERE, &[host]) && told(HERE, &[host, ("sec-fetch-site", "none")]));
        assert!(!told(HERE, &[host, ("sec-fetch-site", "cross-site")]));
        assert!(!told(HERE, &[host, ("origin", "https://evil.example")]));
        assert!(!told(Peer { client: "10.0.0.1".parse().unwrap(), ..HERE }, &[host]));
    }

    #[test]
    fn what_cannot_be_a_name_or_a_token_is_said_at_once() {
        for name in ["", "a b", "http://a", "a:80", "*.example", "a/b"] {
            assert!(Admission::new(&[name.to_owned()], None).is_err(), "{name}");
        }
        for token in ["", "short", "with spaces in between", "with-ümlaut-in-it-somewhere"] {
            assert!(Admission::new(&[], Some(token.to_owned())).is_err(), "{token}");
        }
    }
}
