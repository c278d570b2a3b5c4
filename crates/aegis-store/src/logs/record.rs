//! One record as bytes; see the module's head for the layout.

use bytes::Bytes;

use super::{LogRecord, LogSource, LogStream, MAX_EXEC_ID, MAX_PAYLOAD, NewRecord};

const MAGIC: [u8; 4] = *b"ALR1";

/// Bytes before the exec id.
pub(super) const FIXED: usize = 44;

/// The longest record.
pub(super) const MAX_RECORD: usize = FIXED + MAX_EXEC_ID + MAX_PAYLOAD;

/// Where the CRC ends and what it covers begins.
const COVERED: usize = 8;

/// The bytes of a record that come before its payload.
pub(super) struct Head {
    bytes: [u8; FIXED + MAX_EXEC_ID],
    used: usize,
}

impl Head {
    /// `None` if the exec id or the payload is too long.
    pub(super) fn new(seq: u64, record: &NewRecord<'_>) -> Option<Self> {
        let exec = record.exec.unwrap_or_default().as_bytes();
        let exec_length = u8::try_from(exec.len()).ok()?;
        let used = FIXED + exec.len();
        let total = u32::try_from(used + record.payload.len()).ok()?;
        if exec.len() > MAX_EXEC_ID || record.payload.len() > MAX_PAYLOAD {
            return None;
        }
        let mut head = Self { bytes: [0; FIXED + MAX_EXEC_ID], used: 0 };
        head.put(&MAGIC);
        head.put(&[0; 4]);
        head.put(&total.to_le_bytes());
        head.put(&seq.to_le_bytes());
        head.put(&record.at_ms.to_le_bytes());
        head.put(&record.boot.to_le_bytes());
        head.put(&record.offset.to_le_bytes());
        head.put(&[source_code(record.source), stream_code(record.stream), exec_length, 0]);
        head.put(exec);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head.bytes[COVERED..head.used]);
        crc.update(record.payload);
        head.bytes[4..COVERED].copy_from_slice(&crc.finalize().to_le_bytes());
        Some(head)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    fn put(&mut self, part: &[u8]) {
        self.bytes[self.used..self.used + part.len()].copy_from_slice(part);
        self.used += part.len();
    }
}

/// A whole, valid record inside a buffer.
pub(super) struct View<'a> {
    pub(super) seq: u64,
    pub(super) at_ms: u64,
    pub(super) boot: u32,
    pub(super) source: LogSource,
    pub(super) stream: LogStream,
    pub(super) exec: &'a str,
    pub(super) offset: u64,
    pub(super) payload: &'a [u8],
}

impl View<'_> {
    pub(super) fn to_record(&self) -> LogRecord {
        LogRecord {
            seq: self.seq,
            at_ms: self.at_ms,
            boot: self.boot,
            source: self.source,
            stream: self.stream,
            exec: (!self.exec.is_empty()).then(|| self.exec.to_owned()),
            offset: self.offset,
            payload: Bytes::copy_from_slice(self.payload),
        }
    }

    /// The offset behind the payload's last byte.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.payload.len() as u64)
    }
}

/// What a buffer begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// A whole, valid record of this many bytes.
    Whole(usize),
    /// Perhaps a record, which can be judged when this many bytes are there.
    Short(usize),
    /// No record.
    Bad,
}

/// Judges the record that `buffer` begins with.
pub(super) fn check(buffer: &[u8]) -> Check {
    let Some((prefix, rest)) = buffer.split_first_chunk::<FIXED>() else { return Check::Short(FIXED) };
    let mut fields = &prefix[..];
    let (Some(magic), Some(crc), Some(length)) =
        (take::<4>(&mut fields), take::<4>(&mut fields), take::<4>(&mut fields))
    else {
        return Check::Bad;
    };
    let total = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if magic != MAGIC || !(FIXED..=MAX_RECORD).contains(&total) {
        return Check::Bad;
    }
    if rest.len() < total - FIXED {
        return Check::Short(total);
    }
    let record = &buffer[..total];
    if crc32fast::hash(&record[COVERED..]) != u32::from_le_bytes(crc) || parse(record).is_none() {
        return Check::Bad;
    }
    Check::Whole(total)
}

/// The fields of a whole record, which [`check`] has found to be one.
pub(super) fn parse(record: &[u8]) -> Option<View<'_>> {
    let mut rest = record.get(COVERED + 4..)?;
    let seq = u64::from_le_bytes(take(&mut rest)?);
    let at_ms = u64::from_le_bytes(take(&mut rest)?);
    let boot = u32::from_le_bytes(take(&mut rest)?);
    let offset = u64::from_le_bytes(take(&mut rest)?);
    let [source, stream, exec_length, _] = take(&mut rest)?;
    let (exec, payload) = rest.split_at_checked(usize::from(exec_length))?;
    Some(View {
        seq,
        at_ms,
        boot,
        source: source_of(source)?,
        stream: stream_of(stream)?,
        exec: std::str::from_utf8(exec).ok()?,
        offset,
        payload,
    })
}

/// Takes the next `N` bytes off the front.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

fn source_code(source: LogSource) -> u8 {
    match source {
        LogSource::Primary => 0,
        LogSource::Exec => 1,
        LogSource::System => 2,
    }
}

fn source_of(code: u8) -> Option<LogSource> {
    [LogSource::Primary, LogSource::Exec, LogSource::System].into_iter().find(|s| source_code(*s) == code)
}

fn stream_code(stream: LogStream) -> u8 {
    match stream {
        LogStream::None => 0,
        LogStream::Stdout => 1,
        LogStream::Stderr => 2,
    }
}

fn stream_of(code: u8) -> Option<LogStream> {
    [LogStream::None, LogStream::Stdout, LogStream::Stderr].into_iter().find(|s| stream_code(*s) == code)
}
