//! What the fuzzer drives, and the tests that compare with others; see `fuzz/` and `tests/system/network/differential`.

use aegis_fuzz::Target;
use aegis_policy::{Name, Policy, Preset};
use mio::Poll;

use crate::flow::connect_request::ConnectRequest;
use crate::flow::udp::is_quic;
use crate::gateway::Gateway;
use crate::host_proxy;
use crate::inspect::{Claim, Inspector, PREFACE};
use crate::resolver::message::{self, Query};
use crate::settings::Settings;

/// The only name that is allowed.
const GOOD: &str = "good.example";

/// Feeds a stream of QEMU's to a gateway that lets nothing pass: no socket is opened, whatever the bytes.
///
/// # Panics
/// If a flow is open afterwards, or more waits for the guest than may.
pub fn frames(bytes: &[u8]) {
    let Ok(poll) = Poll::new() else { return };
    let Ok(registry) = poll.registry().try_clone() else { return };
    let mut gateway = Gateway::new(registry);
    let rules = "deny bad.example".parse().into_iter().collect();
    gateway.set(Settings { policy: Policy { default: Preset::None, rules }, ..Settings::default() });
    let mut stream = bytes;
    let _machine = gateway.read(&mut stream);
    gateway.work();
    let mut sent = Vec::new();
    let _sent = gateway.send(&mut sent);
    assert_eq!(gateway.counters().flows, 0);
    assert!(sent.len() <= bytes.len() * 64 + 4096);
}

/// What passes to the other end of what a guest sends in pieces of this size, where only this name is allowed, and all has to
/// be recognised or not.
#[must_use]
pub fn passes(bytes: &[u8], piece: usize, strict: bool, allowed: &str) -> Vec<u8> {
    let (mut inspector, mut pass) = (Inspector::new(strict), Vec::new());
    let mut approve = |claim: Claim| claim.is_some_and(|name| name.as_str() == allowed);
    for part in bytes.chunks(piece.max(1)) {
        if inspector.feed(part, &mut pass, &mut approve).is_err() {
            break;
        }
    }
    pass
}

/// Has a server hear what passes of what a guest sends in pieces of this size, where only this name is allowed. `server` gets
/// what passes, and returns what it says.
pub fn relay(bytes: &[u8], piece: usize, allowed: &str, server: &mut dyn FnMut(&[u8]) -> Vec<u8>) {
    let mut inspector = Inspector::new(true);
    let mut approve = |claim: Claim| claim.is_some_and(|name| name.as_str() == allowed);
    // What is held for the server's answer goes on with it.
    for part in bytes.chunks(piece.max(1)).chain([&[][..]]) {
        let mut pass = Vec::new();
        let outcome = inspector.feed(part, &mut pass, &mut approve);
        if !pass.is_empty() {
            inspector.answered(&server(&pass));
        }
        if outcome.is_err() {
            return;
        }
    }
}

/// A connection of a guest: pieces of what it says and of what the server says, in turn, each preceded by its length.
///
/// # Panics
/// If anything passes that was not said, or where no name was approved.
pub fn inspect(bytes: &[u8]) {
    let Some((mode, mut rest)) = bytes.split_first() else { return };
    let (mut inspector, mut said, mut pass) = (Inspector::new(true), Vec::new(), Vec::new());
    let mut approved = false;
    let mut guest = true;
    while let Some((length, tail)) = rest.split_first() {
        // Short pieces and long ones.
        let length = usize::from(*length) << (mode & 3);
        let (part, tail) = tail.split_at_checked(length).unwrap_or((tail, &[]));
        rest = tail;
        if guest {
            said.extend_from_slice(part);
            let mut approve = |claim: Claim| {
                let good = claim.is_some_and(|name| name.as_str() == GOOD);
                approved |= good;
                good
            };
            if inspector.feed(part, &mut pass, &mut approve).is_err() {
                break;
            }
        } else {
            inspector.answered(part);
        }
        guest = !guest;
    }
    let _late = inspector.late(&mut pass);
    assert!(said.starts_with(&pass) && (approved || asks_nothing(&pass)));
}

/// Whether these bytes are none, or of HTTP/2 and without any fields.
fn asks_nothing(pass: &[u8]) -> bool {
    /// Length of a frame's header, bytes, and the type of one with fields.
    const HEADER: usize = 9;
    const HEADERS: u8 = 1;
    let Some(mut frames) = pass.strip_prefix(PREFACE) else { return pass.is_empty() };
    while let Some([a, b, c, kind, ..]) = frames.first_chunk::<HEADER>() {
        if *kind == HEADERS {
            return false;
        }
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        frames = frames.get(HEADER + length..).unwrap_or_default();
    }
    true
}

/// A connection's first bytes, whole and cut into pieces.
///
/// # Panics
/// If what passes depends on how they are cut.
pub fn cuts(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let (piece, strict) = (usize::from(piece >> 1) + 1, piece & 1 == 0);
    let (whole, cut) = (passes(bytes, usize::MAX, strict, GOOD), passes(bytes, piece, strict, GOOD));
    assert!(whole.starts_with(&cut) || cut.starts_with(&whole));
}

/// A question of the guest.
///
/// # Panics
/// If what is asked outward, or answered, is not about the same name.
pub fn question(bytes: &[u8]) {
    let Ok(query) = Query::read(bytes) else { return };
    if let Some(outward) = query.outward(1) {
        let again = Query::read(&outward).map(|again| again.key);
        assert_eq!(again.as_ref(), Ok(&query.key));
    }
    let _answer = query.failed(simple_dns::RCODE::Refused);
    let _cut = query.fit(bytes, query.most);
}

/// An answer of a name server to a question for an address.
pub fn answer(bytes: &[u8]) {
    let Ok(name) = Name::new(GOOD) else { return };
    let Some(asked) = message::question(&name, simple_dns::TYPE::A) else { return };
    let Ok(query) = Query::read(&asked) else { return };
    let _answer = message::read_answer(bytes, 0, &query);
    let _addresses = message::addresses(bytes);
    let passed = query.fit(&query.without_services(bytes), query.most);
    assert!(passed.len() <= query.most.max(bytes.len()));
}

/// The answer of the host's proxy.
pub fn proxy(bytes: &[u8]) {
    let _rest = host_proxy::answer(bytes);
}

/// What a guest asks of the proxy that it is offered, and the first answer of a name server to that.
pub fn connect_request(bytes: &[u8]) {
    let mut request = ConnectRequest::new();
    let Ok(length) = request.read(bytes) else { return };
    let mut steps = 0;
    while length > 0 && !matches!(request.step(), crate::flow::connect_request::Step::Deny(_)) {
        request.found(bytes.get(length..).unwrap_or_default());
        steps += 1;
        assert!(steps < 1 << 16, "it comes to no end");
    }
}

/// A datagram.
pub fn datagram(bytes: &[u8]) {
    let _quic = (is_quic(bytes, false), is_quic(bytes, true));
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 8] = [
    ("gateway-frames", frames),
    ("gateway-inspect", inspect),
    ("gateway-cuts", cuts),
    ("gateway-question", question),
    ("gateway-answer", answer),
    ("gateway-proxy", proxy),
    ("gateway-connect", connect_request),
    ("gateway-datagram", datagram),
];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
