//! What is in an archive besides the images that are taken: other platforms, signatures, attestations, damaged ones.

use crate::digest::Digest;
use crate::error::ImageError;

/// Most of it that is told by name.
const MOST_TOLD: usize = 20;

/// What was taken out of an archive.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The images.
    pub images: Vec<Digest>,
    /// What else there was, and why it was left.
    pub left: Vec<String>,
}

/// What there is in an archive that is none of its images, by what it is called.
#[derive(Debug, Default)]
pub(super) struct SkippedEntries(Vec<(String, ImageError)>);

impl SkippedEntries {
    /// Keeps why something was left, unless that is a fault of the host.
    pub(super) fn add(&mut self, name: &str, error: ImageError) -> Result<(), ImageError> {
        if !error.is_of_the_image() {
            return Err(error);
        }
        if self.0.len() < MOST_TOLD {
            self.0.push((name.to_owned(), error));
        }
        Ok(())
    }

    /// All of it, and what else there is to tell.
    pub(super) fn told(&self, others: Vec<String>) -> Vec<String> {
        let own = self.0.iter().map(|(name, error)| format!("{name}: {error}"));
        own.chain(others).take(MOST_TOLD).collect()
    }

    /// Why there is no image at all.
    pub(super) fn whole(mut self, architecture: &str) -> ImageError {
        if self.0.len() == 1
            && let Some((_, error)) = self.0.pop()
        {
            return error;
        }
        let platform = |(_, error): &(String, ImageError)| match error {
            ImageError::Platform { there, .. } => Some(there.clone()),
            _ => None,
        };
        let platforms: Vec<String> = self.0.iter().filter_map(platform).collect();
        if !platforms.is_empty() && platforms.len() == self.0.len() {
            let (name, there) = ("the archive".to_owned(), platforms.join(", "));
            return ImageError::Platform { name, wanted: architecture.to_owned(), there };
        }
        let none = "the archive has no image that can be taken";
        if self.0.is_empty() {
            return ImageError::invalid(none);
        }
        ImageError::invalid(format!("{none}; {}", self.told(Vec::new()).join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(there: &str) -> ImageError {
        ImageError::Platform { name: "x:1".into(), wanted: "amd64".into(), there: there.into() }
    }

    fn left(errors: Vec<ImageError>) -> SkippedEntries {
        let mut left = SkippedEntries::default();
        errors.into_iter().for_each(|error| left.add("x:1", error).unwrap());
        left
    }

    #[test]
    fn if_nothing_is_taken_it_is_said_what_there_is() {
        let told = |errors| left(errors).whole("amd64").to_string();
        assert_eq!(
            told(vec![platform("linux/arm64")]),
            "x:1 has no version for linux/amd64; there are: linux/arm64"
        );
        let both = told(vec![platform("linux/arm64"), platform("windows/amd64")]);
        assert_eq!(both, "the archive has no version for linux/amd64; there are: linux/arm64, windows/amd64");
        let mixed = told(vec![platform("linux/arm64"), ImageError::invalid("it is a chart")]);
        assert!(mixed.contains("linux/arm64") && mixed.contains("it is a chart"), "{mixed}");
        assert!(told(vec![]).contains("no image"));
    }

    #[test]
    fn a_fault_of_the_host_is_not_one_of_an_image() {
        let full = ImageError::io("cannot write in", "/")(std::io::ErrorKind::StorageFull.into());
        assert!(SkippedEntries::default().add("x:1", full).is_err());
    }
}
