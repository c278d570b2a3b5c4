//! The host's own proxy, where that is its only way out: each connection is a tunnel through it (RFC 9110, 9.3.6).

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use aegis_policy::{NamePattern, Pattern, Reason};
use serde::{Deserialize, Serialize};

use crate::policy_engine::FlowDecision;

/// Longest head of an answer.
const MOST_HEAD: usize = 16 << 10;

/// A proxy, and what is reached without it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    /// Its addresses; the first is used.
    pub servers: Vec<SocketAddr>,
    /// What it is told in `Proxy-Authorization`.
    pub authorization: Option<String>,
    /// What is reached directly, as in `NO_PROXY`: names with all below them, addresses, ranges, or `*`.
    pub direct: Vec<String>,
}

impl Proxy {
    /// Whether a connection goes around it.
    pub(crate) fn is_bypassed_by(&self, decision: &FlowDecision) -> bool {
        self.direct.iter().any(|entry| bypasses(entry.trim(), decision))
    }
}

fn bypasses(entry: &str, decision: &FlowDecision) -> bool {
    if entry == "*" {
        return true;
    }
    let bare = entry.trim_start_matches("*.").trim_start_matches('.');
    match bare.parse::<Pattern>() {
        Ok(Pattern { name: Some(NamePattern::Exact(name)), net: None, ports, .. }) => {
            let port_fits = ports.is_none_or(|(first, last)| (first..=last).contains(&decision.port));
            let below = NamePattern::Below(name.clone());
            port_fits && decision.name().is_some_and(|given| *given == name || below.matches(given))
        }
        Ok(Pattern { name: None, net: Some(net), ports, .. }) => {
            let port_fits = ports.is_none_or(|(first, last)| (first..=last).contains(&decision.port));
            port_fits && net.contains(decision.address, decision.zone)
        }
        _ => false,
    }
}

/// A tunnel that is being opened.
#[derive(Debug)]
pub(crate) struct Tunnel {
    unsent: Vec<u8>,
    received: Vec<u8>,
}

impl Tunnel {
    /// One to what a flow wants: to the address that was judged. The proxy would look a name up once more, and whoever
    /// answers for it could lead it elsewhere meanwhile. By its name only where a rule opens that name, or where the address
    /// is `synthetic`: made up for a name that this host cannot look up.
    pub(crate) fn to(decision: &FlowDecision, proxy: &Proxy, synthetic: bool) -> Tunnel {
        let port = decision.port;
        let is_opened =
            matches!(&decision.verdict.because, Reason::Rule(rule) if rule.pattern.name.is_some());
        let authority = match decision.name().filter(|_| synthetic || is_opened) {
            Some(name) => format!("{}:{port}", name.as_str()),
            None => SocketAddr::new(decision.address, port).to_string(),
        };
        let authorization = match &proxy.authorization {
            Some(text) => format!("Proxy-Authorization: {text}\r\n"),
            None => String::new(),
        };
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n");
        Tunnel { unsent: head.into_bytes(), received: Vec::new() }
    }

