//! A log as text: lines of the command, and of others beside them, so that each can be told from the others.

use aegis_api::logs::{LogEntry, LogSource, LogStream};

use super::mark::{self, Look};
use super::terminal::Filter;

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Out,
    Err,
}

/// Who wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Out,
    Err,
    Exec,
    System,
}

impl Writer {
    fn of(entry: &LogEntry) -> Writer {
        match (entry.source, entry.stream) {
            (LogSource::Server, LogStream::Stderr) => Writer::Err,
            (LogSource::Server, _) => Writer::Out,
            (LogSource::Exec, _) => Writer::Exec,
            (LogSource::System, _) => Writer::System,
        }
    }

    fn prefix(self, coloured: bool) -> &'static [u8] {
        match (self, coloured) {
            (Writer::Out, _) => b"out| ",
            (Writer::Err, _) => b"err| ",
            (Writer::Exec, false) => b"[exec] ",
            (Writer::Exec, true) => b"\x1b[36m[exec]\x1b[0m ",
            (Writer::System, false) => b"[system] ",
            (Writer::System, true) => b"\x1b[33m[system]\x1b[0m ",
        }
    }
}

/// The end of what was written somewhere: as much as tells whether a line begins behind it.
#[derive(Debug, Default, Clone)]
struct Tail(Vec<u8>);

impl Tail {
    /// Where lines begin in what comes next.
    fn beginnings(&self, bytes: &[u8]) -> Vec<usize> {
        let joined = [&self.0, bytes].concat();
        let start = self.0.is_empty().then_some(0);
        let behind = mark::beginnings(&joined).into_iter().filter_map(|at| at.checked_sub(self.0.len()));
        start.into_iter().chain(behind).collect()
    }

    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(2);
        self.0.drain(..excess);
    }

    /// Whether a line is not ended.
    fn is_open(&self) -> bool {
        self.0.last().is_some_and(|byte| *byte != b'\n')
    }
}

/// How to print.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Style {
    /// Whether standard output and standard error are terminals.
    pub(super) terminals: (bool, bool),
    /// Whether to use colours.
    pub(super) coloured: bool,
    /// Whether lines of the command get a prefix, too.
    pub(super) prefixed: bool,
}

/// Puts prefixes where lines of others than the command begin, and sees to it that none of its own looks like that.
#[derive(Debug, Default)]
pub(super) struct Printer {
    style: Style,
    /// Who wrote the line that standard output is in the middle of.
    open: Option<Writer>,
    out: Tail,
    err: Tail,
    /// Of both, as they appear where both are the same.
    both: Tail,
    /// Which was written to last.
    last: Option<To>,
    /// The beginning of a line of the command that may yet look like ours.
    held: Option<(To, Vec<u8>)>,
    /// For the command's two streams and for those of `exec`.
    filters: [Filter; 3],
    done: Vec<(To, Vec<u8>)>,
}

impl Printer {
    pub(super) fn new(style: Style) -> Printer {
        Printer { style, ..Printer::default() }
    }

    /// What to write for an entry.
    pub(super) fn print(&mut self, entry: &LogEntry) -> Vec<(To, Vec<u8>)> {
        let (writer, bytes) = (Writer::of(entry), entry.bytes());
        match writer {
            _ if bytes.is_empty() => {}
            Writer::System => self.system(&bytes),
            Writer::Out if !self.style.prefixed => self.command(To::Out, &bytes),
            Writer::Err if !self.style.prefixed => self.command(To::Err, &bytes),
            _ => self.beside(writer, &bytes),
        }
        std::mem::take(&mut self.done)
    }

    /// What is left to write.
    pub(super) fn end(&mut self) -> Vec<(To, Vec<u8>)> {
        self.release();
        self.set_back();
        std::mem::take(&mut self.done)
    }

    fn write(&mut self, to: To, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let tail = if to == To::Out { &mut self.out } else { &mut self.err };
        tail.push(bytes);
        self.both.push(bytes);
        self.last = Some(to);
        self.done.push((to, bytes.to_vec()));
    }

    /// What a place gets of a guest's bytes.
    fn fit(&mut self, to: To, filter: usize, bytes: &[u8]) -> Vec<u8> {
        let is_terminal = if to == To::Out { self.style.terminals.0 } else { self.style.terminals.1 };
        match self.filters.get_mut(filter) {
            Some(filter) if is_terminal => filter.pass(bytes),
            _ => bytes.to_vec(),
        }
    }

    /// Writes what was held back, and what nothing follows.
    fn release(&mut self) {
        let Some((to, held)) = self.held.take() else { return };
        self.write(to, &held);
        if to == To::Out {
            self.open = Some(Writer::Out);
        }
    }

