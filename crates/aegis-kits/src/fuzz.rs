//! What the fuzzer drives; see `fuzz/`.

use std::path::Path;

use aegis_fuzz::Target;

use crate::manifest::{Format, Manifest, is_name, rendered_env};

/// A manifest in both forms.
///
/// # Panics
/// If one is taken that leads out of its kit's directory, or that is written otherwise than it is read.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for format in [Format::Toml, Format::Json] {
        let Ok(manifest) = Manifest::parse(text, format) else { continue };
        assert!(is_name(&manifest.name) && !manifest.name.contains(['/', '.']));
        for path in manifest.files.iter().map(|file| &file.from).chain(&manifest.workspace) {
            assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".."), "{path:?}");
        }
        for file in &manifest.files {
            assert!(Path::new(&file.to).is_absolute() && !file.to.split('/').any(|part| part == ".."));
        }
        let written = serde_json::to_string(&manifest).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Manifest::parse(&written, Format::Json), Ok(manifest));
    }
}

/// What a program of a kit prints as environment.
///
/// # Panics
/// If there is a name or a value that no environment can have.
pub fn environment(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for (key, value) in rendered_env(&text).into_iter().flatten() {
        assert!(!key.is_empty() && !key.contains(['=', '\0']) && !value.contains(['\0', '\n']));
    }
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 2] = [("kits-manifest", manifest), ("kits-environment", environment)];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
