//! Bodies of responses, within limits, and the errors in them.

use reqwest::Response;
use serde::Deserialize;

use super::failure::{RequestFailure, unreachable};
use crate::error::ImageError;

/// Most bytes that are read of an error or a token.
pub(super) const MOST_ERROR: u64 = 256 << 10;

/// Why a body was not read.
pub(super) enum BodyError {
    TooLong(u64),
    Broken(reqwest::Error),
}

impl BodyError {
    pub(super) fn named(self, registry: &str) -> RequestFailure {
        match self {
            BodyError::TooLong(limit) => {
                let text = format!("{registry} answers with more than {limit} bytes");
                RequestFailure::Permanent(ImageError::Invalid(text))
            }
            BodyError::Broken(error) => RequestFailure::transient(unreachable(registry, &error)),
        }
    }
}

pub(super) async fn body(response: &mut Response, limit: u64) -> Result<Vec<u8>, BodyError> {
    let mut all = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if (all.len() + chunk.len()) as u64 > limit {
            return Err(BodyError::TooLong(limit));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own words, made fit for a line of text.
pub(super) fn words(body: &[u8]) -> String {
    let errors: Option<Errors> = serde_json::from_slice(body).ok();
    let first = errors.and_then(|all| all.errors.into_iter().next());
    let text = match first {
        Some(ErrorEntry { code, message }) if message.is_empty() => code,
        Some(ErrorEntry { message, .. }) => message,
        None => return String::new(),
    };
    let printable: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if printable.is_empty() { printable } else { format!(": {printable}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_registrys_words_are_one_printable_line() {
        let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\u0007 down\n"}]}"#;
        assert_eq!(words(body), ": slow down");
        assert_eq!(words(br#"{"errors":[{"code":"DENIED"}]}"#), ": DENIED");
        assert_eq!(words(b"<html>"), "");
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            drop(words(&bytes));
        }
    }
}
