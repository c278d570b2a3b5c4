//! Requests as nobody would write them who does not want to be understood in two ways.

use super::{EVIL, GOOD};

/// What is asked for: one of the servers answers nothing else.
pub(super) const PATH: &str = "/cgi-bin/host";

/// First lines; `{p}` stands for the path, `{h}` for the host.
const LINES: [&str; 58] = [
    "GET {p} HTTP/1.1",
    "HEAD {p} HTTP/1.1",
    "POST {p} HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "OPTIONS {p} HTTP/1.1",
    "PUT {p} HTTP/1.1",
    "GET {p} HTTP/1.0",
    "GET {p}\tHTTP/1.1",
    "GET\t{p} HTTP/1.1",
    "GET\t{p}\tHTTP/1.1",
    "GET {p}\x0bHTTP/1.1",
    "GET {p}\x0cHTTP/1.1",
    "GET  {p} HTTP/1.1",
    "GET {p}  HTTP/1.1",
    "GET {p} HTTP/1.1 ",
    "GET {p} HTTP/1.1\t",
    " GET {p} HTTP/1.1",
    "\tGET {p} HTTP/1.1",
    "\r\nGET {p} HTTP/1.1",
    "\nGET {p} HTTP/1.1",
    "\r\n\r\nGET {p} HTTP/1.1",
    "\rGET {p} HTTP/1.1",
    "\0GET {p} HTTP/1.1",
    "get {p} HTTP/1.1",
    "Get {p} HTTP/1.1",
    "GET {p} http/1.1",
    "GET {p} HTTP/1.2",
    "GET {p} HTTP/1.9",
    "GET {p} HTTP/2.0",
    "GET {p} HTTP/3.0",
    "GET {p} HTTP/0.9",
    "GET {p} HTTP/01.1",
    "GET {p} HTTP/1.01",
    "GET {p} HTTP/1",
    "GET {p} HTTP/1.",
    "GET {p} HTTP/",
    "GET {p} HTTP",
    "GET {p}",
    "GET {p} ",
    "GET {p} ICE/1.0",
    "GET {p} RTSP/1.0",
    "GET {p} x HTTP/1.1",
    "GET {p}\0 HTTP/1.1",
    "GET {p}\r HTTP/1.1",
    "GET {p} HTTP/1.1\r",
    "GET http://{h}{p} HTTP/1.1",
    "GET HTTP://{h}{p} HTTP/1.1",
    "GET https://{h}{p} HTTP/1.1",
    "GET http:/{h}{p} HTTP/1.1",
    "GET http://x@{h}{p} HTTP/1.1",
    "GET http://{h}:80{p} HTTP/1.1",
    "GET //{h}{p} HTTP/1.1",
    "GET http://{h}{p} HTTP/1.0",
    "FOO {p} HTTP/1.1",
    "G-T {p} HTTP/1.1",
    "PRI * HTTP/2.0",
    "GET {p}?\u{e9} HTTP/1.1",
    "CONNECT {h}:80 HTTP/1.1",
];

/// Header lines, without the last line's end.
const FIELDS: [&str; 44] = [
    "Host: {h}",
    "Host:{h}",
    "host: {h}",
    "HOST: {h}",
    "Host : {h}",
    "Host\t: {h}",
    " Host: {h}",
    "\tHost: {h}",
    "X: y\r\n Host: {h}",
    "Host: {h} ",
    "Host:\t{h}",
    "Host:  {h}",
    "Host: {h}\t",
    "Host: {h}:80",
    "Host: {h}:",
    "Host: {h}:0080",
    "Host: {h}.",
    "Host: x@{h}",
    "Host: {h}, {h}",
    "Host: {h}/",
    "Host: {h}?x",
    "Host: {h}#x",
    "Host: http://{h}",
    "Host: \"{h}\"",
    "Host:\r\n {h}",
    "Host: \x0b{h}",
    "Host\0: {h}",
    "Host: {h}\0x",
    "Host: \0{h}",
    "X: y\nHost: {h}",
    "X: y\rHost: {h}",
    "X: y\r\r\nHost: {h}",
    "X\r\nHost: {h}",
    ": x\r\nHost: {h}",
    "Host: {h}\r",
    "Host: {h}\n",
    "X: \0\r\nHost: {h}",
    "X: \u{80}\r\nHost: {h}",
    "Ho st: {h}\r\nHost: {h}",
    "Host; {h}\r\nHost: {h}",
    "Connection: host\r\nHost: {h}",
    "Host: {h}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
    "X-Forwarded-Host: {h}\r\nHost: {h}",
    "Host: {h}\r\nExpect: 100-continue",
];

