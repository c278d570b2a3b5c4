//! Which of a guest's lines look like one of ours.
//!
//! Lines of the command stand beside lines that begin with `[system]` and `[exec]`. One that looks like such a line to a
//! program or to a person gets a backslash before it, and so does one that begins with backslashes and then looks like
//! that, so that nothing is said twice.

/// What our lines begin with.
const TAGS: [&[u8]; 2] = [b"[system]", b"[exec]"];
/// How far a line's beginning is looked at: whoever hides more before it is up to something.
const FARTHEST: usize = 512;

/// Whether a line looks like ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Ours,
    Other,
    /// More of it is needed to tell.
    Open,
}

/// Looks at the beginning of a line.
///
/// Compared is only what is left of it without what steers a terminal, blanks, and whatever is not ASCII: which characters
/// are not seen, or stand where another one does, differs from terminal to terminal. A line too many with a backslash is no
/// harm.
pub(super) fn look(line: &[u8]) -> Look {
    // Some terminals take the control characters of two bytes for escape sequences, others show nothing for them.
    match (look_past(line, true), look_past(line, false)) {
        (Look::Ours, _) | (_, Look::Ours) => Look::Ours,
        (Look::Open, _) | (_, Look::Open) => Look::Open,
        (Look::Other, Look::Other) => Look::Other,
    }
}

fn look_past(line: &[u8], two_bytes_steer: bool) -> Look {
    let mut tags = TAGS.to_vec();
    let (mut at, mut seen) = (0, 0);
    loop {
        let Some(rest) = line.get(at..).filter(|rest| !rest.is_empty()) else { return Look::Open };
        if at > FARTHEST {
            return Look::Ours;
        }
        match unseen(rest, two_bytes_steer) {
            Some(0) if rest.len() <= FARTHEST => return Look::Open,
            Some(0) => return Look::Ours,
            Some(length) if length > FARTHEST => return Look::Ours,
            Some(length) => {
                at += length;
                continue;
            }
            None => {}
        }
        let byte = rest.first().copied().unwrap_or_default();
        if seen == 0 && byte == b'\\' {
            at += 1;
            continue;
        }
        tags.retain(|tag| tag.get(seen) == Some(&byte));
        (at, seen) = (at + 1, seen + 1);
        match tags.first() {
            None => return Look::Other,
            Some(tag) if tag.len() == seen => return Look::Ours,
            Some(_) => {}
        }
    }
}

/// The length of what is not compared, if a text begins with it; 0 if that is not all there yet. The end of a line is compared.
fn unseen(text: &[u8], two_bytes_steer: bool) -> Option<usize> {
    let steering = |length: usize, rest: &[u8]| Some(sequence(rest).map_or(0, |more| length + more));
    match text {
        [0x1b, rest @ ..] => steering(1, rest),
        [byte, ..] if is_break(*byte) || byte.is_ascii_graphic() => None,
        [0xc2, 0x85, ..] | [0xe2, 0x80, 0xa8 | 0xa9, ..] => None,
        [0xc2] | [0xe2] | [0xe2, 0x80] => Some(0),
        [0xc2, 0x90 | 0x98 | 0x9b | 0x9d..=0x9f, ..] if two_bytes_steer => {
            // As ESC and the letter that it is short for.
            let letter = text.get(1).map_or(0, |byte| byte - 0x40);
            let rest = text.get(2..).unwrap_or_default();
            steering(1, &[&[letter][..], rest].concat())
        }
        _ => Some(1),
    }
}

/// The length of an escape sequence behind its ESC.
fn sequence(text: &[u8]) -> Option<usize> {
    let (first, rest) = text.split_first()?;
    let length = match first {
        // It begins anew with the second one.
        0x1b => return Some(0),
        b'[' => parameters(rest, 0x40)?,
        b']' | b'P' | b'X' | b'^' | b'_' => {
            let ends = |at: &usize| {
                matches!(rest.get(*at..), Some([0x07 | 0x1b | b'\n', ..] | [0xc2, 0x9c, ..] | [0xc2]))
            };
            let end = (0..rest.len()).find(ends)?;
            match rest.get(end..) {
                Some([0x1b, b'\\', ..]) => end + 2,
                Some([0x1b] | [0xc2]) => return None,
                Some([0xc2, ..]) => end + 2,
                Some([b'\n', ..]) => end,
                _ => end + 1,
            }
        }
        0x20..0x30 => parameters(rest, 0x30)?,
        _ => 0,
    };
    Some(1 + length)
}

/// The length of what is left of a sequence whose bytes are below `last`, with the one that ends it. Another ESC breaks it off and
/// begins one of its own, CAN and SUB break it off, and other control characters mean the same within it as outside.
fn parameters(text: &[u8], last: u8) -> Option<usize> {
    let (at, end) = text
        .iter()
        .enumerate()
        .find(|(_, byte)| **byte >= last || matches!(**byte, 0x1b | 0x18 | 0x1a) || is_break(**byte))?;
    Some(if *end == 0x1b || is_break(*end) { at } else { at + 1 })
}

