//! Requests of HTTP/2 without TLS, by prior knowledge, as frames.

/// What a client says first: its preface, and no settings.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as they are: literals that go into no table (RFC 7541, 6.2.2), or into the table.
fn block(fields: &[(&str, &str)], into_table: bool) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let first = if into_table { 0x40 } else { 0 };
    fields.iter().flat_map(|(name, value)| [vec![first], text(name), text(value)].concat()).collect()
}

fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[(":method", method), (":scheme", "http"), (":path", path)], more].concat()
}

/// A whole request.
pub(super) fn ask(authority: &str) -> Vec<u8> {
    let block = block(&request("GET", "/", &[(":authority", authority)]), false);
    [BEGINNING, &frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)].concat()
}

/// Requests of the neighbour in which what is allowed is there as well, or that are said in an odd way.
pub(super) fn corpus(good: &str, evil: &str) -> Vec<Vec<u8>> {
    let one = |fields: &[(&str, &str)]| {
        [BEGINNING, &frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields, false))].concat()
    };
    let (own, others) = ((":authority", good), (":authority", evil));
    let absolute = format!("http://{evil}/");
    let in_value = format!("x\r\nhost: {evil}");
    let authorities = [
        format!("{good}@{evil}"),
        format!("{evil}:80"),
        format!("{evil}."),
        format!("{good},{evil}"),
        format!("{evil}/"),
    ];
    let smuggled = format!("GET / HTTP/1.1\r\nHost: {evil}\r\n\r\n");
    let mut all: Vec<Vec<u8>> = [
        request("GET", "/", &[others]),
        request("GET", "/", &[own, ("host", evil)]),
        request("GET", "/", &[("host", evil), own]),
        request("GET", "/", &[("host", evil)]),
        request("GET", "/", &[others, ("host", good)]),
        request("GET", "/", &[own, others]),
        request("GET", "/", &[others, own]),
        request("GET", "/", &[("host", good), ("host", evil)]),
        request("GET", "/", &[own, ("Host", evil)]),
        request("GET", "/", &[own, ("x", &in_value)]),
        request("GET", &absolute, &[own]),
        request("GET", "/", &[own, ("transfer-encoding", "chunked"), ("host", evil)]),
        vec![(":method", "GET"), (":path", "/"), others],
        vec![(":method", "GET"), (":scheme", "http"), others],
        vec![others, (":method", "GET"), (":scheme", "http"), (":path", "/")],
    ]
    .iter()
    .map(|fields| one(fields))
    .collect();
    all.extend(authorities.iter().map(|authority| one(&request("GET", "/", &[(":authority", authority)]))));
    // A second request, by a table and without; the fields of one in several frames; what servers of HTTP/1 take for requests
    // where those of HTTP/2 see settings or a body.
    let (first, second) =
        (block(&request("GET", "/", &[own]), true), block(&request("GET", "/", &[others]), true));
    let asked = |stream: u32, block: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, stream, block);
    all.push([BEGINNING, &asked(1, &first), &asked(3, &second)].concat());
    all.push([BEGINNING, &asked(1, &second), &asked(3, &[0xbe, 0xbf, 0xc0, 0xc1])].concat());
    all.push([BEGINNING, &asked(1, &first), &asked(1, &second)].concat());
    let (head, tail) = second.split_at(7);
    all.push(
        [BEGINNING, &frame(HEADERS, END_STREAM, 1, head), &frame(CONTINUATION, END_HEADERS, 1, tail)]
            .concat(),
    );
    all.push(
        [
            BEGINNING,
            &frame(HEADERS, END_STREAM, 1, &first),
            &frame(CONTINUATION, END_HEADERS, 1, &block(&[("host", evil)], false)),
        ]
        .concat(),
    );
    let padded = [&[3], &second[..], &[0; 3]].concat();
    all.push([BEGINNING, &frame(HEADERS, END_STREAM | END_HEADERS | 8, 1, &padded)].concat());
    let prioritised = [&[0, 0, 0, 0, 9], &second[..]].concat();
    all.push([BEGINNING, &frame(HEADERS, END_STREAM | END_HEADERS | 0x20, 1, &prioritised)].concat());
    let post = block(&request("POST", "/", &[own]), false);
    all.push(
        [BEGINNING, &frame(HEADERS, END_HEADERS, 1, &post), &frame(DATA, END_STREAM, 1, smuggled.as_bytes())]
            .concat(),
    );
    let (preface, _) = BEGINNING.split_at(24);
    all.push(
        [preface, &frame(4, 0, 0, &[smuggled.as_bytes(), &[0; 5][..(6 - smuggled.len() % 6) % 6]].concat())]
            .concat(),
    );
    all.push([preface, smuggled.as_bytes()].concat());
    all
}
