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
pub(super) fn look(line: &[u8]) -> Look {
    let mut tags = TAGS.to_vec();
    let (mut at, mut seen) = (0, 0);
    loop {
        let Some(rest) = line.get(at..).filter(|rest| !rest.is_empty()) else { return Look::Open };
        if at > FARTHEST {
            return Look::Ours;
        }
        match invisible(rest).or_else(|| blank(rest).filter(|_| seen == 0)) {
            Some(0) => return Look::Open,
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

/// The length of what shows nothing, if a text begins with it; 0 if that is not all there yet.
fn invisible(text: &[u8]) -> Option<usize> {
    match text {
        [0x1b, rest @ ..] => Some(sequence(rest).map_or(0, |length| 1 + length)),
        [byte, ..] if (*byte < 0x20 && !is_break(*byte)) || *byte == 0x7f => Some(1),
        // Control characters, and hyphens that only show where a line is broken.
        [0xc2, 0x80..=0x84 | 0x86..=0x9f | 0xad, ..] => Some(2),
        // Of no width, or for the direction of writing.
        [0xe2, 0x80, 0x8b..=0x8f | 0xaa..=0xae, ..] | [0xe2, 0x81, 0xa0..=0xaf, ..] => Some(3),
        [0xef, 0xbb, 0xbf, ..] | [0xef, 0xb8, 0x80..=0x8f, ..] | [0xcd, 0x8f, ..] => {
            Some(if text.first() == Some(&0xcd) { 2 } else { 3 })
        }
        [0xc2 | 0xcd] | [0xe2 | 0xef] | [0xe2, 0x80 | 0x81] | [0xef, 0xbb | 0xb8] => Some(0),
        _ => None,
    }
}

/// The length of a blank, if a text begins with it (Unicode's `White_Space`, besides ends of lines): one before a tag is easily
/// overlooked. Beginnings of those that [`invisible`] waits for are not looked at again.
fn blank(text: &[u8]) -> Option<usize> {
    match text {
        [b' ' | b'\t', ..] => Some(1),
        [0xc2, 0xa0, ..] => Some(2),
        [0xe1, 0x9a, 0x80, ..] | [0xe2, 0x80, 0x80..=0x8a | 0xaf, ..] => Some(3),
        // The mark of a blank in Mongolian and Braille's empty cell look like one.
        [0xe2, 0x81, 0x9f, ..] | [0xe3, 0x80, 0x80, ..] | [0xe1, 0xa0, 0x8e, ..] | [0xe2, 0xa0, 0x80, ..] => {
            Some(3)
        }
        [0xe1 | 0xe3] | [0xe1, 0x9a | 0xa0] | [0xe3, 0x80] | [0xe2, 0xa0] => Some(0),
        _ => None,
    }
}

/// The length of an escape sequence behind its ESC.
fn sequence(text: &[u8]) -> Option<usize> {
    let (first, rest) = text.split_first()?;
    let length = match first {
        b'[' => rest.iter().position(|byte| !(0x20..0x40).contains(byte))? + 1,
        b']' | b'P' | b'X' | b'^' | b'_' => {
            let end = rest.iter().position(|byte| matches!(byte, 0x07 | 0x1b | b'\n'))?;
            match rest.get(end..) {
                Some([0x1b, b'\\', ..]) => end + 2,
                Some([0x1b]) => return None,
                Some([b'\n', ..]) => end,
                _ => end + 1,
            }
        }
        0x20..0x30 => rest.iter().position(|byte| !(0x20..0x30).contains(byte))? + 1,
        _ => 0,
    };
    Some(1 + length)
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
        ] {
            assert_eq!(look(ours.as_bytes()), Look::Ours, "{ours:?}");
        }
        for other in [
            "plain",
            "[systems]",
            "[error] x",
            "- [system]",
            "[ system]",
            "[",
            "x[system]",
            "\\x",
            "\n",
            "\\\n",
            "é",
            "[sys\n",
        ] {
            let expected = if other == "[" { Look::Open } else { Look::Other };
            assert_eq!(look(other.as_bytes()), expected, "{other:?}");
        }
        for open in ["", "[sys", "\x1b[33", "\\", "\x1b]0;title", "\u{200b}"] {
            assert_eq!(look(open.as_bytes()), Look::Open, "{open:?}");
        }
        assert_eq!(look(&[0; 600]), Look::Ours, "hidden behind much");
    }

    #[test]
    fn lines_begin_where_somebody_sees_one_begin() {
        assert_eq!(beginnings(b"a\nb\rc\x0bd"), [2, 4, 6]);
        assert_eq!(beginnings("a\u{85}b\u{2028}c".as_bytes()), [3, 7]);
        assert!(beginnings(b"abc").is_empty());
    }

    proptest! {
        #[test]
        fn more_of_a_line_changes_nothing(text in "[\\\\\\[\\]a-z\x1b\x00-\x1f]{0,30}(\\[system\\])?.{0,9}", at in 0usize..40) {
            let part = look(&text.as_bytes()[..at.min(text.len())]);
            prop_assert!(part == Look::Open || part == look(text.as_bytes()));
        }
    }
}
