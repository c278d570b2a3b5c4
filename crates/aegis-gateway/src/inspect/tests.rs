use proptest::prelude::*;

use super::*;

/// A ClientHello with this name, in records of at most so many bytes.
fn hello(name: Option<&str>, record: usize) -> Vec<u8> {
    let mut extensions = vec![0, 10, 0, 4, 0, 2, 0, 29];
    if let Some(name) = name {
        let length = |extra: usize| u16::try_from(name.len() + extra).unwrap().to_be_bytes();
        extensions.extend([0, 0]);
        extensions.extend(length(5));
        extensions.extend(length(3));
        extensions.push(0);
        extensions.extend(length(0));
        extensions.extend(name.bytes());
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut bytes = Vec::new();
    for part in message.chunks(record) {
        bytes.extend([22, 3, 1]);
        bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

/// What passes of these bytes, in pieces of this size, and what was claimed.
fn through(bytes: &[u8], piece: usize, allowed: &[&str]) -> (Vec<u8>, Vec<Claim>, Result<(), Refusal>) {
    let mut inspector = Inspector::new();
    let (mut pass, mut claims) = (Vec::new(), Vec::new());
    for part in bytes.chunks(piece) {
        let mut approve = |claim: Claim| {
            let good = claim.as_ref().is_some_and(|name| allowed.contains(&name.as_str()));
            claims.push(claim);
            good
        };
        if let Err(refusal) = inspector.feed(part, &mut pass, &mut approve) {
            return (pass, claims, Err(refusal));
        }
    }
    (pass, claims, Ok(()))
}

#[test]
fn nothing_of_a_tls_connection_passes_before_its_name_is_judged() {
    for (piece, record) in [(1, 5), (7, 16_000), (100_000, 1)] {
        let mut bytes = hello(Some("API.example.com"), record);
        bytes.extend(b"\x17\x03\x03more");
        let (pass, claims, result) = through(&bytes, piece, &["api.example.com"]);
        assert_eq!((pass, result), (bytes.clone(), Ok(())));
        assert_eq!(claims, [Some(Name::new("api.example.com").unwrap())]);
        let (pass, _, result) = through(&bytes, piece, &[]);
        assert_eq!((pass.len(), result), (0, Err(Refusal::Judged)));
    }
    assert_eq!(through(&hello(None, 100), 3, &["x"]).1, [None]);
}

#[test]
fn every_request_on_a_connection_is_judged_by_its_host() {
    let good = "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nGET /";
    let chunked = "PUT / HTTP/1.1\r\nHost: a.example:80\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n";
    let bad = "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n";
    let bytes = [good, chunked, good, bad].concat();
    for piece in [1, 3, 1000] {
        let (pass, claims, result) = through(bytes.as_bytes(), piece, &["a.example"]);
        assert_eq!(result, Err(Refusal::Judged));
        assert_eq!(claims.len(), 4);
        assert!(pass.len() <= bytes.len() - bad.len());
    }
}

#[test]
fn the_host_in_the_target_counts_like_that_in_the_head() {
    for bytes in [
        "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://x@b.example:80/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        assert_eq!(through(bytes.as_bytes(), 9, &["a.example"]).2, Err(Refusal::Judged), "{bytes}");
    }
}

#[test]
fn what_servers_may_understand_differently_is_refused() {
    for bytes in [
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\r\nget / HTTP/1.1\r\nHost: a.example b\r\n\r\n",
    ] {
        let result = through(bytes.as_bytes(), 1000, &["a.example"]).2;
        assert!(matches!(result, Err(Refusal::Malformed(_))), "{bytes}: {result:?}");
    }
}

#[test]
fn another_protocol_passes_as_it_is() {
    for bytes in
        [&b"SSH-2.0-OpenSSH_9.2 Debian\r\nmore"[..], b"\0\0\0\x08\x04\xd2\x16\x2f", b"EHLO there\r\nQUIT\r\n"]
    {
        let (pass, claims, result) = through(bytes, 2, &[]);
        assert_eq!((pass.as_slice(), claims.len(), result), (bytes, 0, Ok(())));
    }
}

#[test]
fn a_connection_that_becomes_something_else_is_open_only_once_the_server_agrees() {
    let request = b"GET /chat HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\r\n";
    let smuggled = b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n";
    for (answer, open) in [(&b"HTTP/1.1 101 Switching"[..], true), (b"HTTP/1.1 404 Not Found", false)] {
        let mut inspector = Inspector::new();
        let mut pass = Vec::new();
        let mut approve = |claim: Claim| claim == Some(Name::new("a.example").unwrap());
        inspector.feed(request, &mut pass, &mut approve).unwrap();
        inspector.feed(smuggled, &mut pass, &mut approve).unwrap();
        assert_eq!(pass, request);
        inspector.answered(answer);
        let expected = if open { Ok(()) } else { Err(Refusal::Judged) };
        assert_eq!(inspector.feed(b"", &mut pass, &mut approve), expected);
        assert_eq!(pass.len() > request.len(), open);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_pass_in_order(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        start in prop::sample::select(vec![&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"]),
        piece in 1usize..300,
    ) {
        let all = [start, &bytes].concat();
        let (pass, _, _) = through(&all, piece, &["a"]);
        prop_assert!(all.starts_with(&pass));
    }

    #[test]
    fn damaged_greetings_never_panic(at in 0usize..120, byte: u8, piece in 1usize..50) {
        let mut bytes = hello(Some("a.example"), 40);
        if let Some(one) = bytes.get_mut(at) { *one = byte; }
        let _result = through(&bytes, piece, &["a.example"]);
    }
}