    /// Goes on. Returns what came from the other end with the proxy's answer, once the tunnel is open.
    ///
    /// # Errors
    /// If the proxy refuses, or speaks something else.
    pub(crate) fn advance(&mut self, stream: &mut (impl Read + Write)) -> io::Result<Option<Vec<u8>>> {
        let blocked =
            |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
        while !self.unsent.is_empty() {
            match stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if blocked(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; 4096];
        loop {
            if let Some(rest) = answer(&self.received)? {
                return Ok(Some(rest));
            }
            match stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::ConnectionRefused.into()),
                Ok(count) => self.received.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if blocked(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What follows the head of an answer that agrees; `None` if it is not whole yet.
pub(crate) fn answer(received: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(received) {
        Ok(httparse::Status::Complete(length)) => match response.code {
            Some(200..=299) => Ok(Some(received.get(length..).unwrap_or_default().to_vec())),
            _ => Err(ErrorKind::ConnectionRefused.into()),
        },
        Ok(httparse::Status::Partial) if received.len() < MOST_HEAD => Ok(None),
        _ => Err(ErrorKind::ConnectionRefused.into()),
    }
}

#[cfg(test)]
mod tests {
    use aegis_policy::{Action, Direction, InspectionLevel, Name, Protocol, Verdict, Zone};
    use proptest::prelude::*;

    use super::*;

    fn flow(address: &str, name: Option<&str>) -> FlowDecision {
        let address = address.parse().unwrap();
        FlowDecision {
            direction: Direction::Out,
            protocol: Protocol::Tcp,
            address,
            zone: Zone::of(address),
            port: 443,
            pinned: name.map(|name| Name::new(name).unwrap()).into_iter().collect(),
            claimed: None,
            scrutiny: InspectionLevel::None,
            verdict: Verdict::deny(Reason::Unnamed),
        }
    }

    #[test]
    fn what_is_direct_is_said_as_everywhere() {
        let named = flow("203.0.113.1", Some("api.corp.example"));
        for (entry, expected) in [
            ("corp.example", true),
            (".corp.example", true),
            ("*.corp.example", true),
            ("api.corp.example:443", true),
            ("api.corp.example:80", false),
            ("orp.example", false),
            ("203.0.113.0/24", true),
            ("203.0.113.1", true),
            ("10.0.0.0/8", false),
            ("*", true),
            ("", false),
            ("nonsense/x y", false),
        ] {
            assert_eq!(bypasses(entry, &named), expected, "{entry}");
        }
    }

    #[test]
    fn a_tunnel_asks_by_name_and_hands_on_what_came_too_early() {
        struct Wire(Vec<u8>, io::Cursor<Vec<u8>>);
        impl Read for Wire {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.1.read(buffer)
            }
        }
        impl Write for Wire {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let proxy = Proxy { authorization: Some("Basic eDp5".into()), ..Proxy::default() };
        for (said, expected) in [
            ("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nearly", Some("early")),
            ("HTTP/1.0 403 No\r\n\r\n", None),
            ("SSH-2.0\r\n", None),
            ("HTTP/1.1 200", None),
        ] {
            let mut wire = Wire(Vec::new(), io::Cursor::new(said.as_bytes().to_vec()));
            let decision = flow("203.0.113.1", Some("a.example"));
            let result = Tunnel::to(&decision, &proxy, true).advance(&mut wire);
            assert_eq!(result.ok().flatten(), expected.map(|text| text.as_bytes().to_vec()), "{said}");
            let asked = String::from_utf8(wire.0).unwrap();
            let head = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic eDp5\r\n\r\n";
            assert_eq!(asked, head);
        }
    }

    #[test]
    fn the_proxy_is_sent_to_what_was_judged_and_looks_no_name_up_that_no_rule_opens() {
        let asked = |decision: &FlowDecision, synthetic| {
            let head = String::from_utf8(Tunnel::to(decision, &Proxy::default(), synthetic).unsent).unwrap();
            head.split(' ').nth(1).unwrap().to_owned()
        };
        let mut named = flow("203.0.113.1", Some("a.example"));
        assert_eq!(asked(&named, false), "203.0.113.1:443");
        assert_eq!(asked(&named, true), "a.example:443");
        assert_eq!(asked(&flow("2001:db8::1", None), false), "[2001:db8::1]:443");
        let allow =
            |text: &str| Verdict { action: Action::Allow, because: Reason::Rule(text.parse().unwrap()) };
        named.verdict = allow("allow *.example:443");
        assert_eq!(asked(&named, false), "a.example:443");
        named.verdict = allow("allow 203.0.113.0/24");
        assert_eq!(asked(&named, false), "203.0.113.1:443");
    }

    proptest! {
        #[test]
        fn arbitrary_answers_and_entries_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), entry in ".{0,30}") {
            let _answer = answer(&bytes);
            let _bypassed = bypasses(&entry, &flow("2001:db8::1", Some("a.example")));
        }
    }
}
