//! Where a message's body ends (RFC 9112, 6 and 7).

/// Longest line that gives a chunk's size, or of a trailer.
const MOST_LINE: usize = 8 << 10;
/// Most digits of a chunk's size.
const MOST_DIGITS: usize = 15;

/// What follows of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// The size of a chunk.
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end after its bytes.
    ChunkEnd,
    /// Lines after the last chunk, until an empty one.
    Trailer,
    /// All until the connection ends.
    UntilClose,
}

impl Framing {
    /// A message without a body, or the end of one.
    pub(super) const NOTHING: Framing = Framing::Length(0);

    /// How many bytes at the front belong to it; `None` if more are needed to tell.
    ///
    /// # Errors
    /// Why servers may differ about it.
    pub(super) fn advance(&mut self, rest: &[u8]) -> Result<Option<usize>, &'static str> {
        match *self {
            Framing::Length(left) => {
                let count = left.min(rest.len() as u64);
                *self = Framing::Length(left - count);
                Ok(Some(usize::try_from(count).unwrap_or(rest.len())))
            }
            Framing::Chunk(left) => {
                let count = left.min(rest.len() as u64);
                *self = if left == count { Framing::ChunkEnd } else { Framing::Chunk(left - count) };
                Ok(Some(usize::try_from(count).unwrap_or(rest.len())))
            }
            Framing::UntilClose => Ok(Some(rest.len())),
            Framing::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    *self = Framing::ChunkSize;
                    Ok(Some(2))
                }
                [] | [b'\r'] => Ok(None),
                _ => Err("a chunk that is longer than its size"),
            },
            Framing::ChunkSize => {
                let Some((line, length)) = line(rest)? else { return Ok(None) };
                *self = match chunk_size(line).ok_or("a malformed size of a chunk")? {
                    0 => Framing::Trailer,
                    size => Framing::Chunk(size),
                };
                Ok(Some(length))
            }
            Framing::Trailer => {
                let Some((line, length)) = line(rest)? else { return Ok(None) };
                if line.is_empty() {
                    *self = Framing::NOTHING;
                } else {
                    let (name, _) = field(line)?;
                    if is_critical(&name) {
                        return Err("a trailer that belongs into the head");
                    }
                }
                Ok(Some(length))
            }
        }
    }
}

/// The first line without its end, and its length with it; bare line feeds and carriage returns are refused, because
/// servers differ about them.
pub(super) fn line(rest: &[u8]) -> Result<Option<(&[u8], usize)>, &'static str> {
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
        return if rest.len() > MOST_LINE { Err("a line that is too long") } else { Ok(None) };
    };
    let line = rest.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or("a bare line feed")?;
    if line.contains(&b'\r') { Err("a bare carriage return") } else { Ok(Some((line, end + 1))) }
}

/// The size at the beginning of a line. Extensions are tokens, with a value or without.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let mut parts = line.split(|byte| *byte == b';');
    let digits = std::str::from_utf8(parts.next()?).ok()?;
    let is_number =
        (1..=MOST_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let extensions = parts.all(|part| {
        let mut words = part.splitn(2, |byte| *byte == b'=');
        words.all(|word| !word.is_empty() && word.iter().copied().all(is_token))
    });
    u64::from_str_radix(digits, 16).ok().filter(|_| is_number && extensions)
}

/// A character of a token (RFC 9110, 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Name, in lower case, and value of a field line (RFC 9112, 5). No line is folded, nothing stands before the colon.
pub(super) fn field(line: &[u8]) -> Result<(String, &str), &'static str> {
    let malformed = "a malformed header";
    let colon = line.iter().position(|byte| *byte == b':').ok_or(malformed)?;
    let (name, value) = line.split_at_checked(colon).ok_or(malformed)?;
    let legal = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    let value = value.get(1..).filter(|value| value.iter().all(legal)).ok_or(malformed)?;
    let is_name = !name.is_empty() && name.iter().copied().all(is_token);
    let name = std::str::from_utf8(name).ok().filter(|_| is_name).ok_or(malformed)?;
    // Text in other encodings is of no interest here.
    let value = std::str::from_utf8(value).unwrap_or("\u{fffd}");
    Ok((name.to_ascii_lowercase(), value))
}

/// Whether a header decides whose a message is, or where it ends.
pub(crate) fn is_critical(name: &str) -> bool {
    matches!(name, "host" | "content-length" | "transfer-encoding" | "upgrade" | "connection")
}

/// The only length that a message gives: digits and nothing else.
pub(crate) fn content_length(value: &str) -> Option<u64> {
    let digits = value.trim_matches(' ');
    let legal = (1..=18).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| legal)
}
