use loona_hpack::Encoder;
use proptest::prelude::*;

use super::super::tests::{EVIL, GOOD};
use super::super::{Inspector, Refusal};
use super::*;

/// The first frame of a server: no settings.
const SERVER: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a client says, its fields encoded one after the other.
struct Client(Encoder<'static>, Vec<u8>);

impl Client {
    fn new() -> Client {
        Client(Encoder::new(), [PREFACE, &frame(4, 0, 0, &[0, 4, 0, 0, 255, 255])].concat())
    }

    fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        self.0.encode(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    fn ask(mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) -> Client {
        let block = self.block(fields);
        self.1.extend(frame(1, flags | 4, stream, &block));
        self
    }

    fn then(mut self, frame: &[u8]) -> Client {
        self.1.extend_from_slice(frame);
        self
    }
}

fn get(authority: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", authority)]
}

/// What passes to a server of HTTP/2, in pieces of this size.
fn through(bytes: &[u8], piece: usize, allowed: &[&str]) -> (Vec<u8>, Result<(), Refusal>) {
    let (mut inspector, mut pass) = (Inspector::new(true), Vec::new());
    let mut approve = |claim: Claim| claim.is_some_and(|name| allowed.contains(&name.as_str()));
    for part in bytes.chunks(piece) {
        if let Err(refusal) = inspector.feed(part, &mut pass, &mut approve) {
            return (pass, Err(refusal));
        }
        if pass.len() >= PREFACE.len() {
            inspector.answered(SERVER);
        }
    }
    let last = inspector.feed(&[], &mut pass, &mut approve);
    (pass, last)
}

#[test]
fn each_request_is_judged_by_its_authority() {
    let body = frame(0, 1, 3, b"body");
    let post = [get(GOOD).as_slice(), &[("content-length", "4")]].concat();
    let good =
        Client::new().ask(1, 1, &get(GOOD)).ask(3, 0, &post).then(&body).ask(5, 1, &get("Good.example:80"));
    for piece in [1, 7, 10_000] {
        let (pass, outcome) = through(&good.1, piece, &[GOOD]);
        assert_eq!((pass, outcome), (good.1.clone(), Ok(())));
    }
    let before = good.1.len();
    // The second time its name is a number in a table.
    for evil in [good.ask(7, 1, &get(EVIL)), Client::new().ask(1, 1, &get(EVIL))] {
        let (pass, outcome) = through(&evil.1, 9, &[GOOD]);
        assert_eq!(outcome, Err(Refusal::Judged));
        assert!(pass.len() <= before && evil.1.starts_with(&pass));
    }
    let by_host = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", EVIL)];
    assert_eq!(through(&Client::new().ask(1, 1, &by_host).1, 9, &[GOOD]).1, Err(Refusal::Judged));
    assert_eq!(through(&Client::new().ask(1, 1, &get("192.0.2.1")).1, 9, &[GOOD]).1, Err(Refusal::Judged));
}

#[test]
fn nothing_but_the_preface_passes_to_a_server_that_has_not_shown_that_it_speaks_http_2() {
    let client = Client::new().ask(1, 1, &get(GOOD));
    for greeting in
        [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\0\0\0\x04\x01\0\0\0\0", b"\0\0\x01\x04\0\0\0\0\0"]
    {
        let (mut inspector, mut pass) = (Inspector::new(true), Vec::new());
        inspector.feed(&client.1, &mut pass, &mut |_| true).unwrap();
        assert_eq!(pass, PREFACE);
        inspector.answered(&greeting[..1]);
        inspector.answered(&greeting[1..]);
        assert_eq!(inspector.feed(&[], &mut pass, &mut |_| true), Err(NO_SERVER));
        assert_eq!(pass, PREFACE);
    }
    // One that speaks first.
    let (mut inspector, mut pass) = (Inspector::new(true), Vec::new());
    inspector.answered(&SERVER[..5]);
    inspector.answered(&SERVER[5..]);
    inspector.feed(&client.1, &mut pass, &mut |_| true).unwrap();
    assert_eq!(pass, client.1);
}

/// Requests of this host that servers may understand in different ways, or that are none.
pub(in super::super) fn doubtful(host: &str) -> Vec<Vec<u8>> {
    let fields: &[&[(&str, &str)]] = &[
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", host), ("host", EVIL)],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", host),
            (":authority", host),
        ],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", host), ("host", host)],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", host), (":authority", host)],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", host), ("Host", EVIL)],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", host),
            ("x_y\r\nhost", EVIL),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", host),
            ("x", "y\r\nhost: e"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", host),
            ("content_length", "1"),
        ],
        &[(":method", "GET"), (":scheme", "http"), (":path", "http://evil.example/"), (":authority", host)],
        &[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", host)],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/ HTTP/1.1"), (":authority", host)],
        &[(":method", "GET /"), (":scheme", "http"), (":path", "/"), (":authority", host)],
        &[(":method", "GET"), (":scheme", "http://e/"), (":path", "/"), (":authority", host)],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", host), (":protocol", "x")],
        &[(":method", "CONNECT"), (":authority", host)],
        &[(":method", "CONNECT"), (":scheme", "http"), (":path", "/"), (":authority", host)],
        &[(":method", "GET"), (":path", "/"), (":authority", host)],
        &[(":scheme", "http"), (":path", "/"), (":authority", host)],
        &[(":authority", host)],
        &[("x", "y")],
    ];
    let values = [
        ("connection", "host"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("content-length", "+1"),
        ("content-length", "1, 1"),
        ("content-length", "1"),
        ("x", " y"),
        ("x", "y\0"),
        ("x y", "z"),
        ("", "z"),
    ];
    let authorities =
        ["x@HOST", "HOST/", "HOST:80:80", "HOST HOST", "HOST, HOST", " HOST", "HOST\t", "HOST\\", ""];
    let asked = |fields: &[(&str, &str)]| Client::new().ask(1, 1, fields).1;
    let of_fields = fields.iter().map(|fields| asked(fields));
    let of_values = values.iter().map(|value| asked(&[get(host).as_slice(), &[*value]].concat()));
    let of_authorities = authorities.iter().map(|text| asked(&get(&text.replace("HOST", host))));
    let block = Client::new().block(&get(host));
    let framed = |frames: &[Vec<u8>]| Client::new().then(&frames.concat()).1;
    let cut = |flags: u8, second: Vec<u8>| framed(&[frame(1, flags, 1, &block[..5]), second]);
    let of_frames = [
        // Interrupted, continued elsewhere, by nobody, for ever.
        cut(1, frame(0, 0, 1, b"x")),
        cut(1, frame(9, 4, 3, &block[5..])),
        cut(1, frame(1, 4, 1, &block[5..])),
        framed(&[frame(9, 4, 1, &block)]),
        framed(
            &[frame(1, 0, 1, b"")].iter().cloned().chain(vec![frame(9, 0, 1, b""); 40]).collect::<Vec<_>>(),
        ),
        // On streams that are none of a client's, with padding that is not there, and of types that no client has.
        framed(&[frame(1, 5, 0, &block)]),
        framed(&[frame(1, 5, 2, &block)]),
        framed(&[frame(1, 5 | 8, 1, &[&[200], &block[..]].concat())]),
        framed(&[frame(1, 5 | 0x20, 1, &[1, 2])]),
        framed(&[frame(5, 4, 1, &[&[0, 0, 0, 2], &block[..]].concat())]),
        framed(&[frame(0x55, 4, 1, &block)]),
        framed(&[frame(4, 0, 0, &vec![0; 60_000])]),
        // What is no block of fields.
        framed(&[frame(1, 5, 1, &[0xff; 20])]),
        framed(&[frame(1, 5, 1, &[0x80])]),
        framed(&[frame(1, 5, 1, &[0x3f, 0xff, 0xff, 0xff, 0x0f])]),
    ];
    of_fields.chain(of_values).chain(of_authorities).chain(of_frames).collect()
}

