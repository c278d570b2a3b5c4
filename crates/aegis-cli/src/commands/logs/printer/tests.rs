use LogSource::{Exec, Server, System};
use proptest::prelude::*;

use super::*;

fn entry(source: LogSource, stream: LogStream, text: &[u8]) -> LogEntry {
    let (data, data_base64) = aegis_api::logs::encode(text);
    LogEntry {
        seq: 1,
        ts: String::new(),
        source,
        stream,
        instance_id: String::new(),
        exec_id: None,
        data,
        data_base64,
    }
}

/// Standard output and standard error, and both as they appear where both are the same.
fn printed(style: Style, entries: &[(LogSource, LogStream, &str)]) -> [String; 3] {
    let mut printer = Printer::new(style);
    let mut all: Vec<(To, Vec<u8>)> = Vec::new();
    for (source, stream, text) in entries {
        all.extend(printer.print(&entry(*source, *stream, text.as_bytes())));
    }
    all.extend(printer.end());
    [Some(To::Out), Some(To::Err), None].map(|wanted| {
        let parts = all.iter().filter(|(to, _)| wanted.is_none_or(|wanted| wanted == *to));
        let bytes: Vec<u8> = parts.flat_map(|(_, bytes)| bytes.clone()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn plain(entries: &[(LogSource, &str)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(source, text)| (*source, LogStream::Stdout, *text)).collect();
    let [out, ..] = printed(Style::default(), &entries);
    out
}

const TERMINAL: Style = Style { terminals: (true, true), coloured: true, prefixed: false };

#[test]
fn prefixes_stand_where_lines_begin_and_nowhere_else() {
    let text = plain(&[
        (Server, "plain\n"),
        (Exec, "one\ntw"),
        (Exec, "o\n"),
        (System, "boot\n"),
        (Server, "half"),
        (System, "stop\n"),
    ]);
    assert_eq!(text, "plain\n[exec] one\n[exec] two\n[system] boot\nhalf\n[system] stop\n");
}

#[test]
fn colours_are_cyan_and_yellow() {
    let [out, ..] =
        printed(TERMINAL, &[(Exec, LogStream::Stdout, "x\n"), (System, LogStream::Stdout, "y\n")]);
    assert_eq!(out, "\x1b[36m[exec]\x1b[0m x\n\x1b[33m[system]\x1b[0m y\n");
}

#[test]
fn a_guest_cannot_speak_for_us_however_it_writes() {
    for (parts, expected) in [
        (&["[system] boot 2\n"][..], "\\[system] boot 2\n"),
        (&["\\[system] boot 2\n"], "\\\\[system] boot 2\n"),
        (&["a\n[exec] x\nb\n"], "a\n\\[exec] x\nb\n"),
        (&["[sys", "tem] x\n"], "\\[system] x\n"),
        (&["a\n", "[", "exec]", " x\n"], "a\n\\[exec] x\n"),
        (&["50%\r[system] x\n"], "50%\r\\[system] x\n"),
        (&["50%\r", "[system] x\n"], "50%\r\\[system] x\n"),
        (&["a\u{2028}[system] x\n"], "a\u{2028}\\[system] x\n"),
        (&["\x1b[33m[system]\x1b[0m x\n"], "\\\x1b[33m[system]\x1b[0m x\n"),
        (&["\u{200b}[system] x\n"], "\\\u{200b}[system] x\n"),
        // And nothing else is touched.
        (&["a [system] b\n[error] x\n[", "sys]\n", "["], "a [system] b\n[error] x\n[sys]\n["),
    ] {
        let entries: Vec<_> = parts.iter().map(|part| (Server, *part)).collect();
        assert_eq!(plain(&entries), expected, "{parts:?}");
    }
    // In the middle of its line when we speak.
    assert_eq!(
        plain(&[(Server, "half"), (System, "stop"), (Server, "[system] x\n")]),
        "half\n[system] stop\n\\[system] x\n"
    );
    assert_eq!(
        plain(&[(Server, "[sys"), (System, "stop"), (Server, "tem] x\n")]),
        "[sys\n[system] stop\ntem] x\n"
    );
    // What we cite, and what `exec` writes.
    assert_eq!(
        plain(&[(System, "it said: a\n[system] b\r\x1b[2J")]),
        "[system] it said: a\n[system]   [system] b  [2J\n"
    );
    assert_eq!(plain(&[(Exec, "a\r[system] b\r\nc")]), "[exec] a\r[exec] [system] b\r\n[exec] c");
}

#[test]
fn two_streams_of_a_guest_do_not_speak_for_us_together() {
    let both = |entries: &[(LogStream, &str)]| {
        let entries: Vec<_> = entries.iter().map(|(stream, text)| (Server, *stream, *text)).collect();
        printed(Style::default(), &entries)
    };
    let (out, err) = (LogStream::Stdout, LogStream::Stderr);
    let [_, of_err, _] = both(&[(out, "open"), (err, "[system] x\n")]);
    assert_eq!(of_err, "\\[system] x\n");
    let [.., merged] = both(&[(out, "[sys"), (err, "tem] x\n")]);
    assert_eq!(merged, "\\[system] x\n");
    let [.., merged] = both(&[(out, "open"), (err, "x\n"), (out, "[system] y\n")]);
    assert_eq!(merged, "openx\n\\[system] y\n");
}

#[test]
fn a_terminal_gets_text_and_colours_and_ours_are_ours() {
    let server = |text| (Server, LogStream::Stdout, text);
    let system = (System, LogStream::Stdout, "stop");
    let [out, ..] = printed(TERMINAL, &[server("\x1b[8mhidden"), system]);
    assert_eq!(out, "\x1b[8mhidden\n\x1b[0m\x1b[33m[system]\x1b[0m stop\n");
    let [out, ..] = printed(TERMINAL, &[system, server("\x1b[A\x1b[2K\x1b[33m[system]\x1b[0m boot 9\n")]);
    assert!(out.contains("stop\n\\\x1b[33m[system]\x1b[0m boot 9\n"), "{out:?}");
    let [.., both] = printed(TERMINAL, &[(Server, LogStream::Stderr, "open"), system]);
    assert!(both.starts_with("open\n\x1b[33m[system]"), "{both:?}");
    // Elsewhere the command's bytes are its own.
    assert_eq!(plain(&[(Server, "\x1b[A\x1b]0;t\x07\n")]), "\x1b[A\x1b]0;t\x07\n");
}

#[test]
fn each_line_says_who_wrote_it_if_that_is_wanted() {
    let style = Style { prefixed: true, ..Style::default() };
    let [out, err, _] = printed(
        style,
        &[
            (Server, LogStream::Stdout, "a\n[system] b\nhalf"),
            (Server, LogStream::Stderr, "c\r[exec] d\n"),
            (Exec, LogStream::Stdout, "e\n"),
            (System, LogStream::Stdout, "stop\n"),
        ],
    );
    let expected = "out| a\nout| [system] b\nout| half\nerr| c\rerr| [exec] d\n[exec] e\n[system] stop\n";
    assert_eq!((out.as_str(), err.as_str()), (expected, ""));
}

proptest! {
    #[test]
    fn our_lines_are_exactly_ours(
        parts in proptest::collection::vec((0usize..4, "(\\[system\\]|\\[sys|tem\\]|\\[exec\\]|\\\\|\n|\r|a|\x1b\\[m){0,5}"), 0..12),
        prefixed in any::<bool>(),
    ) {
        let entries: Vec<_> = parts.iter().map(|(who, text)| match who {
            0 => (Server, LogStream::Stdout, text.as_str()),
            1 => (Server, LogStream::Stderr, text.as_str()),
            2 => (Exec, LogStream::Stdout, text.as_str()),
            _ => (System, LogStream::Stdout, "ours"),
        }).collect();
        let ours = parts.iter().filter(|(who, _)| *who == 3).count();
        let [out, err, both] = printed(Style { prefixed, ..Style::default() }, &entries);
        let count = |text: &str| text.split(['\n', '\r']).filter(|line| line.replace("\x1b[m", "").starts_with("[system]")).count();
        prop_assert_eq!(count(&out), ours, "{:?}", out);
        prop_assert_eq!(count(&err), 0, "{:?}", err);
        prop_assert!(count(&both) <= ours, "{:?}", both);
    }
}