/// What ends a line to somebody, besides the two of Unicode that have more bytes.
fn is_break(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r' | 0x0b | 0x0c | 0x1c..=0x1e)
}

/// Where lines begin in a text, behind its beginning.
pub(super) fn beginnings(text: &[u8]) -> Vec<usize> {
    let ends = |(at, byte): (usize, &u8)| match (byte, text.get(at + 1), text.get(at + 2)) {
        (byte, ..) if is_break(*byte) => Some(at + 1),
        (0xc2, Some(0x85), _) => Some(at + 2),
        (0xe2, Some(0x80), Some(0xa8 | 0xa9)) => Some(at + 3),
        _ => None,
    };
    text.iter().enumerate().filter_map(ends).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_that_looks_like_ours_is_told_from_others() {
        for ours in [
            "[system] boot 2",
            "[exec]",
            "[system]",
            "\\[system] x",
            "\\\\[exec] x",
            "\x1b[33m[system]\x1b[0m x",
            "\x1b\x1b[33m[system] x",
            "\x1b[3\x1b[33m[system] x",
            "\x1b[3\x18[system] x",
            "\x1b[3\x07m[system] x",
            "\x1b(\x1b(B[system] x",
            "[sys\x1b[mtem]",
            "\x00[system]",
            "\u{200b}[system]",
            "[\u{feff}exec]",
            "\x1b]0;t\x07[system]",
            "\u{9b}[system]",
            "\x08[system]",
            "\x1b(B[system]",
            "\u{2066}[exec]",
            "[sys\u{ad}tem]",
            " [system]",
            "\t [exec] x",
            "\u{a0}[system] x",
            "\u{2003}\u{3000}[system] x",
            "\u{1680}\\[system]",
            "\u{180e}[system]",
            "[ system]",
            "\u{9b}31m[system]",
            "\u{9d}0;t\u{9c}[system]",
            "\x1b]0;t\u{9c}[system]",
            "é[system]",
        ] {
            assert_eq!(look(ours.as_bytes()), Look::Ours, "{ours:?}");
        }
        for other in [
            "plain",
            "[systems]",
            "[error] x",
            "- [system]",
            "[",
            "x[system]",
            "\\x",
            "\n",
            "\\\n",
            "é\n[system]",
            "é\u{85}[system]",
            "\u{2028}[system]",
            "[sys\n",
        ] {
            let expected = if other == "[" { Look::Open } else { Look::Other };
            assert_eq!(look(other.as_bytes()), expected, "{other:?}");
        }
        for open in ["", "[sys", "\x1b[33", "\\", "\x1b]0;title", "\u{200b}", "é", "\u{9b}31"] {
            assert_eq!(look(open.as_bytes()), Look::Open, "{open:?}");
        }
        assert_eq!(look(&[0; 600]), Look::Ours, "hidden behind much");
    }

    #[test]
    fn characters_that_are_not_seen_hide_nothing() {
        let codes = [
            0x61c, 0x17b4, 0x180b, 0x180e, 0x1bca0, 0x1d173, 0xfff0, 0xfff9, 0xe0001, 0xe0020, 0xe0100,
            0xe01ef, 0x300, 0x483, 0x20dd, 0x3164, 0x115f, 0x1160, 0xffa0, 0xfffc, 0x200b, 0x2800, 0xfeff,
        ];
        for c in codes.map(|code| char::from_u32(code).unwrap()) {
            for line in [
                format!("{c}[system] x"),
                format!("[{c}system] x"),
                format!("[sys{c}tem] x"),
                format!("[exec{c}] x"),
                format!(" {c}\\{c}[{c}exec{c}]"),
            ] {
                assert_eq!(look(line.as_bytes()), Look::Ours, "{line:?}");
            }
        }
    }

    #[test]
    fn lines_begin_where_somebody_sees_one_begin() {
        assert_eq!(beginnings(b"a\nb\rc\x0bd"), [2, 4, 6]);
        assert_eq!(beginnings("a\u{85}b\u{2028}c".as_bytes()), [3, 7]);
        assert!(beginnings(b"abc").is_empty());
    }

    proptest! {
        #[test]
        fn whatever_is_not_ascii_hides_nothing(c in any::<char>(), at in 0usize..8) {
            prop_assume!(!c.is_ascii() && !matches!(c, '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}'));
            let mut line = "[system] x".to_owned();
            line.insert(at, c);
            prop_assert_eq!(look(line.as_bytes()), Look::Ours);
        }

        #[test]
        fn more_of_a_line_changes_nothing(text in "[\\\\\\[\\]a-zé\u{9b}\x1b\x00-\x1f]{0,30}(\\[system\\])?.{0,9}", at in 0usize..40) {
            let part = look(&text.as_bytes()[..at.min(text.len())]);
            prop_assert!(part == Look::Open || part == look(text.as_bytes()));
        }
    }
}
