//! Names of images, as Docker users write them.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference;

use crate::digest::Digest;
use crate::error::ImageError;

/// Longest name, characters.
const MOST_NAME: usize = 512;

/// A name of an image in a registry: `[REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]`. Without a registry it is Docker
/// Hub's, without a tag and a digest it is `latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference(Reference);

impl ImageReference {
    /// The host that serves it.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0.resolve_registry()
    }

    /// Its repository in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// The content that it insists on.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.0.digest().and_then(|digest| digest.parse().ok())
    }

    /// What a registry finds its manifest by.
    #[must_use]
    pub fn version(&self) -> &str {
        self.0.digest().or(self.0.tag()).unwrap_or("latest")
    }

    /// The name without what Docker Hub's users leave out.
    #[must_use]
    pub fn familiar(&self) -> String {
        let whole = self.0.whole();
        let short = whole.strip_prefix("docker.io/library/").or_else(|| whole.strip_prefix("docker.io/"));
        // Of some names what is left would be another registry's.
        let same = |short: &&str| short.parse::<Reference>().is_ok_and(|read| read == self.0);
        short.filter(same).unwrap_or(&whole).to_owned()
    }
}

impl FromStr for ImageReference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<ImageReference, ImageError> {
        let refuse = |why: String| ImageError::Reference(text.chars().take(100).collect(), why);
        if text.len() > MOST_NAME {
            return Err(refuse(format!("it has more than {MOST_NAME} characters")));
        }
        // The parser takes letters of all scripts in tags; no registry does.
        if !text.is_ascii() {
            return Err(refuse("it has characters that are not ASCII".to_owned()));
        }
        let parsed: Reference = text.parse().map_err(|error| refuse(format!("{error}")))?;
        // The parser takes a part before the first slash for a registry's, and capital letters with it, where it makes
        // it Docker Hub's afterwards.
        if parsed.repository().bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refuse("the name of a repository has no capital letters".to_owned()));
        }
        if let Some(digest) = parsed.digest() {
            digest.parse::<Digest>().map_err(|error| refuse(error.to_string()))?;
        }
        Ok(ImageReference(parsed))
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.whole())
    }
}

/// A name as users write it, with its tag; what is no reference, such as digits, as it is.
#[must_use]
pub fn familiar(name: &str) -> String {
    name.parse::<ImageReference>().map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// How users name an image that is on this host: by a reference, or by the digest of its manifest, shortened to not
/// less than twelve digits, with or without `sha256:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageName {
    /// By a reference.
    Reference(ImageReference),
    /// By the first digits of its digest; a repository can have such a name too.
    Digits(String, Option<ImageReference>),
}

/// Least number of digits that is taken for a digest.
const LEAST_DIGITS: usize = 12;

impl FromStr for ImageName {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<ImageName, ImageError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let hexadecimal = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let reference = text.parse::<ImageReference>();
        if hexadecimal && (LEAST_DIGITS..=64).contains(&digits.len()) {
            return Ok(ImageName::Digits(digits.to_owned(), reference.ok().filter(|_| digits == text)));
        }
        reference.map(ImageName::Reference)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_names_are_docker_hubs() {
        for (text, whole, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("python:3.12", "docker.io/library/python:3.12", "python:3.12"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest", "grafana/grafana:latest"),
            ("ghcr.io/a/b:1", "ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
            // Short, they would be names of the registries `localhost` and `a.b`.
            ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
            ("docker.io/a.b/x:1", "docker.io/a.b/x:1", "docker.io/a.b/x:1"),
        ] {
            let reference: ImageReference = text.parse().unwrap();
            assert_eq!((reference.to_string(), reference.familiar()), (whole.into(), familiar.into()));
        }
        assert_eq!("alpine".parse::<ImageReference>().unwrap().registry(), "index.docker.io");
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            "UPPER",
            "Team/app",
            "a b",
            "../etc",
            "x:",
            "x@sha256:12",
            "x@sha512:aa",
            "http://x/y",
            &"a".repeat(600),
        ] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_may_be_shortened() {
        assert!(matches!("0123456789ab".parse(), Ok(ImageName::Digits(_, Some(_)))));
        assert!(matches!("sha256:0123456789ab".parse(), Ok(ImageName::Digits(_, None))));
        assert!(matches!("0123456789".parse(), Ok(ImageName::Reference(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,80}") {
            drop(text.parse::<ImageName>());
        }
    }
}