#[test]
fn what_servers_may_understand_differently_is_refused() {
    for (number, bytes) in doubtful(GOOD).into_iter().enumerate() {
        let (_, outcome) = through(&bytes, 11, &[GOOD]);
        assert!(outcome.is_err(), "{number}: {bytes:?}");
    }
}

#[test]
fn a_body_is_as_long_as_it_was_said_to_be() {
    let post = |length| [get(GOOD).as_slice(), &[("content-length", length)]].concat();
    let client = |length| Client::new().ask(1, 0, &post(length));
    let padded = frame(0, 1 | 8, 1, b"\x02body\0\0");
    for (client, is_fine) in [
        (client("4").then(&padded), true),
        (client("4").then(&frame(0, 0, 1, b"bo")).then(&frame(0, 1, 1, b"dy")), true),
        (client("4").then(&frame(0, 0, 1, b"body")).ask(1, 1, &[("x", "a trailer")]), true),
        (client("4").then(&frame(3, 0, 1, &[0; 4])).ask(3, 1, &get(GOOD)), true),
        (client("5").then(&padded), false),
        (client("3").then(&padded), false),
        (client("4").then(&frame(0, 0, 1, b"bod")).ask(1, 1, &[("x", "a trailer")]), false),
        (client("4").ask(1, 1, &get(GOOD)), false),
    ] {
        let (pass, outcome) = through(&client.1, 5, &[GOOD]);
        assert_eq!(outcome.is_ok(), is_fine, "{outcome:?}");
        assert!(!is_fine || pass == client.1);
    }
}

#[test]
fn a_short_block_does_not_stand_for_much() {
    let long = "x".repeat(3000);
    let mut client = Client::new();
    let fields = [get(GOOD).as_slice(), &[("long", &long)]].concat();
    client = client.ask(1, 1, &fields);
    // The last field once more, thousands of times.
    let bomb = [client.block(&get(GOOD)), vec![0xbe; 10_000]].concat();
    client = client.then(&frame(1, 5, 3, &bomb));
    assert!(matches!(through(&client.1, 10_000, &[GOOD]).1, Err(Refusal::Malformed(_))));
}

proptest! {
    #[test]
    fn what_passes_does_not_depend_on_how_it_is_cut(
        frames in proptest::collection::vec((0u8..11, any::<u8>(), 0u32..4, proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
        piece in 1usize..50,
    ) {
        let bytes = frames.iter().fold(Client::new().ask(1, 0, &get(GOOD)).1, |bytes, (kind, flags, stream, payload)| {
            [bytes, frame(*kind, *flags, *stream, payload)].concat()
        });
        let (whole, outcome) = through(&bytes, usize::MAX, &[GOOD]);
        let (cut, again) = through(&bytes, piece, &[GOOD]);
        prop_assert!(bytes.starts_with(&whole));
        prop_assert_eq!(outcome.is_ok(), again.is_ok());
        prop_assert!(outcome.is_err() || whole == cut);
    }

    #[test]
    fn arbitrary_fields_never_panic(block in proptest::collection::vec(any::<u8>(), 0..200)) {
        let client = Client::new().then(&frame(1, 5, 1, &block));
        let (pass, _) = through(&client.1, 100, &[GOOD]);
        prop_assert!(client.1.starts_with(&pass));
    }
}
