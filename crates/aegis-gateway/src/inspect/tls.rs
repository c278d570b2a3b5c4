//! The first messages of a TLS connection (RFC 8446, 4.1; names: RFC 6066, 3), as far as they say which name is meant.

use aegis_policy::Name;

use crate::inspect::claim::Claim;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;
/// Level of an alert after which nothing follows.
const FATAL: u8 = 2;
/// Longest payload of a record; one that is encrypted is a little longer.
const MOST_RECORD: usize = 16 << 10;
const MOST_ENCRYPTED: usize = MOST_RECORD + 256;
/// Longest session identifier.
const MOST_SESSION: usize = 32;
/// What a server says at random that wants another ClientHello (RFC 8446, 4.1.3).
pub(super) const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

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

/// The kind and the payload of the first record; `None` if it is not whole.
fn record<'a>(reader: &mut Reader<'a>) -> Result<Option<(u8, &'a [u8])>, &'static str> {
    let malformed = "a malformed TLS record";
    let (Some(kind), rest) = (reader.0.first().copied(), reader.0.get(1..).unwrap_or_default()) else {
        return Ok(None);
    };
    if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind) || rest.first().is_some_and(|byte| *byte != 3)
    {
        return Err(malformed);
    }
    let mut body = Reader(rest);
    let (Some(_), Some(length)) = (body.number(2), body.number(2)) else { return Ok(None) };
    let most = if kind == APPLICATION_DATA { MOST_ENCRYPTED } else { MOST_RECORD };
    if length == 0 || length > most {
        return Err(malformed);
    }
    let Some(payload) = body.take(length) else { return Ok(None) };
    *reader = body;
    Ok(Some((kind, payload)))
}

/// The message at the front, out of its records, which hold nothing else; `None` if it is not whole yet.
fn client_hello(reader: &mut Reader<'_>) -> Result<Option<Vec<u8>>, &'static str> {
    let mut handshake: Vec<u8> = Vec::new();
    loop {
        if let [kind, a, b, c, body @ ..] = handshake.as_slice() {
            if *kind != CLIENT_HELLO {
                return Err("a TLS connection that does not begin with a ClientHello");
            }
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if body.len() > length {
                return Err("more than a ClientHello in its records");
            }
            if body.len() == length {
                return Ok(Some(body.to_vec()));
            }
        }
        if reader.0.first().is_some_and(|kind| *kind != HANDSHAKE) {
            return Err("a TLS connection that does not begin with a ClientHello");
        }
        match record(reader)? {
            None => return Ok(None),
            Some((_, payload)) => handshake.extend_from_slice(payload),
        }
    }
}

/// The extensions of a ClientHello, which is well-formed up to them.
fn extensions(hello: &[u8]) -> Option<Reader<'_>> {
    let mut reader = Reader(hello);
    let version = reader.number(2).filter(|version| version >> 8 == 3);
    reader.take(32)?;
    let session = reader.vector(1)?.0.len();
    let suites = reader.vector(2)?.0.len();
    let compression = reader.vector(1)?.0.len();
    let legal = session <= MOST_SESSION && suites >= 2 && suites.is_multiple_of(2) && compression >= 1;
    if version.is_none() || !legal {
        return None;
    }
    if reader.0.is_empty() {
        return Some(Reader(&[]));
    }
    reader.vector(2).filter(|_| reader.0.is_empty())
}

/// The name of an extension's list.
fn host_name(list: Reader<'_>) -> Option<&[u8]> {
    let mut body = list;
    let mut entries = body.vector(2)?;
    let kind = entries.number(1)?;
    let name = entries.vector(2)?;
    // One name of the only kind that there is.
    (kind == HOST_NAME && entries.0.is_empty() && body.0.is_empty()).then_some(name.0)
}

/// The name in a ClientHello.
fn name(hello: &[u8]) -> Option<Claim> {
    let mut all = extensions(hello)?;
    let (mut found, mut kinds) = (None, Vec::new());
    while !all.0.is_empty() {
        let kind = all.number(2)?;
        let body = all.vector(2)?;
        // Servers differ about which of two counts.
        if kinds.contains(&kind) {
            return None;
        }
        kinds.push(kind);
        if kind == SERVER_NAME {
            found = Some(host_name(body)?);
        }
    }
    match found {
        None => Some(None),
        // No dot at its end (RFC 6066, 3).
        Some(name) if name.ends_with(b".") => None,
        Some(name) => std::str::from_utf8(name).ok().and_then(|text| Name::new(text).ok()).map(Some),
    }
}

/// The name that the client asks for, and how many bytes that took; `None` if more are needed.
pub(super) fn server_name(bytes: &[u8]) -> Result<Option<(Claim, usize)>, &'static str> {
    let mut reader = Reader(bytes);
    let Some(hello) = client_hello(&mut reader)? else { return Ok(None) };
    let claim = name(&hello).ok_or("a malformed TLS ClientHello")?;
    Ok(Some((claim, bytes.len() - reader.0.len())))
}

/// The name that the client asks for again, after what it may have sent before it knew that it has to.
pub(super) fn server_name_again(bytes: &[u8]) -> Result<Option<Claim>, &'static str> {
    let mut reader = Reader(bytes);
    while reader.0.first().is_some_and(|kind| *kind != HANDSHAKE) {
        match record(&mut reader)? {
            None => return Ok(None),
            Some((CHANGE_CIPHER_SPEC, [1]) | (APPLICATION_DATA, _)) => {}
            Some(_) => return Err("a TLS connection without the ClientHello that the server wants"),
        }
    }
    Ok(server_name(reader.0)?.map(|(claim, _)| claim))
}

/// What a server makes of a ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It takes it, or ends the connection.
    Taken,
    /// It wants another one.
    Retry,
    /// It speaks something else.
    Other,
}

/// Reads a server's first words; `None` if more bytes are needed.
pub(super) fn answer(bytes: &[u8]) -> Option<Answer> {
    let mut reader = Reader(bytes);
    loop {
        // Its first message is long, and need not be whole.
        if let [HANDSHAKE, 3, _, _, _, rest @ ..] = reader.0 {
            let random = match rest.first() {
                None => return None,
                Some(&SERVER_HELLO) => rest.get(6..38)?,
                Some(_) => return Some(Answer::Other),
            };
            return Some(if random == RETRY { Answer::Retry } else { Answer::Taken });
        }
        match record(&mut reader) {
            Ok(None) => return None,
            Ok(Some((ALERT, [FATAL, _]))) => return Some(Answer::Taken),
            Ok(Some((ALERT, [_, _]))) => {}
            Ok(Some(_)) | Err(_) => return Some(Answer::Other),
        }
    }
}
