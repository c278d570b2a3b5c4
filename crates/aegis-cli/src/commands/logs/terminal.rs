//! What of a guest's bytes a terminal gets: text and its colours. Everything else that terminals obey could draw over other
//! lines, name the window, fill the clipboard or ask the terminal to type.

/// Longest sequence that is kept, bytes; colours need far fewer.
const LONGEST: usize = 64;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// In a control sequence: `ESC [ …`, which may be a colour.
    Sequence,
    /// In a string up to BEL or ST: a title, a colour of the palette, a picture.
    String,
    /// In such a string, behind ESC.
    StringEscape,
    /// Behind the first byte of what may be a control character of two.
    High,
    /// Within a character, with that many bytes to come.
    Character(u8),
}

/// Filters a stream, in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Filter {
    state: State,
    sequence: Vec<u8>,
    /// Whether colours were changed since they were last set back.
    pub(super) coloured: bool,
}

impl Filter {
    /// The bytes that a terminal may have.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.step(*byte, &mut out);
        }
        out
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        // Nothing goes on over the end of a line.
        if byte == b'\n' {
            self.state = State::Text;
            out.push(byte);
            return;
        }
        self.state = match self.state {
            State::Escape => self.escape(byte),
            State::Sequence => self.sequence(byte, out),
            State::String => match byte {
                0x07 => State::Text,
                0x1b => State::StringEscape,
                _ => State::String,
            },
            State::StringEscape if byte == b'\\' => State::Text,
            State::StringEscape => State::String,
            State::High if byte < 0xa0 => return self.high(byte),
            State::High => {
                out.extend([0xc2, byte]);
                State::Text
            }
            State::Character(left) if (0x80..0xc0).contains(&byte) => {
                out.push(byte);
                if left > 1 { State::Character(left - 1) } else { State::Text }
            }
            State::Text | State::Character(_) => Filter::text(byte, out),
        };
    }

    fn text(byte: u8, out: &mut Vec<u8>) -> State {
        let state = match byte {
            0x1b => return State::Escape,
            0xc2 => return State::High,
            // Half a character, or a control character of terminals without UTF-8.
            0x80..0xc0 => {
                out.extend("\u{fffd}".bytes());
                return State::Text;
            }
            0xc3..0xe0 => State::Character(1),
            0xe0..0xf0 => State::Character(2),
            0xf0..0xf8 => State::Character(3),
            0x00..0x20 | 0x7f if !matches!(byte, b'\t' | b'\r') => return State::Text,
            _ => State::Text,
        };
        out.push(byte);
        state
    }

    /// A control character of two bytes: as ESC and the letter that it is short for.
    fn high(&mut self, byte: u8) {
        self.state = if (0x80..0xa0).contains(&byte) { self.escape(byte - 0x40) } else { State::Text };
    }

    fn escape(&mut self, byte: u8) -> State {
        match byte {
            b'[' => {
                self.sequence.clear();
                State::Sequence
            }
            b']' | b'P' | b'X' | b'^' | b'_' => State::String,
            // Intermediate bytes: one more follows.
            0x20..0x30 | 0x1b => State::Escape,
            _ => State::Text,
        }
    }

    fn sequence(&mut self, byte: u8, out: &mut Vec<u8>) -> State {
        match byte {
            0x20..0x40 => {
                if self.sequence.len() < LONGEST {
                    self.sequence.push(byte);
                }
                State::Sequence
            }
            b'm' if self.sequence.iter().all(|byte| matches!(byte, b'0'..=b'9' | b';' | b':')) => {
                out.extend(b"\x1b[");
                out.append(&mut self.sequence);
                out.push(b'm');
                self.coloured = true;
                State::Text
            }
            0x1b => State::Escape,
            _ => State::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(bytes: &[u8]) -> String {
        String::from_utf8_lossy(&Filter::default().pass(bytes)).into_owned()
    }

    #[test]
    fn text_and_colours_pass() {
        for text in [
            "plain\n",
            "\ttab\r\n",
            "50%\r100%\n",
            "\x1b[1;31mred\x1b[0m",
            "\x1b[38:2:1:2:3m",
            "äöü €🦀 \u{a0}é",
        ] {
            assert_eq!(passed(text.as_bytes()), text);
        }
    }

    #[test]
    fn what_draws_elsewhere_or_commands_the_terminal_does_not() {
        for (bytes, left) in [
            ("up\x1b[Aover", "upover"),
            ("\x1b[2J\x1b[H\x1b[1Gx", "x"),
            ("\x1b]0;title\x07x", "x"),
            ("\x1b]52;c;c2VjcmV0\x1b\\x", "x"),
            ("\x1bPq#0\x1b\\x\x1b_y\x1b\\", "x"),
            ("\x1bcx\x1b(0x\x1b7", "xx"),
            ("a\x08\x08b\x07\x0b\x0c\x0e", "ab"),
            ("\u{9b}2Jx\u{9d}0;t\x07y\u{85}", "xy"),
            ("\x1b[?1049hx\x1b[>4;2mx", "xx"),
            ("\x1b]0;unfinished\nnext", "\nnext"),
            ("\x1b[31\nm", "\nm"),
        ] {
            assert_eq!(passed(bytes.as_bytes()), left, "{bytes:?}");
        }
        assert_eq!(passed(b"\x9b2J\xff"), "\u{fffd}2J\u{fffd}");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_bytes_arrive(
            bytes in proptest::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(0xc2), Just(b'm'), any::<u8>()], 0..60),
            at in 0usize..60,
        ) {
            let at = at.min(bytes.len());
            let mut filter = Filter::default();
            let mut parts = filter.pass(&bytes[..at]);
            parts.extend(filter.pass(&bytes[at..]));
            prop_assert_eq!(&parts, &Filter::default().pass(&bytes));
            // What is left begins no sequence but a colour.
            for (index, _) in parts.iter().enumerate().filter(|(_, byte)| **byte == 0x1b) {
                let rest = &parts[index..];
                let end = rest.iter().position(|byte| *byte == b'm').unwrap();
                prop_assert!(rest.starts_with(b"\x1b[") && rest[2..end].iter().all(|byte| b"0123456789:;".contains(byte)));
            }
        }
    }
}
