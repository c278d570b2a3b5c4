use aegis_policy::Name;

use super::*;

pub(super) const GOOD: &str = "good.example";
pub(super) const EVIL: &str = "evil.example";

/// A ClientHello with this name, in records of at most so many bytes.
pub(super) fn hello(name: Option<&str>, record: usize) -> Vec<u8> {
    hello_with(name, &[], record)
}

/// The same with other extensions at its end.
fn hello_with(name: Option<&str>, more: &[u8], record: usize) -> Vec<u8> {
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
    extensions.extend(more);
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

/// A server's first message, with these bytes at random.
fn server_hello(random: [u8; 32]) -> Vec<u8> {
    [&[22, 3, 3, 0, 76, 2, 0, 0, 72, 3, 3][..], &random, &[7; 38]].concat()
}

/// What passes of these bytes, in pieces of this size, and what was claimed.
fn through(bytes: &[u8], piece: usize, allowed: &[&str]) -> (Vec<u8>, Vec<Claim>, Result<(), Refusal>) {
    let mut inspector = Inspector::new(true);
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

pub(super) fn is_good(claim: Claim) -> bool {
    claim.is_some_and(|name| name.as_str() == GOOD)
}

/// Whether nothing of it passes, and that is the end.
fn is_refused(bytes: impl AsRef<[u8]>) -> bool {
    let bytes = bytes.as_ref();
    [1, 7, 100_000].into_iter().all(|piece| {
        let (pass, _, result) = through(bytes, piece, &[GOOD]);
        pass.is_empty() && result.is_err()
    })
}

#[test]
fn nothing_of_a_tls_connection_passes_before_its_name_is_judged() {
    for (piece, record) in [(1, 5), (7, 16_000), (100_000, 1)] {
        let bytes = hello(Some("GOOD.example"), record);
        let (pass, claims, result) = through(&bytes, piece, &[GOOD]);
        assert_eq!((pass, result), (bytes.clone(), Ok(())));
        assert_eq!(claims, [Some(Name::new(GOOD).unwrap())]);
        let (pass, _, result) = through(&bytes, piece, &[]);
        assert_eq!((pass.len(), result), (0, Err(Refusal::Judged)));
    }
    assert_eq!(through(&hello(None, 100), 3, &["x"]).1, [None]);
}

#[test]
fn what_follows_a_client_hello_passes_once_the_server_speaks_tls() {
    let (first, later) = (hello(Some(GOOD), 16_000), b"\x17\x03\x03\x00\x04more");
    let warning = [21, 3, 3, 0, 2, 1, 112];
    for (answer, open) in [
        (server_hello([9; 32]), true),
        ([&warning[..], &server_hello([9; 32])].concat(), true),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false),
        (vec![22, 3, 3, 0, 4, 0, 0, 0, 0], false),
    ] {
        for piece in [1, 1000] {
            let (mut inspector, mut pass) = (Inspector::new(true), Vec::new());
            inspector.feed(&first, &mut pass, &mut is_good).unwrap();
            inspector.feed(later, &mut pass, &mut is_good).unwrap();
            assert_eq!(pass, first);
            answer.chunks(piece).for_each(|part| inspector.answered(part));
            assert_eq!(inspector.feed(b"", &mut pass, &mut is_good).is_ok(), open);
            assert_eq!(pass.len() > first.len(), open);
            assert_eq!(inspector.is_open(), open);
        }
    }
}

#[test]
fn a_second_client_hello_names_the_same() {
    let compatible = [20, 3, 3, 0, 1, 1];
    let early = [23, 3, 3, 0, 2, 9, 9];
    for (second, open) in [
        (hello(Some(GOOD), 50), true),
        ([&compatible[..], &hello(Some(GOOD), 16_000)].concat(), true),
        ([&early[..], &compatible, &hello(Some(GOOD), 16_000)].concat(), true),
        (hello(Some(EVIL), 16_000), false),
        ([&compatible[..], &hello(Some(EVIL), 3)].concat(), false),
        (hello(None, 16_000), false),
        (vec![21, 3, 3, 0, 2, 1, 0], false),
    ] {
        let (mut inspector, mut pass) = (Inspector::new(true), Vec::new());
        inspector.feed(&hello(Some(GOOD), 16_000), &mut pass, &mut is_good).unwrap();
        inspector.answered(&server_hello(tls::RETRY));
        let before = pass.len();
        let result = second.chunks(9).try_for_each(|part| inspector.feed(part, &mut pass, &mut is_good));
        assert_eq!((result.is_ok(), pass.len() > before), (open, open), "{second:?}");
    }
}

#[test]
fn what_is_no_plain_client_hello_is_refused() {
    let whole = hello(Some(GOOD), 16_000);
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    for kind in [0x14, 0x15, 0x17, 0x18, 0x80] {
        assert!(is_refused(changed(0, kind)), "{kind}");
    }
    // The greeting of SSL 2, with and without a long header.
    assert!(is_refused(b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x00\x00\x04"));
    assert!(is_refused(b"\x00\x2e\x00\x01\x03\x01\x00\x15\x00\x00\x00\x10"));
    assert!(is_refused(changed(1, 2)) && is_refused(changed(5, 2)) && is_refused(changed(9, 2)));
    // Alerts and the like before it.
    assert!(is_refused([&[21, 3, 1, 0, 2, 1, 0], whole.as_slice()].concat()));
    assert!(is_refused([&[22, 3, 1, 0, 0], whole.as_slice()].concat()));
    // Another message in its record.
    let mut long = whole.clone();
    long.extend([1, 0, 0, 0]);
    long[4] += 4;
    assert!(is_refused(&long));
    // Two names, two lists of one, a name of another kind, a dot at its end.
    let name = |name: &str| {
        let length = |extra: usize| u16::try_from(name.len() + extra).unwrap().to_be_bytes();
        [&[0, 0][..], &length(5), &length(3), &[0], &length(0), name.as_bytes()].concat()
    };
    assert!(is_refused(hello_with(Some(GOOD), &name(EVIL), 16_000)));
    assert!(is_refused(hello_with(Some(GOOD), &name(GOOD), 16_000)));
    assert!(is_refused(hello_with(None, &[0, 0, 0, 2, 0, 0], 16_000)));
    assert!(is_refused(hello_with(Some(GOOD), &[0, 10, 0, 0], 16_000)));
    assert!(is_refused(hello(Some("good.example."), 16_000)) && is_refused(hello(Some("a b"), 16_000)));
}

#[test]
fn the_outer_name_counts_where_an_inner_one_is_hidden() {
    let encrypted = [&[0xfe, 0x0d, 0, 8][..], &[0; 8]].concat();
    assert_eq!(through(&hello_with(Some(GOOD), &encrypted, 16_000), 9, &[GOOD]).2, Ok(()));
    assert_eq!(through(&hello_with(Some(EVIL), &encrypted, 16_000), 9, &[GOOD]).2, Err(Refusal::Judged));
}

#[test]
fn every_request_on_a_connection_is_judged_by_its_host() {
    let good = "POST /a HTTP/1.1\r\nHost: good.example\r\nContent-Length: 5\r\n\r\nGET /";
    let chunked = "PUT / HTTP/1.1\r\nHost: good.example:80\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n";
    let bad = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let bytes = [good, chunked, good, bad].concat();
    for piece in [1, 3, 1000] {
        let (pass, claims, result) = through(bytes.as_bytes(), piece, &[GOOD]);
        assert_eq!(result, Err(Refusal::Judged));
        assert_eq!(claims.len(), 4);
        assert!(pass.len() <= bytes.len() - bad.len());
    }
}

#[test]
fn the_host_in_the_target_counts_like_that_in_the_head() {
    for bytes in [
        "GET http://evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
        "GET HTTP://evil.example?x HTTP/1.1\r\nHost: good.example\r\n\r\n",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n",
    ] {
        assert_eq!(through(bytes.as_bytes(), 9, &[GOOD]).2, Err(Refusal::Judged), "{bytes}");
    }
    // Both may be reached, but which one is meant?
    let two = "GET http://evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n";
    assert_eq!(through(two.as_bytes(), 9, &[GOOD, EVIL]).2, Err(Refusal::Malformed("two hosts")));
    let same = "GET http://Good.example:80/ HTTP/1.1\r\nHost: good.example\r\n\r\n";
    assert_eq!(through(same.as_bytes(), 9, &[GOOD]).2, Ok(()));
}

/// Requests of this host that are none of strict HTTP/1, or that servers may understand in different ways.
pub(super) fn doubtful(host: &str) -> Vec<String> {
    let lines = [
        "GET /\tHTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\x0bHTTP/1.1",
        "GET /\x0cHTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "\tGET / HTTP/1.1",
        "\r\nGET / HTTP/1.1",
        "\nGET / HTTP/1.1",
        "GET /",
        "GET",
        "GET / ",
        "get / HTTP/1.1",
        "Get / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/11",
        "GET / HTTP/0.9",
        "GET / HTTP/1.1.1",
        "GET / HTTP/ 1.1",
        "GET / HTTP/1.1x",
        "GET / FOO/1.1",
        "PRI * HTTP/2.0 ",
        "GET * HTTP/1.1",
        "GET x HTTP/1.1",
        "GET http:/x HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET ftp://good.example/ HTTP/1.1",
        "GET /#x HTTP/1.1",
        "GET http://a@good.example/ HTTP/1.1",
        "GET http://good.example\\@x/ HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "CONNECT good.example HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / x HTTP/1.1",
        "GET /\r HTTP/1.1",
    ];
    let fields = [
        "Host : HOST",
        " Host: HOST",
        "X: y\r\n Host: HOST",
        "Host: HOST\r\nHost: HOST",
        "Host: HOST, HOST",
        "Host: HOST HOST",
        "Host: x@HOST",
        "Host: HOST:80:80",
        "Host: HOST:x",
        "Host: HOST/",
        "Host:\tHOST",
        "Host: HOST ",
        "Host\0: HOST",
        "Host: HOST\0",
        "Host\r\n: HOST",
        "X\nHost: HOST",
        "X: y\nHost: HOST",
        "X: y\rHost: HOST",
        "X: y\r\r\nHost: HOST",
        ": x\r\nHost: HOST",
        "x\r\nHost: HOST",
        "Host: %67ood.example",
        "Host: HOST\r\nContent-Length: 1\r\nContent-Length: 1",
        "Host: HOST\r\nContent-Length: 1, 1",
        "Host: HOST\r\nContent-Length: +1",
        "Host: HOST\r\nContent-Length: 0x1",
        "Host: HOST\r\nContent-Length: -1",
        "Host: HOST\r\nContent-Length: 1 1",
        "Host: HOST\r\nContent-Length:",
        "Host: HOST\r\nContent_Length: 1",
        "Host: HOST\r\nContent-Length: 99999999999999999999",
        "Host: HOST\r\nTransfer_Encoding: chunked",
        "Host: HOST\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        "Host: HOST\r\nTransfer-Encoding : chunked",
        "Host: HOST\r\nTransfer-Encoding: chunked, identity",
        "Host: HOST\r\nTransfer-Encoding: identity",
        "Host: HOST\r\nTransfer-Encoding: gzip, chunked",
        "Host: HOST\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Host: HOST\r\nTransfer-Encoding: \x0bchunked",
        "Host: HOST\r\nTransfer-Encoding:\r\n chunked",
        "Host: HOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Host: HOST\r\nTransfer-Encoding: \"chunked\"",
        "Host: HOST\r\nUpgrade: h2c",
        "Host: HOST\r\nUpgrade: websocket, h2c",
        "Host: HOST\r\nUpgrade: TLS/1.3",
        "Host: HOST\r\nUpgrade: websocket\r\nUpgrade: websocket",
        "Host: HOST\r\nHTTP2-Settings: AAA",
        "Host: HOST\r\nConnection: host",
        "Host: HOST\r\nConnection: close, Content-Length",
    ];
    let of_line = lines.iter().map(|line| format!("{line}\r\nHost: {host}\r\n\r\n"));
    let of_field =
        fields.iter().map(|field| format!("POST / HTTP/1.1\r\n{}\r\n\r\n", field.replace("HOST", host)));
    let others = [
        "GET /\r\n",
        "GET / HTTP/1.1\nHost: HOST\n\n",
        "GET / HTTP/1.1\r\nHost: HOST\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\n\r\nab",
        "GET / HTTP/1.0\r\nHost: HOST\r\nUpgrade: websocket\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET http://HOST/ HTTP/1.1\r\n\r\n",
    ];
    of_line.chain(of_field).chain(others.iter().map(|text| text.replace("HOST", host))).collect()
}

#[test]
fn what_servers_may_understand_differently_is_refused() {
    for bytes in doubtful(GOOD).into_iter().chain(doubtful(EVIL)) {
        assert!(is_refused(&bytes), "{bytes:?}");
    }
    let start = "POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunks in [
        "3\nabc",
        "3\r\nabcd",
        "3\r\nabc\n0",
        "g\r\n",
        "0x3\r\n",
        " 3\r\n",
        "3 \r\n",
        "3;\r\n",
        "3; x\r\n",
        "-1\r\n",
        "3;a=\"\r\n",
        "fffffffffffffffff\r\n",
        "\r\n",
        "3\rabc\r\n",
        "0\r\nHost: evil.example\r\n",
        "0\r\n x\r\n",
        "0\r\nContent-Length: 3\r\n",
    ] {
        let bytes = [start, chunks].concat();
        let (pass, _, result) = through(bytes.as_bytes(), 5, &[GOOD]);
        assert!(matches!(result, Err(Refusal::Malformed(_))), "{chunks:?}: {result:?}");
        assert!(pass.len() < bytes.len(), "{chunks:?}");
    }
}

#[test]
fn what_gives_no_name_that_can_be_read_ends_at_once_where_all_has_to_be_recognised() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2 Debian\r\nmore"[..],
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"EHLO there\r\nQUIT\r\n",
        b"003agit-upload-pack /x.git\0host=good.example\0",
        b"\x10\x0f\0\x04MQTT",
        b"*1\r\n$4\r\nPING\r\n",
    ] {
        assert_eq!(through(bytes, 2, &[GOOD]).2, Err(Refusal::Unrecognised), "{bytes:?}");
        let (mut inspector, mut pass) = (Inspector::new(false), Vec::new());
        bytes.chunks(2).for_each(|part| inspector.feed(part, &mut pass, &mut |_| false).unwrap());
        assert_eq!((pass.as_slice(), inspector.is_open()), (bytes, true));
    }
    // There, too, what some server takes for HTTP or TLS has a name that counts.
    for bytes in [
        "GET /\tHTTP/1.1\r\nHost: x\r\n\r\n",
        "\r\n \tGET / HTTP/1.1\r\n",
        "get / http/1.1\r\n",
        "GET /\r\n",
        "\x15\x03\x01..",
        "\u{80}\x2e",
    ] {
        let (mut inspector, mut pass) = (Inspector::new(false), Vec::new());
        let result = bytes.bytes().try_for_each(|byte| inspector.feed(&[byte], &mut pass, &mut |_| true));
        assert!(pass.is_empty() && (result.is_err() || bytes.len() < 4), "{bytes:?}");
    }
}

