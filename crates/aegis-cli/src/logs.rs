//! `aegis logs`.

use std::io::{self, IsTerminal, Write};

use aegis_api::logs::{LogEntry, LogSource, LogStream};
use aegis_client::LogQuery;

use crate::Context;
use crate::arguments::{Logs, OutputFormat};
use crate::failure::Failure;
use crate::output::{READER_GONE, pass_on};

/// Shows an instance's log.
///
/// # Errors
/// If there is none, or it cannot be printed.
pub async fn logs(context: &Context, arguments: &Logs) -> Result<i32, Failure> {
    let query = LogQuery { follow: arguments.follow, tail: arguments.tail, since: arguments.since.clone() };
    let mut lines = context.client().logs(&arguments.instance, &query).await?;
    let (mut out, mut err) = (io::stdout(), io::stderr());
    if arguments.format.output == OutputFormat::Json {
        while let Some(line) = lines.next_line().await? {
            if !pass_on(&mut out, &[&line[..], b"\n"].concat())? {
                return Ok(READER_GONE);
            }
        }
        return Ok(0);
    }
    let coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut printer = Printer::new(coloured);
    while let Some(entry) = lines.next_entry().await? {
        let bytes = printer.print(&entry);
        let to: &mut dyn Write = if entry.source == LogSource::Server && entry.stream == LogStream::Stderr {
            &mut err
        } else {
            &mut out
        };
        if !pass_on(to, &bytes)? {
            return Ok(READER_GONE);
        }
    }
    Ok(0)
}

/// Puts prefixes where lines of `exec` and of Aegis begin.
#[derive(Debug)]
struct Printer {
    coloured: bool,
    /// Who wrote the line that standard output is in the middle of.
    open: Option<LogSource>,
}

impl Printer {
    fn new(coloured: bool) -> Printer {
        Printer { coloured, open: None }
    }

    fn prefix(&self, source: LogSource) -> &'static [u8] {
        match (source, self.coloured) {
            (LogSource::Server, _) => b"",
            (LogSource::Exec, false) => b"[exec] ",
            (LogSource::Exec, true) => b"\x1b[36m[exec]\x1b[0m ",
            (LogSource::System, false) => b"[system] ",
            (LogSource::System, true) => b"\x1b[33m[system]\x1b[0m ",
        }
    }

    /// The entry's bytes with prefixes. The command's own are left as they are.
    fn print(&mut self, entry: &LogEntry) -> Vec<u8> {
        let bytes = entry.bytes();
        if entry.source == LogSource::Server && entry.stream == LogStream::Stderr {
            return bytes;
        }
        let mut out = Vec::with_capacity(bytes.len() + 16);
        let continues = self.open == Some(entry.source);
        if self.open.is_some() && !continues && entry.source != LogSource::Server {
            out.push(b'\n');
        }
        let mut at_start = !continues;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if at_start {
                out.extend_from_slice(self.prefix(entry.source));
            }
            out.extend_from_slice(line);
            at_start = line.ends_with(b"\n");
        }
        self.open = if at_start { None } else { Some(entry.source) };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(source: LogSource, text: &str) -> LogEntry {
        LogEntry {
            seq: 1,
            ts: String::new(),
            source,
            stream: LogStream::Stdout,
            instance_id: String::new(),
            exec_id: None,
            data: Some(text.to_owned()),
            data_base64: None,
        }
    }

    #[test]
    fn prefixes_stand_where_lines_begin_and_nowhere_else() {
        let mut printer = Printer::new(false);
        let mut text = Vec::new();
        for (source, part) in [
            (LogSource::Server, "plain\n"),
            (LogSource::Exec, "one\ntw"),
            (LogSource::Exec, "o\n"),
            (LogSource::System, "boot\n"),
            (LogSource::Server, "half"),
            (LogSource::System, "stop\n"),
        ] {
            text.extend(printer.print(&entry(source, part)));
        }
        let expected = "plain\n[exec] one\n[exec] two\n[system] boot\nhalf\n[system] stop\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn colours_are_cyan_and_yellow() {
        let mut printer = Printer::new(true);
        assert!(printer.print(&entry(LogSource::Exec, "x\n")).starts_with(b"\x1b[36m[exec]"));
        assert!(printer.print(&entry(LogSource::System, "x\n")).starts_with(b"\x1b[33m[system]"));
    }
}
