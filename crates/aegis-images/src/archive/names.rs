//! What archives call their images.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::ImageReference;

/// What tools call an image in an index; the first is containerd's whole name, the second a tag or a name.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Most names that are told, and most characters of one.
const MOST_TOLD: usize = 20;

/// What an archive calls an image.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Whole names: they become the image's.
    pub(super) taken: Vec<String>,
    /// What cannot be one, and why.
    refused: Vec<(String, String)>,
}

impl Names {
    /// Reads what an image is called, one or several times.
    pub(super) fn read<'n>(said: impl Iterator<Item = &'n String>) -> Names {
        let mut names = Names::default();
        for name in said {
            match full_name(name) {
                Ok(name) => names.taken.push(name),
                Err(why) => names.refused.push((name.clone(), why)),
            }
        }
        names
    }

    /// What an entry of an index calls its image. The annotations are several ways to say one thing.
    pub(super) fn of_entry(annotations: &BTreeMap<String, String>) -> Names {
        let mut names = Names::read(NAME_ANNOTATIONS.iter().filter_map(|key| annotations.get(*key)));
        names.taken.truncate(1);
        if !names.taken.is_empty() {
            names.refused.clear();
        }
        names
    }

    pub(super) fn extend(&mut self, others: Names) {
        self.taken.extend(others.taken);
        self.refused.extend(others.refused);
    }

    /// Says which names an image did not get, and that it has none if that is so.
    pub(super) fn told(&self, digest: &Digest, has_name: bool) -> Vec<String> {
        let remedy = format!("give it one with: aegis image tag sha256:{} NAME", digest.short());
        if self.refused.is_empty() {
            let text = format!("a name: the archive has none for sha256:{}; {remedy}", digest.short());
            return if has_name { Vec::new() } else { vec![text] };
        }
        let told = |(name, why): &(String, String)| {
            let name: String = name.chars().take(100).collect();
            format!("the name {name:?} of sha256:{}: {why}; {remedy}", digest.short())
        };
        self.refused.iter().take(MOST_TOLD).map(told).collect()
    }
}

/// A whole name, or why it is none: what is only a tag, as tools write it for a layout of one image, would be that of any.
fn full_name(text: &str) -> Result<String, String> {
    if !text.contains(['/', ':']) {
        return Err("it is only a tag".to_owned());
    }
    match text.parse::<ImageReference>() {
        Ok(reference) => Ok(reference.to_string()),
        Err(ImageError::Reference(_, why)) => Err(why),
        Err(other) => Err(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: &[&str]) -> Names {
        Names::read(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().iter())
    }

    #[test]
    fn a_tag_alone_is_no_name() {
        assert_eq!(full_name("latest").unwrap_err(), "it is only a tag");
        assert_eq!(full_name("alpine:3").unwrap(), "docker.io/library/alpine:3");
        assert!(full_name("::").is_err());
    }

    #[test]
    fn names_that_are_not_taken_are_told_with_what_gives_one() {
        let digest = Digest::of(b"");
        let told = read(&["deb", "Bad/UPPER:1", "box:1"]).told(&digest, true);
        let remedy = "give it one with: aegis image tag sha256:e3b0c44298fc NAME";
        assert_eq!(told.len(), 2);
        assert!(
            told[0].starts_with("the name \"deb\" of sha256:e3b0c44298fc: it is only a tag; "),
            "{}",
            told[0]
        );
        assert!(
            told[1].contains("Bad/UPPER:1") && told[1].contains("invalid reference format"),
            "{}",
            told[1]
        );
        assert!(told.iter().all(|told| told.ends_with(remedy)));
        assert!(read(&[]).told(&digest, false)[0].ends_with(remedy));
        assert!(read(&["box:1"]).told(&digest, true).is_empty());
        assert!(read(&[]).told(&digest, true).is_empty(), "it has had a name before");
    }

    #[test]
    fn annotations_say_one_thing_in_several_ways() {
        let entry = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Names::of_entry(&pairs.collect())
        };
        let both = entry(&[(NAME_ANNOTATIONS[0], "docker.io/library/box:1"), (NAME_ANNOTATIONS[1], "1")]);
        assert_eq!((both.taken.len(), both.refused.len()), (1, 0));
        let tag = entry(&[(NAME_ANNOTATIONS[1], "deb")]);
        assert_eq!((tag.taken.len(), tag.refused.len()), (0, 1));
    }
}