#[test]
fn a_wait_for_what_is_spoken_or_meant_has_an_end() {
    for (bytes, strict, wait) in [
        (&b"GE"[..], true, Some(Wait::Kind)),
        (b"HELP", true, Some(Wait::Kind)),
        (b"GET / HTTP/1.1\r\nHo", true, Some(Wait::Name)),
        (b"\x16\x03", true, Some(Wait::Name)),
        (b"", true, None),
        (b"HELP", false, Some(Wait::Kind)),
        (b"\x80", false, Some(Wait::Kind)),
        (b"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n", true, None),
    ] {
        let (mut inspector, mut pass) = (Inspector::new(strict), Vec::new());
        inspector.feed(bytes, &mut pass, &mut is_good).unwrap();
        assert_eq!(inspector.waits_for(), wait, "{bytes:?}");
        let passes = inspector.late(&mut pass).is_ok();
        assert_eq!(passes, !strict || wait.is_none(), "{bytes:?}");
        assert!(!passes || pass == bytes);
    }
}

/// What passes on of these, where the server says these.
fn conversation(said: &[(&str, &str)], end: &str) -> (String, Result<(), Refusal>) {
    let (mut inspector, mut pass) = (Inspector::new(true), Vec::new());
    let mut result = Ok(());
    for (request, answer) in said {
        result = result.and_then(|()| inspector.feed(request.as_bytes(), &mut pass, &mut is_good));
        inspector.answered(answer.as_bytes());
    }
    result = result.and_then(|()| inspector.feed(end.as_bytes(), &mut pass, &mut is_good));
    (String::from_utf8(pass).unwrap(), result)
}

