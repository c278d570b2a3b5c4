//! Text that is not ours, made safe to show: what a guest, an image or an archive has said may command a terminal, run from
//! right to left over what stands before it, or begin a line that looks like one of Aegis's own.

use std::borrow::Cow;

/// Whether a character does something else than to be seen: controls, marks of direction, what has no width, ends of lines
/// and tags (Unicode's categories Cc, Cf, Zl and Zp, as far as terminals act on them).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| is_hidden(c) && !stays(c)) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| {
        let kept = !is_hidden(c) || stays(c);
        if kept { c.to_string() } else { c.escape_default().to_string() }
    };
    text.chars().map(escape).collect::<String>().into()
}

/// A value on a line of ours: what would not be seen in it is written out (`\u{1b}`, `\n`).
pub(crate) fn field(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Text of several lines, which are ours: ends of lines and tabs stay.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// A message of which only the first line is to look like one of ours.
pub(crate) fn message(text: &str) -> String {
    lines(text.trim_end_matches('\n')).replace('\n', "\n  | ")
}

/// JSON in which nothing is hidden: such characters are only within its strings, where an escape means the same.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| is_hidden(c) && c != '\n';
    if !text.chars().any(hidden) {
        return Cow::Borrowed(text);
    }
    let mut units = [0; 2];
    let escape = |c: char| {
        if hidden(c) {
            c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_or_hide_is_written_out() {
        for (text, shown) in [
            ("plain – äöü 🦀 'x'", "plain – äöü 🦀 'x'"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("a\nReason: forged", "a\\nReason: forged"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("a\u{200b}b\u{2028}c\u{e0041}\u{9b}2J", "a\\u{200b}b\\u{2028}c\\u{e0041}\\u{9b}2J"),
        ] {
            assert_eq!(field(text), shown);
        }
        assert_eq!(lines("a\tb\nc\r\u{1b}[2J"), "a\tb\nc\\r\\u{1b}[2J");
        assert_eq!(message("failed\naegis: forged\n"), "failed\n  | aegis: forged");
    }

    proptest! {
        #[test]
        fn json_means_the_same_and_hides_nothing(text in any::<String>(), hidden in "[\u{200b}-\u{202e}\u{e0001}\u{7f}]{0,3}") {
            let value = serde_json::json!({ "key": format!("{text}{hidden}") });
            let shown = json(&serde_json::to_string_pretty(&value).unwrap()).into_owned();
            prop_assert!(!shown.chars().any(|c| is_hidden(c) && c != '\n'));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }

        #[test]
        fn a_field_is_one_line_of_what_is_seen(text in any::<String>()) {
            prop_assert!(!field(&text).chars().any(is_hidden));
        }
    }
}
