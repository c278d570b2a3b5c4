//! HTTP CONNECT requests of the guest to the offered proxy (RFC 9110, 9.3.6).

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use aegis_policy::Name;
use simple_dns::{RCODE, TYPE};

use crate::resolver::message;

/// Longest head of a request.
pub(crate) const MOST_HEAD: usize = 16 << 10;
/// Most headers of it.
const MOST_HEADERS: usize = 64;
/// What is said as soon as the tunnel is there.
pub(crate) const GRANTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Why there is no tunnel, and what is said then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    status: &'static str,
    because: String,
}

impl Denial {
    fn new(status: &'static str, because: impl Into<String>) -> Denial {
        Denial { status, because: because.into() }
    }

    /// The policy does not allow it.
    pub(crate) fn forbidden(because: impl Into<String>) -> Denial {
        Denial::new("403 Forbidden", because)
    }

    /// The host could not connect.
    fn unreachable(error: &io::Error) -> Denial {
        match error.kind() {
            ErrorKind::TimedOut => Denial::new("504 Gateway Timeout", "nobody answers there"),
            _ => Denial::new("502 Bad Gateway", error.to_string()),
        }
    }

    /// The whole answer.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let Denial { status, because } = self;
        let head = "Content-Type: text/plain\r\nConnection: close\r\nContent-Length";
        let body = format!("aegis: {because}\n");
        format!("HTTP/1.1 {status}\r\n{head}: {}\r\n\r\n{body}", body.len()).into_bytes()
    }
}

/// Where a tunnel is to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Name(Name, u16),
    Address(SocketAddr),
}

/// Reads the head of a request, and tells its length; `None` as long as it is not whole.
fn read(received: &[u8]) -> Result<Option<(Target, usize)>, Denial> {
    let malformed = |what: &str| Denial::new("400 Bad Request", what);
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if received.len() < MOST_HEAD => return Ok(None),
        _ => return Err(malformed("this is no request of HTTP/1")),
    };
    if request.method != Some("CONNECT") {
        return Err(Denial::new("405 Method Not Allowed", "CONNECT only; plain HTTP needs no proxy here"));
    }
    let authority = request.path.unwrap_or_default();
    let target = target(authority).ok_or_else(|| malformed("CONNECT wants HOST:PORT"))?;
    Ok(Some((target, length)))
}

fn target(authority: &str) -> Option<Target> {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return (address.port() > 0).then_some(Target::Address(address));
    }
    let (name, port) = authority.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Name::new(name).ok().map(|name| Target::Name(name, port))
}

/// Which of a name's addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// How far a request has come.
#[derive(Debug)]
enum Stage {
    /// Its head is not whole yet.
    Unread,
    /// These addresses of its name are asked for.
    QueryDecision(Family),
    /// These have not been tried yet, the next one last; then there are perhaps others to ask for.
    Known(Vec<IpAddr>, Option<Family>),
    /// It has its answer.
    Answered,
}

/// What is to be done for a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing; it waits for the guest, or for an answer.
    Wait,
    /// To have this question for a name answered.
    Ask(Vec<u8>),
    /// To connect, to this name's address if it was a name.
    Connect(SocketAddr, Option<Name>),
    /// To say that nothing comes of it.
    Deny(Denial),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ConnectRequest {
    stage: Stage,
    name: Option<Name>,
    port: u16,
    /// What is said if no address is left.
    last: Denial,
}

impl ConnectRequest {
    /// One of which nothing was read yet.
    pub(crate) fn new() -> ConnectRequest {
        let last = Denial::new("502 Bad Gateway", "there is no such name");
        ConnectRequest { stage: Stage::Unread, name: None, port: 0, last }
    }

    /// Whether its head is still to be read.
    pub(crate) fn is_unread(&self) -> bool {
        matches!(self.stage, Stage::Unread)
    }

