//! The first message of a TLS client (RFC 8446, 4.1.2; names: RFC 6066, 3).

use aegis_policy::Name;

use super::Claim;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Longest payload of a record.
const MOST_RECORD: usize = 16 << 10;

/// Reads along a slice; `None` past its end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)))
    }

    /// What follows a length of so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<Reader<'a>> {
        let length = self.number(length_bytes)?;
        self.take(length).map(Reader)
    }
}

/// The message's bytes out of their records; `None` if it is not whole yet.
fn message(bytes: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut reader = Reader(bytes);
    let mut handshake: Vec<u8> = Vec::new();
    loop {
        if let [kind, a, b, c, body @ ..] = handshake.as_slice() {
            if *kind != CLIENT_HELLO {
                return Err("a TLS connection that does not begin with a ClientHello");
            }
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if let Some(body) = body.get(..length) {
                return Ok(Some(body.to_vec()));
            }
        }
        let Some(kind) = reader.number(1) else { return Ok(None) };
        let Some(version) = reader.number(2) else { return Ok(None) };
        let Some(length) = reader.number(2) else { return Ok(None) };
        if kind != usize::from(HANDSHAKE) || version >> 8 != 3 || length == 0 || length > MOST_RECORD {
            return Err("a malformed TLS record");
        }
        match reader.take(length) {
            Some(payload) => handshake.extend_from_slice(payload),
            None => return Ok(None),
        }
    }
}

fn extensions<'a>(hello: &'a [u8]) -> Option<Reader<'a>> {
    let mut reader = Reader(hello);
    reader.take(2 + 32)?;
    reader.vector(1)?;
    reader.vector(2)?;
    reader.vector(1)?;
    if reader.0.is_empty() { Some(Reader(&[])) } else { reader.vector(2) }
}

/// The name of an extension's list.
fn host_name(list: Reader<'_>) -> Option<&[u8]> {
    let mut body = list;
    let mut entries = body.vector(2)?;
    let kind = entries.number(1)?;
    let name = entries.vector(2)?;
    // One name of the only kind that there is.
    (kind == usize::from(HOST_NAME) && entries.0.is_empty() && body.0.is_empty()).then_some(name.0)
}

/// The name that the client asks for; the outer `None` if more bytes are needed.
pub(super) fn server_name(bytes: &[u8]) -> Result<Option<Claim>, &'static str> {
    let malformed = "a malformed TLS ClientHello";
    let Some(hello) = message(bytes)? else { return Ok(None) };
    let mut all = extensions(&hello).ok_or(malformed)?;
    let mut found = None;
    while !all.0.is_empty() {
        let kind = all.number(2).ok_or(malformed)?;
        let body = all.vector(2).ok_or(malformed)?;
        if kind == usize::from(SERVER_NAME) {
            let name = host_name(body).ok_or(malformed)?;
            if found.replace(name).is_some() {
                return Err("two names in a TLS ClientHello");
            }
        }
    }
    let Some(name) = found else { return Ok(Some(None)) };
    let text = std::str::from_utf8(name).map_err(|_| malformed)?;
    Name::new(text).map(|name| Some(Some(name))).map_err(|_| malformed)
}