/// What gives a body its length, and how a request to the neighbour is hidden behind it; `{l}` stands for its length,
/// `{x}` for that in hexadecimal digits, `{s}` for the request itself.
const BODIES: [&str; 46] = [
    "Content-Length: {l}\r\n\r\n{s}",
    "Content-Length: 0\r\n\r\n{s}",
    "Content-Length: {l}\r\nContent-Length: 0\r\n\r\n{s}",
    "Content-Length: 0\r\nContent-Length: {l}\r\n\r\n{s}",
    "Content-Length: 0, {l}\r\n\r\n{s}",
    "Content-Length: {l}, 0\r\n\r\n{s}",
    "Content-Length: +{l}\r\n\r\n{s}",
    "Content-Length: -{l}\r\n\r\n{s}",
    "Content-Length: 0x{x}\r\n\r\n{s}",
    "Content-Length: {l} 0\r\n\r\n{s}",
    "Content-Length: 0 {l}\r\n\r\n{s}",
    "Content-Length : {l}\r\n\r\n{s}",
    "Content-Length\t: {l}\r\n\r\n{s}",
    "Content-Length:\x0b{l}\r\n\r\n{s}",
    "Content-Length: \0{l}\r\n\r\n{s}",
    "Content-Length: {l};x\r\n\r\n{s}",
    "Content-Length:\r\n {l}\r\n\r\n{s}",
    "Content_Length: {l}\r\n\r\n{s}",
    "X: y\nContent-Length: {l}\r\n\r\n{s}",
    "Content-Length: 18446744073709551616\r\n\r\n{s}",
    "Content-Length: 1{l}\r\n\r\n{s}",
    "Content-Length:\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n{x}\r\n{s}\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\nContent-Length: {l}\r\n\r\n0\r\n\r\n{s}",
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{s}",
    "Transfer-Encoding : chunked\r\nContent-Length: {l}\r\n\r\n0\r\n\r\n{s}",
    "Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n{s}",
    "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{s}",
    "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{s}",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{s}",
    "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{s}",
    "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{s}",
    "Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n0;x=y\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n{x};x\r\n{s}\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n0\n\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n00000000000000000000\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n0\r\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n{s}",
    "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{s}",
    "Connection: Content-Length\r\nContent-Length: {l}\r\n\r\n{s}",
];

/// Whom the first oddity names, and whom the second.
const NAMES: [(&str, &str); 3] = [(GOOD, EVIL), (EVIL, GOOD), (EVIL, EVIL)];

/// Ends of lines.
const ENDS: [&str; 3] = ["\r\n", "\n", "\r"];

fn fill(text: &str, host: &str) -> String {
    let hidden = format!("GET {PATH} HTTP/1.1\r\nHost: {EVIL}\r\n\r\n");
    let (length, digits) = (hidden.len().to_string(), format!("{:x}", hidden.len()));
    let filled = text.replace("{p}", PATH).replace("{h}", host).replace("{l}", &length);
    filled.replace("{x}", &digits).replace("{s}", &hidden)
}

fn request((line, of_line): (&str, &str), (field, of_field): (&str, &str), end: &str) -> Vec<u8> {
    let text = format!("{}\r\n{}\r\n\r\n", fill(line, of_line), fill(field, of_field));
    text.replace("\r\n", end).into_bytes()
}

/// One oddity each.
pub(super) fn singles() -> impl Iterator<Item = Vec<u8>> {
    let lines = LINES.iter().map(|text| request((text, EVIL), (FIELDS[0], EVIL), ENDS[0]));
    let of_fields = FIELDS.iter().map(|text| request((LINES[0], EVIL), (text, EVIL), ENDS[0]));
    let ends = ENDS.iter().map(|end| request((LINES[0], EVIL), (FIELDS[0], EVIL), end));
    let bodies = BODIES.iter().flat_map(|text| {
        ["GET", "POST"].map(|method| {
            format!("{method} {PATH} HTTP/1.1\r\nHost: {GOOD}\r\n{}", fill(text, GOOD)).into_bytes()
        })
    });
    lines.chain(of_fields).chain(ends).chain(bodies)
}

/// Two at a time: each first line and each header, of either name; and two headers.
pub(super) fn pairs() -> impl Iterator<Item = Vec<u8>> {
    let both = LINES.iter().flat_map(move |one| {
        FIELDS.iter().flat_map(move |other| {
            NAMES.into_iter().map(move |(a, b)| request((one, a), (other, b), ENDS[0]))
        })
    });
    let twice = FIELDS.iter().flat_map(move |one| {
        FIELDS.iter().flat_map(move |other| {
            NAMES.into_iter().map(move |(a, b)| {
                let head = format!("{}\r\n{}", fill(one, a), fill(other, b));
                format!("GET {PATH} HTTP/1.1\r\n{head}\r\n\r\n").into_bytes()
            })
        })
    });
    both.chain(twice)
}

/// A generator of numbers, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }
}

/// Conversations of several requests of either name, with bytes changed here and there.
pub(super) fn random(count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let odd = b"\0\t\n\x0b\x0c\r :;,/?#@[]\\\"\x7f\x80\xff019aZ";
    (0..count).map(move |_| {
        let mut bytes = Vec::new();
        for _ in 0..=numbers.below(3) {
            // Most are good, so that something passes and what follows it counts.
            let host = if numbers.below(3) == 0 { EVIL } else { GOOD };
            let field = if numbers.below(3) == 0 { FIELDS[numbers.below(FIELDS.len())] } else { FIELDS[0] };
            match numbers.below(3) {
                0 => bytes.extend(request((LINES[numbers.below(LINES.len())], host), (field, host), ENDS[0])),
                1 => bytes.extend(request((LINES[0], host), (field, host), ENDS[0])),
                _ => {
                    let body = fill(BODIES[numbers.below(BODIES.len())], host);
                    bytes.extend(format!("POST {PATH} HTTP/1.1\r\n{}\r\n{body}", fill(field, host)).bytes());
                }
            }
        }
        for _ in 0..numbers.below(3) {
            let (at, byte) = (numbers.below(bytes.len()), odd[numbers.below(odd.len())]);
            match numbers.below(3) {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}
