//! Frames of HTTP/2 (RFC 9113, 4.1 and 6), as far as they matter here.

/// Length of a frame's header, bytes.
pub(super) const HEADER: usize = 9;
/// Longest frame but one of a body, bytes: what every server takes (RFC 9113, 4.2). More is for bodies only.
const MOST_LENGTH: usize = 16 << 10;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const DATA_TYPE: u8 = 0;
const HEADERS_TYPE: u8 = 1;
const RST_STREAM_TYPE: u8 = 3;
const SETTINGS_TYPE: u8 = 4;
const CONTINUATION_TYPE: u8 = 9;
/// The types of frames that say nothing of requests: priorities, settings, pings, the end, windows.
const CONTROL_TYPES: [u8; 6] = [2, SETTINGS_TYPE, 6, 7, 8, 0x10];

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A part of a body.
    Data,
    /// The fields of a request.
    Headers,
    /// The end of a request that is given up.
    Reset,
    /// Something about the connection.
    Control,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: usize,
    pub(super) stream: u32,
    kind: u8,
    flags: u8,
}

impl Header {
    /// Reads it; `None` if it is not whole.
    pub(super) fn parse(bytes: &[u8]) -> Option<Header> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEADER>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Header { length, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1), kind, flags })
    }

    /// What it is.
    pub(super) fn kind(&self) -> Result<Kind, &'static str> {
        let kind = match self.kind {
            DATA_TYPE => Kind::Data,
            HEADERS_TYPE => Kind::Headers,
            RST_STREAM_TYPE => Kind::Reset,
            other if CONTROL_TYPES.contains(&other) => Kind::Control,
            _ => return Err("a frame of HTTP/2 that no client sends here"),
        };
        if kind != Kind::Data && self.length > MOST_LENGTH {
            return Err("a frame of HTTP/2 that is too long");
        }
        let of_a_stream = kind != Kind::Control;
        // Clients' streams have odd numbers.
        if of_a_stream && self.stream.is_multiple_of(2) {
            return Err("a stream of HTTP/2 that no client has");
        }
        Ok(kind)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn ends_stream(&self) -> bool {
        self.has(END_STREAM)
    }

    /// How much of a part of a body is content; `None` if more has to be there to tell.
    pub(super) fn content_length(&self, bytes: &[u8]) -> Result<Option<u64>, &'static str> {
        if !self.has(PADDED) {
            return Ok(Some(self.length as u64));
        }
        let Some(padding) = bytes.get(HEADER) else {
            return if self.length == 0 { Err("padding without its length") } else { Ok(None) };
        };
        let content = self.length.checked_sub(1 + usize::from(*padding));
        content.map(|content| Some(content as u64)).ok_or("more padding than there is")
    }

    /// The fields in a whole frame, without what is around them.
    fn fragment<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let (mut payload, mut padding) = (payload, 0);
        if self.has(PADDED) {
            let (length, rest) = payload.split_first().ok_or("padding without its length")?;
            (payload, padding) = (rest, usize::from(*length));
        }
        if self.has(PRIORITY) {
            payload = payload.get(5..).ok_or("a priority that is cut short")?;
        }
        let end = payload.len().checked_sub(padding).ok_or("more padding than there is")?;
        payload.get(..end).ok_or("more padding than there is")
    }
}

/// Whether a server's first bytes begin its settings; `None` if they are too few to tell.
pub(super) fn settings_begin(bytes: &[u8]) -> Option<bool> {
    // 4,096 settings are more than there are; and what is no frame at all is told by the first byte.
    let legal = |header: &Header| {
        header.kind == SETTINGS_TYPE
            && header.flags == 0
            && header.stream == 0
            && header.length.is_multiple_of(6)
            && header.length <= MOST_LENGTH
    };
    match (bytes.first(), Header::parse(bytes)) {
        (Some(first), _) if *first != 0 => Some(false),
        (_, Some(header)) => Some(legal(&header)),
        _ => None,
    }
}

/// The fields that begin with this frame, and how many bytes their frames take; `None` if they are not all there.
pub(super) fn block(
    first: &Header,
    bytes: &[u8],
    most: usize,
) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let mut fragments = Vec::new();
    let (mut header, mut at) = (*first, 0);
    for _ in 0..=most {
        let Some(payload) = bytes.get(at + HEADER..at + HEADER + header.length) else { return Ok(None) };
        fragments.extend_from_slice(if at == 0 { header.fragment(payload)? } else { payload });
        at += HEADER + header.length;
        if header.has(END_HEADERS) {
            return Ok(Some((fragments, at)));
        }
        let Some(next) = bytes.get(at..).and_then(Header::parse) else { return Ok(None) };
        if next.kind != CONTINUATION_TYPE || next.stream != first.stream || next.length > MOST_LENGTH {
            return Err("fields of HTTP/2 that are interrupted");
        }
        header = next;
    }
    Err("fields of HTTP/2 in too many frames")
}
