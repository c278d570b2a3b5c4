//! Words of a command: text, and base64 where one is no UTF-8.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// A command that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WrongWords {
    /// Both fields have words.
    #[error("command and command_base64 cannot both be given")]
    Twice,
    /// A word is no base64.
    #[error("command_base64 has a word that is no base64")]
    NoBase64,
}

fn is_text(word: &impl AsRef<[u8]>) -> bool {
    str::from_utf8(word.as_ref()).is_ok()
}

/// All words in base64 if one of them is no UTF-8; none otherwise.
pub fn base64(words: &[impl AsRef<[u8]>]) -> Vec<String> {
    if words.iter().all(is_text) {
        return Vec::new();
    }
    words.iter().map(|word| STANDARD.encode(word)).collect()
}

/// The words as text; what is no UTF-8 is replaced.
pub fn text(words: &[impl AsRef<[u8]>]) -> Vec<String> {
    words.iter().map(|word| String::from_utf8_lossy(word.as_ref()).into_owned()).collect()
}

/// The words for the two fields of a request, of which one is empty.
pub fn request(words: &[impl AsRef<[u8]>]) -> (Vec<String>, Vec<String>) {
    let encoded = base64(words);
    if encoded.is_empty() { (text(words), encoded) } else { (Vec::new(), encoded) }
}

/// The words that a request's two fields have.
///
/// # Errors
/// [`WrongWords`].
pub fn of_request(text: &[String], base64: &[String]) -> Result<Vec<Vec<u8>>, WrongWords> {
    match (text, base64) {
        (text, []) => Ok(text.iter().map(|word| word.clone().into_bytes()).collect()),
        ([], words) => {
            words.iter().map(|word| STANDARD.decode(word).map_err(|_| WrongWords::NoBase64)).collect()
        }
        _ => Err(WrongWords::Twice),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(request(&["ls", "ä"]), (vec!["ls".to_owned(), "ä".to_owned()], vec![]));
        assert_eq!(request(&[&b"a"[..], b"\xff"]), (vec![], vec!["YQ==".to_owned(), "/w==".to_owned()]));
        assert_eq!(text(&[b"\xff"]), ["\u{fffd}"]);
        let one = ["x".to_owned()];
        assert_eq!(of_request(&one, &one), Err(WrongWords::Twice));
        assert_eq!(of_request(&[], &["?".to_owned()]), Err(WrongWords::NoBase64));
    }

    proptest! {
        #[test]
        fn words_come_back(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..10), 0..5)) {
            let (text, base64) = request(&words);
            prop_assert!(text.is_empty() || base64.is_empty());
            prop_assert_eq!(of_request(&text, &base64).unwrap(), words);
        }
    }
}