const WISH: &str =
    "GET /chat HTTP/1.1\r\nHost: good.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const PLAIN: &str = "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n";
const SMUGGLED: &str = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn a_connection_that_becomes_something_else_is_open_only_once_the_server_agrees() {
    let frames = "\x01frames";
    assert_eq!(conversation(&[(WISH, AGREED)], frames), ([WISH, frames].concat(), Ok(())));
    let interim = ["HTTP/1.1 100 Continue\r\n\r\n", AGREED].concat();
    assert_eq!(conversation(&[(WISH, &interim)], frames).1, Ok(()));
    assert_eq!(conversation(&[(WISH, "HTTP/1.1 101 Swit")], frames), (WISH.to_owned(), Ok(())));
    let denied = "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno";
    assert_eq!(conversation(&[(WISH, denied)], SMUGGLED), (WISH.to_owned(), Err(Refusal::Judged)));
    let again = [WISH, PLAIN, WISH, frames].concat();
    let ok = "HTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(conversation(&[(WISH, denied), (PLAIN, ok), (WISH, AGREED)], frames), (again, Ok(())));
    // More than was wished for, or from a server that is older than that.
    assert!(conversation(&[(PLAIN, AGREED)], SMUGGLED).1.is_err());
    assert!(conversation(&[(WISH, &AGREED.replace("1.1", "1.0"))], SMUGGLED).1.is_err());
}

