//! Reading a log, also while it is being written and rotated.

use std::path::PathBuf;

use super::record::View;
use super::segment::{self, SegmentReader};
use super::{LogError, LogRecord};

/// Reads one log from its oldest kept record on. Methods block on the disk (in practice: on the page cache).
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    current: Option<SegmentReader>,
    /// Records with a lower number are passed over.
    next_seq: u64,
    cut: Option<Cut>,
    /// Records with a higher number are not there yet, as far as this reader is concerned.
    last_seq: u64,
}

/// Where inside a record reading begins: behind the `newlines`-th line break from its end.
#[derive(Debug, Clone, Copy)]
struct Cut {
    seq: u64,
    newlines: usize,
}

impl LogReader {
    /// Opens the log in `dir` at its oldest kept record. A log that does not exist (yet) is an empty one.
    ///
    /// # Errors
    /// [`LogError::Open`], [`LogError::Read`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, LogError> {
        let mut reader = Self { dir: dir.into(), current: None, next_seq: 0, cut: None, last_seq: u64::MAX };
        reader.seek_seq(0)?;
        Ok(reader)
    }

    /// Has the log end behind the record numbered `seq`, however fast it grows; with `None` where it ends by then.
    pub fn set_end(&mut self, seq: Option<u64>) {
        self.last_seq = seq.unwrap_or(u64::MAX);
    }

    /// The next record. `None` where no whole record follows yet; a later call finds those written since.
    /// If rotation has overtaken the reader, it goes on with the oldest kept record, whose number then jumps.
    ///
    /// # Errors
    /// [`LogError::Open`], [`LogError::Read`].
    #[expect(clippy::should_implement_trait, reason = "no Iterator: None is not the end")]
    pub fn next(&mut self) -> Result<Option<LogRecord>, LogError> {
        loop {
            let Some(mut record) = self.advance()? else { return Ok(None) };
            match self.cut.take_if(|cut| cut.seq <= record.seq) {
                Some(cut) if cut.seq == record.seq => {
                    record.skip(behind_newline(&record.payload, cut.newlines));
                    if record.payload.is_empty() {
                        continue;
                    }
                }
                _ => {}
            }
            return Ok(Some(record));
        }
    }

    fn advance(&mut self) -> Result<Option<LogRecord>, LogError> {
        let mut successor = None;
        loop {
            if self.next_seq > self.last_seq {
                return Ok(None);
            }
            if let Some(segment) = &mut self.current {
                while let Some(view) = segment.next()? {
                    if let Some(record) = accept(&view, &mut self.next_seq) {
                        // Rotation may have taken everything up to the end.
                        return Ok(Some(record).filter(|record| record.seq <= self.last_seq));
                    }
                }
            }
            // The writer is done with a segment once it has a successor, but what it wrote to it before may
            // have come after the look above: hence another look before moving on.
            if successor.is_some() {
                self.current = successor.take();
                continue;
            }
            successor = self.find_successor()?;
            if successor.is_none() {
                return Ok(None);
            }
        }
    }

    /// The first valid segment behind the current one.
    fn find_successor(&self) -> Result<Option<SegmentReader>, LogError> {
        let current = self.current.as_ref().map(|segment| segment.header.first_seq);
        for first_seq in segment::list(&self.dir)? {
            if current.is_none_or(|current| first_seq > current)
                && let Some(segment) = SegmentReader::open(&self.dir, first_seq)?
            {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// Goes to the first kept record numbered `seq` or higher, which may not be written yet.
    ///
    /// # Errors
    /// [`LogError::Open`], [`LogError::Read`].
    pub fn seek_seq(&mut self, seq: u64) -> Result<(), LogError> {
        (self.current, self.next_seq, self.cut) = (None, seq, None);

        for first_seq in segment::list(&self.dir)?.into_iter().rev().filter(|first| *first <= seq) {
            self.current = SegmentReader::open(&self.dir, first_seq)?;
            if self.current.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Goes to where the last `lines` lines begin, counted over everything in the log up to its end; an unfinished last line
    /// counts as one. May be inside a record, whose beginning is then left out. Reads the log from its end only
    /// as far as needed, in whole segments.
    ///
    /// # Errors
    /// [`LogError::Open`], [`LogError::Read`].
    pub fn tail_lines(&mut self, lines: usize) -> Result<(), LogError> {
        let mut wanted = None;
        for first_seq in segment::list(&self.dir)?.into_iter().rev() {
            let Some(mut segment) = SegmentReader::open(&self.dir, first_seq)? else { continue };
            let found = count_lines(&mut segment, self.last_seq)?;
            let Some(&(last_seq, _)) = found.records.last() else { continue };
            if lines == 0 {
                return self.seek_seq(last_seq.saturating_add(1));
            }
            // A final line break ends the last line and begins none.
            let mut newlines = wanted.unwrap_or(lines.saturating_add(usize::from(found.finished)));
            for (seq, count) in found.records.into_iter().rev() {
                if count >= newlines {
                    self.seek_seq(seq)?;
                    self.cut = Some(Cut { seq, newlines });
                    return Ok(());
                }
                newlines -= count;
            }
            wanted = Some(newlines);
        }
        self.seek_seq(0)
    }
}

fn accept(view: &View<'_>, next_seq: &mut u64) -> Option<LogRecord> {
    (view.seq >= *next_seq).then(|| {
        *next_seq = view.seq.saturating_add(1);
        view.to_record()
    })
}

/// The records with a payload of one segment.
#[derive(Default)]
struct Lines {
    /// Number of each, and how many line breaks are in it.
    records: Vec<(u64, usize)>,
    /// Whether the last byte of all is a line break.
    finished: bool,
}

fn count_lines(segment: &mut SegmentReader, last_seq: u64) -> Result<Lines, LogError> {
    let mut lines = Lines::default();
    while let Some(view) = segment.next()? {
        if view.seq > last_seq {
            break;
        }
        if let Some(&byte) = view.payload.last() {
            // As a sum over bytes this is a vector instruction, a search per line is not.
            let count = view.payload.iter().filter(|byte| **byte == b'\n').count();
            lines.records.push((view.seq, count));
            lines.finished = byte == b'\n';
        }
    }
    Ok(lines)
}

/// The index behind the `nth` line break from the end; 0 if there are fewer.
fn behind_newline(payload: &[u8], nth: usize) -> usize {
    let newlines = payload.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    newlines.map(|(index, _)| index + 1).nth(nth.saturating_sub(1)).unwrap_or(0)
}
