//! Only what the primary wrote, from given offsets on.

use super::{LogError, LogReader, LogRecord, LogSource, LogStream};

/// The primary's records of one boot at or after given offsets; made by [`LogReader::primary_from`]. Every byte
/// comes once, even if the log holds it twice.
#[derive(Debug)]
pub struct PrimaryReader {
    reader: LogReader,
    boot: u32,
    stdout: u64,
    stderr: u64,
}

impl PrimaryReader {
    pub(super) fn new(reader: LogReader, boot: u32, stdout: u64, stderr: u64) -> Self {
        Self { reader, boot, stdout, stderr }
    }

    /// The next record, without what lies before the offset asked for. `None` where nothing follows yet, as with
    /// [`LogReader::next`]. An `offset` above the one expected means that bytes in between were rotated away.
    ///
    /// # Errors
    /// [`LogError::Open`], [`LogError::Read`].
    #[expect(clippy::should_implement_trait, reason = "no Iterator: None is not the end")]
    pub fn next(&mut self) -> Result<Option<LogRecord>, LogError> {
        while let Some(mut record) = self.reader.next()? {
            if record.source != LogSource::Primary || record.boot != self.boot {
                continue;
            }
            let wanted = match record.stream {
                LogStream::Stdout => &mut self.stdout,
                LogStream::Stderr => &mut self.stderr,
                LogStream::None => continue,
            };
            let before = wanted.saturating_sub(record.offset);
            record.skip(usize::try_from(before).unwrap_or(usize::MAX));
            if !record.payload.is_empty() {
                *wanted = record.offset.saturating_add(record.payload.len() as u64);
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

impl LogReader {
    /// Reads on from here, but only the primary's bytes of `boot`, its stdout from `stdout_offset` on and its
    /// stderr from `stderr_offset` on.
    #[must_use]
    pub fn primary_from(self, boot: u32, stdout_offset: u64, stderr_offset: u64) -> PrimaryReader {
        PrimaryReader::new(self, boot, stdout_offset, stderr_offset)
    }
}