#[test]
fn a_piece_of_another_answer_opens_nothing() {
    let length = AGREED.len();
    let chunk = format!("{length:x}\r\n{AGREED}\r\n0\r\n\r\n");
    for before in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: {length}\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        // The answer to the first comes after the wish, and its body looks like another's.
        let said = [(PLAIN, ""), (WISH, before.as_str()), ("", AGREED), ("", AGREED)];
        let (pass, _) = conversation(&said, SMUGGLED);
        let opened = pass.contains("evil.example");
        // Where the first ends is known here, and what follows it is the answer to the wish.
        let ends =
            before.contains(&format!("Content-Length: {length}\r\n\r")) && !before.contains("Length: 0");
        assert_eq!(opened, ends, "{before:?}");
        let (pass, _) = conversation(&said[..3], SMUGGLED);
        assert!(!pass.contains("evil.example"), "{before:?}");
    }
    let whole = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
    assert!(!conversation(&[(PLAIN, ""), (WISH, &whole)], SMUGGLED).0.contains("evil.example"));
    // One to a HEAD has no body, whatever it says.
    let head = "HEAD / HTTP/1.1\r\nHost: good.example\r\n\r\n";
    let short = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{AGREED}");
    assert!(conversation(&[(head, ""), (WISH, &short)], SMUGGLED).0.contains("evil.example"));
}

#[test]
fn a_tunnel_is_looked_at_from_its_beginning() {
    let upgrade_request = "CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n";
    let granted = "HTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(conversation(&[(upgrade_request, granted)], PLAIN).1, Ok(()));
    assert_eq!(conversation(&[(upgrade_request, granted)], SMUGGLED).1, Err(Refusal::Judged));
    assert_eq!(conversation(&[(upgrade_request, granted)], "\x01raw").1, Err(Refusal::Unrecognised));
    assert_eq!(
        conversation(&[(upgrade_request, "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")], SMUGGLED).1,
        Err(Refusal::Judged)
    );
}

#[test]
fn there_are_no_more_requests_without_an_answer_than_the_bound() {
    let many = PLAIN.repeat(1025);
    assert_eq!(conversation(&[], &many).1, Err(Refusal::Malformed("too many requests without an answer")));
}