    /// Writes what was held back so that whatever comes behind it later, on whichever stream, makes nothing of ours of it.
    fn write_guarded(&mut self, to: To, held: &[u8]) {
        self.write(to, &[b"\\", held].concat());
        if to == To::Out {
            self.open = Some(Writer::Out);
        }
    }

    /// The command's bytes, as they are but for a backslash where they look like what they are not.
    fn command(&mut self, to: To, bytes: &[u8]) {
        let mut bytes = self.fit(to, usize::from(to == To::Err), bytes);
        match self.held.take() {
            Some((held_to, held)) if held_to == to => bytes = [held, bytes].concat(),
            Some((held_to, held)) => self.write_guarded(held_to, &held),
            None => {}
        }
        let own = if to == To::Out { &self.out } else { &self.err };
        let mut starts = own.beginnings(&bytes);
        starts.extend(self.both.beginnings(&bytes));
        // The other stream may have put something behind its line end that nobody sees.
        starts.extend(self.last.filter(|last| *last != to).map(|_| 0));
        starts.sort_unstable();
        starts.dedup();
        let (mut out, mut from) = (Vec::with_capacity(bytes.len()), 0);
        for start in starts {
            let Some(line) = bytes.get(start..).filter(|line| !line.is_empty()) else { continue };
            match mark::look(line) {
                Look::Other => {}
                Look::Ours => {
                    out.extend_from_slice(bytes.get(from..start).unwrap_or_default());
                    out.push(b'\\');
                    from = start;
                }
                Look::Open => {
                    self.held = Some((to, line.to_vec()));
                    bytes.truncate(start);
                    break;
                }
            }
        }
        out.extend_from_slice(bytes.get(from..).unwrap_or_default());
        self.write(to, &out);
        if to == To::Out && !out.is_empty() {
            self.open = self.out.is_open().then_some(Writer::Out);
        }
    }

    /// Ends the line that somebody else is in the middle of, and their colours with it.
    fn make_way(&mut self, writer: Writer) {
        // A line of standard output ends here; one of standard error may go on later.
        match self.held.take() {
            Some((To::Err, held)) => self.write_guarded(To::Err, &held),
            held => {
                self.held = held;
                self.release();
            }
        }
        let same_terminal = self.style.terminals == (true, true);
        if self.open.is_some_and(|open| open != writer) || (same_terminal && self.err.is_open()) {
            self.write(To::Out, b"\n");
            self.open = None;
            if same_terminal {
                self.err = Tail::default();
            }
        }
    }

    fn set_back(&mut self) {
        if self.filters.iter().any(|filter| filter.coloured) {
            self.filters.iter_mut().for_each(|filter| filter.coloured = false);
            self.done.push((To::Out, b"\x1b[0m".to_vec()));
        }
    }

    /// Lines with a prefix, wherever somebody sees one begin.
    fn beside(&mut self, writer: Writer, bytes: &[u8]) {
        let filter = match writer {
            Writer::Out => 0,
            Writer::Err => 1,
            _ => 2,
        };
        let bytes = self.fit(To::Out, filter, bytes);
        self.make_way(writer);
        // Where both streams go to one place the other may have ended the line that this one is in the middle of, and put
        // something behind that nobody sees.
        if self.last == Some(To::Err) && self.out.is_open() {
            self.write(To::Out, b"\n");
        }
        let mut out = Vec::with_capacity(bytes.len() + 16);
        let mut from = 0;
        for start in self.out.beginnings(&bytes) {
            // The two bytes of a line end are one.
            if bytes.get(start).is_none_or(|byte| *byte == b'\n' && start > 0) {
                continue;
            }
            out.extend_from_slice(bytes.get(from..start).unwrap_or_default());
            out.extend_from_slice(writer.prefix(self.style.coloured));
            from = start;
        }
        out.extend_from_slice(bytes.get(from..).unwrap_or_default());
        self.set_back();
        self.write(To::Out, &out);
        self.open = self.out.is_open().then_some(writer);
    }

    /// A message of ours. What it cites of others stays within it.
    fn system(&mut self, bytes: &[u8]) {
        self.make_way(Writer::System);
        self.set_back();
        let text = String::from_utf8_lossy(bytes);
        let mut out = Vec::with_capacity(bytes.len() + 16);
        for (index, line) in text.trim_end_matches('\n').split('\n').enumerate() {
            out.extend_from_slice(Writer::System.prefix(self.style.coloured));
            if index > 0 {
                out.extend_from_slice(b"  ");
            }
            let printable = |c: char| if c.is_control() { ' ' } else { c };
            out.extend(line.chars().map(printable).collect::<String>().into_bytes());
            out.push(b'\n');
        }
        self.write(To::Out, &out);
        self.open = None;
    }
}

#[cfg(test)]
mod tests;