    /// Whether it has its answer.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.stage, Stage::Answered)
    }

    /// Reads its head from what the guest has sent. Returns how much of that it is; 0 as long as it is not whole.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn read(&mut self, received: &[u8]) -> Result<usize, Denial> {
        let Some((target, length)) = read(received)? else { return Ok(0) };
        match target {
            Target::Address(address) => {
                self.port = address.port();
                self.stage = Stage::Known(vec![address.ip()], None);
            }
            Target::Name(name, port) => {
                self.port = port;
                self.name = Some(name);
                self.stage = Stage::Known(Vec::new(), Some(Family::V4));
            }
        }
        Ok(length)
    }

    /// The answer to what was asked.
    pub(crate) fn found(&mut self, answer: &[u8]) {
        let Stage::QueryDecision(family) = self.stage else { return };
        let (code, mut addresses) = message::addresses(answer);
        match code {
            RCODE::Refused => {
                self.last = Denial::forbidden("the network of this instance does not allow this name");
            }
            RCODE::ServerFailure => {
                self.last = Denial::new("502 Bad Gateway", "no name server answers");
            }
            _ => {}
        }
        addresses.reverse();
        self.stage = Stage::Known(addresses, (family == Family::V4).then_some(Family::V6));
    }

    /// The address that it was given last was of no use.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        self.last = Denial::unreachable(error);
    }

    /// It is not to go on.
    pub(crate) fn end(&mut self) {
        self.stage = Stage::Answered;
    }

    /// What to do next.
    pub(crate) fn step(&mut self) -> Step {
        let Stage::Known(untried, others) = &mut self.stage else { return Step::Wait };
        if let Some(address) = untried.pop() {
            return Step::Connect(SocketAddr::new(address, self.port), self.name.clone());
        }
        let Some(family) = *others else { return Step::Deny(self.last.clone()) };
        self.stage = Stage::QueryDecision(family);
        let kind = if family == Family::V4 { TYPE::A } else { TYPE::AAAA };
        let question = self.name.as_ref().and_then(|name| message::question(name, kind));
        question.map_or_else(|| Step::Deny(self.last.clone()), Step::Ask)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::resolver::message::Query;

    fn asked(head: &str) -> ConnectRequest {
        let mut request = ConnectRequest::new();
        assert_eq!(request.read(head.as_bytes()), Ok(head.len()), "{head}");
        request
    }

    #[test]
    fn an_address_is_tried_at_once_and_nothing_else_is() {
        for authority in ["203.0.113.1:443", "[2001:db8::1]:443"] {
            let mut request = asked(&format!("CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n"));
            assert_eq!(request.step(), Step::Connect(authority.parse().unwrap(), None));
            request.failed(&ErrorKind::TimedOut.into());
            let Step::Deny(denial) = request.step() else { panic!("it goes on") };
            assert!(denial.answer().starts_with(b"HTTP/1.1 504 "));
        }
    }

    #[test]
    fn all_addresses_of_a_name_are_tried_in_their_order_and_those_of_ipv6_last() {
        let mut request = asked("CONNECT a.example:8443 HTTP/1.1\r\n\r\n");
        let mut tried = Vec::new();
        for addresses in [vec!["192.0.2.1", "192.0.2.2"], vec!["2001:db8::1"]] {
            let Step::Ask(question) = request.step() else { panic!("it does not ask") };
            let query = Query::read(&question).unwrap();
            assert_eq!(request.step(), Step::Wait);
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            request.found(&query.addresses(&addresses, Duration::from_secs(1)));
            for _ in addresses {
                let Step::Connect(address, name) = request.step() else { panic!("it does not connect") };
                assert_eq!((address.port(), name), (8443, Name::new("a.example").ok()));
                tried.push(address.ip().to_string());
                request.failed(&ErrorKind::ConnectionRefused.into());
            }
        }
        assert_eq!(tried, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        assert!(matches!(request.step(), Step::Deny(Denial { status: "502 Bad Gateway", .. })));
    }

    #[test]
    fn a_name_that_is_refused_is_forbidden() {
        let mut request = asked("CONNECT a.example:443 HTTP/1.1\r\n\r\n");
        while let Step::Ask(question) = request.step() {
            request.found(&Query::read(&question).unwrap().failed(RCODE::Refused));
        }
        assert!(request.last.answer().starts_with(b"HTTP/1.1 403 "));
    }

    #[test]
    fn what_is_no_wish_for_a_tunnel_is_told_so() {
        for (head, status) in [
            ("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "405"),
            ("CONNECT a.example HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT a.example:0 HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT 203.0.113.1 HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT a..b:443 HTTP/1.1\r\n\r\n", "400"),
            ("\x16\x03\x01\x02", "400"),
        ] {
            let denial = ConnectRequest::new().read(head.as_bytes()).unwrap_err();
            assert!(denial.status.starts_with(status), "{head}: {denial:?}");
        }
        assert!(ConnectRequest::new().read(&[b'A'; MOST_HEAD]).is_err());
        assert_eq!(ConnectRequest::new().read(b"CONNECT a.example:443 HT"), Ok(0));
    }

    proptest! {
        #[test]
        fn arbitrary_heads_and_answers_never_panic_and_lead_to_an_end(
            head in prop::collection::vec(any::<u8>(), 0..200),
            authority in "[a-z0-9.:\\[\\]-]{0,30}",
            answer in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let _refused = ConnectRequest::new().read(&head);
            let mut request = ConnectRequest::new();
            let whole = format!("CONNECT {authority} HTTP/1.1\r\n\r\n");
            if request.read(whole.as_bytes()).is_ok() {
                let mut steps = 0;
                while !matches!(request.step(), Step::Deny(_)) {
                    request.found(&answer);
                    steps += 1;
                    prop_assert!(steps < 100);
                }
            }
        }
    }
}
