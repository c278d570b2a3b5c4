//! What the fuzzer drives; see `fuzz/`.

use std::io::Read;

use aegis_erofs::Limits;
use aegis_fuzz::{Fence, Target, mend_archive};

use crate::compression::Compression;
use crate::image_record::Layout;
use crate::manifest::{self, Document};
use crate::registry::auth;
use crate::{Digest, ImageName, ImageReference, Settings, archive, decompression, familiar};

/// Most that something unpacks to here.
const MOST: u64 = 1 << 20;

/// A manifest, an index or a configuration.
///
/// # Panics
/// If what is taken of it is beyond its bounds.
pub fn documents(bytes: &[u8]) {
    match manifest::parse(bytes) {
        Ok(Document::Image { layers, .. }) => assert!(layers.len() <= 512),
        Ok(Document::Index(choices)) => {
            for architecture in ["amd64", "arm64"] {
                drop(manifest::candidates(&choices, architecture, "an image"));
            }
        }
        Err(_) => {}
    }
    drop(manifest::media_type(bytes));
    for layers in 0..3 {
        if let Ok(config) = manifest::parse_config(bytes, layers) {
            assert_eq!(config.diff_ids.len(), layers);
            assert!(!config.env.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])));
        }
    }
}

/// A reference or a digest, as people write them.
///
/// # Panics
/// If one is written otherwise than it is read.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert!(digest.hex().len() == 64 && digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    drop(text.parse::<ImageName>());
    let Ok(reference) = text.parse::<ImageReference>() else { return };
    assert_eq!(reference.to_string().parse().ok().as_ref(), Some(&reference), "{reference}");
    let short = familiar(text);
    let again = short.parse::<ImageReference>();
    assert_eq!(again.ok().as_ref(), Some(&reference), "{short:?} is not {reference}");
    for part in [reference.registry(), reference.repository(), reference.version()] {
        assert!(!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic()), "{part:?}");
        assert!(!part.split('/').any(|part| part == ".."), "{part:?}");
    }
}

/// What a registry demands.
pub fn challenge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop(auth::challenge(text));
}

/// What a layer unpacks to; the first byte says how it is packed.
pub fn packed(bytes: &[u8]) {
    let Some((packing, bytes)) = bytes.split_first() else { return };
    let packing = if packing & 1 == 0 { Compression::Gzip } else { Compression::Zstd };
    let Ok(decoder) = decompression::decoder(bytes, packing) else { return };
    let mut unpacked = Vec::new();
    let _broken = decoder.take(MOST).read_to_end(&mut unpacked);
}

/// An archive of images.
///
/// # Panics
/// If anything outside the store is changed.
pub fn load(bytes: &[u8]) {
    let fence = Fence::new();
    let layout = Layout(fence.inside());
    for dir in layout.dirs() {
        std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    }
    let mut settings = Settings::for_architecture("amd64");
    settings.limits = Limits { max_entries: 200, max_data_bytes: MOST, ..Limits::default() };
    let _image = archive::fuzz(&mend_archive(bytes), layout, &settings);
    fence.check();
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 5] = [
    ("images-documents", documents),
    ("images-reference", reference),
    ("images-challenge", challenge),
    ("images-packed", packed),
    ("images-load", load),
];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
