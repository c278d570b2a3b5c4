//! Manifests and configurations: what of them counts, checked.

use std::collections::BTreeMap;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::ImageError;

/// Longest manifest or configuration, bytes. Registries commonly refuse more than 4 MiB.
pub(crate) const MOST_DOCUMENT: u64 = 4 << 20;
/// Most layers; Docker allows 127.
pub(crate) const MOST_LAYERS: usize = 512;
/// Most bytes of an image's environment.
const MOST_ENV: usize = 128 << 10;

/// Media types that registries are asked for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A part of an image by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerPart {
    pub(crate) blob: Part,
    pub(crate) packing: Packing,
}

/// What a document that a registry calls a manifest turns out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// One image.
    Image {
        /// Its configuration.
        config: Part,
        /// Its layers, lowest first.
        layers: Vec<LayerPart>,
    },
    /// Several, for several platforms.
    Index(Vec<Choice>),
}

/// One image of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) manifest: Part,
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

/// What a configuration says that counts here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) created: Option<String>,
}

#[derive(Deserialize)]
struct Probe {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u32>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<serde_json::Value>,
}

fn part(descriptor: &Descriptor) -> Result<Part, ImageError> {
    Ok(Part { digest: descriptor.digest().to_string().parse()?, size: descriptor.size() })
}

fn packing(media_type: &MediaType) -> Result<Packing, ImageError> {
    let name = media_type.to_string();
    match name.as_str() {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Packing::Plain),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Ok(Packing::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Packing::Zstd),
        _ => Err(ImageError::invalid(format!("{name} is no layer of a file system"))),
    }
}

/// Reads a manifest or an index.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, ImageError> {
    let broken = |error: &dyn std::fmt::Display| ImageError::invalid(format!("its manifest: {error}"));
    let probe: Probe = serde_json::from_slice(bytes).map_err(|error| broken(&error))?;
    if probe.schema_version == Some(1) {
        return Err(ImageError::invalid("its manifest has version 1, which registries have given up"));
    }
    let is_index = probe.manifests.is_some() || probe.media_type.is_some_and(|kind| kind.contains("index"));
    if is_index {
        let index: ImageIndex = serde_json::from_slice(bytes).map_err(|error| broken(&error))?;
        return Ok(Document::Index(index.manifests().iter().map(choice).collect::<Result<_, _>>()?));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(|error| broken(&error))?;
    if manifest.layers().len() > MOST_LAYERS {
        return Err(ImageError::invalid(format!("it has more than {MOST_LAYERS} layers")));
    }
    let layer = |descriptor: &Descriptor| {
        Ok(LayerPart { blob: part(descriptor)?, packing: packing(descriptor.media_type())? })
    };
    let layers = manifest.layers().iter().map(layer).collect::<Result<_, ImageError>>()?;
    Ok(Document::Image { config: part(manifest.config())?, layers })
}

/// What a manifest calls itself.
pub(crate) fn media_type(bytes: &[u8]) -> String {
    let probe: Option<Probe> = serde_json::from_slice(bytes).ok();
    let own = probe.and_then(|probe| probe.media_type);
    own.unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned())
}

fn choice(descriptor: &Descriptor) -> Result<Choice, ImageError> {
    let platform = descriptor.platform().as_ref();
    Ok(Choice {
        manifest: part(descriptor)?,
        os: platform.map(|platform| platform.os().to_string()).unwrap_or_default(),
        architecture: platform.map(|platform| platform.architecture().to_string()).unwrap_or_default(),
        variant: platform.and_then(|platform| platform.variant().clone()),
    })
}

impl Choice {
    fn shown(&self) -> Option<String> {
        // Attestations call themselves unknown/unknown.
        let known = !self.os.is_empty() && self.os != "unknown";
        let variant = self.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
        known.then(|| format!("{}/{}{variant}", self.os, self.architecture))
    }
}

/// The image of an index for Linux on this processor.
pub(crate) fn choose(choices: &[Choice], architecture: &str, name: &str) -> Result<Part, ImageError> {
    let fits = |choice: &&Choice| choice.os == "linux" && choice.architecture == architecture;
    // Of several the one without a variant, or with the processor's usual one, runs everywhere.
    let best = choices.iter().filter(fits).min_by_key(|choice| match choice.variant.as_deref() {
        None => 0,
        Some("v8") => 1,
        Some(_) => 2,
    });
    if let Some(choice) = best {
        return Ok(choice.manifest.clone());
    }
    let there: Vec<String> = choices.iter().filter_map(Choice::shown).take(20).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    Err(ImageError::Platform { name: name.to_owned(), wanted: architecture.to_owned(), there })
}

/// Reads a configuration, for an image with so many layers.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<Config, ImageError> {
    let broken = |error: &dyn std::fmt::Display| ImageError::invalid(format!("its configuration: {error}"));
    let config: ImageConfiguration = serde_json::from_slice(bytes).map_err(|error| broken(&error))?;
    let ids = config.rootfs().diff_ids();
    let diff_ids = ids.iter().map(|id| id.parse()).collect::<Result<Vec<Digest>, _>>()?;
    if diff_ids.len() != layers {
        let text = format!("its configuration names {} layers, its manifest {layers}", diff_ids.len());
        return Err(ImageError::invalid(text));
    }
    let lines = config.config().as_ref().and_then(|config| config.env().clone()).unwrap_or_default();
    Ok(Config {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        env: environment(&lines)?,
        diff_ids,
        created: config.created().as_ref().map(ToString::to_string),
    })
}

fn environment(lines: &[String]) -> Result<BTreeMap<String, String>, ImageError> {
    if lines.iter().map(String::len).sum::<usize>() > MOST_ENV {
        return Err(ImageError::invalid(format!("its environment has more than {MOST_ENV} bytes")));
    }
    let pairs = lines.iter().map(|line| {
        let pair = line.split_once('=').filter(|(name, _)| !name.is_empty() && !line.contains('\0'));
        let (name, value) =
            pair.ok_or_else(|| ImageError::invalid("its environment has a line without a name"))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

/// Whether an image is for Linux on this processor.
pub(crate) fn check_platform(config: &Config, architecture: &str, name: &str) -> Result<(), ImageError> {
    if config.os == Os::Linux.to_string() && config.architecture == architecture {
        return Ok(());
    }
    let there = format!("{}/{}", config.os, config.architecture);
    Err(ImageError::Platform { name: name.to_owned(), wanted: architecture.to_owned(), there })
}

/// A processor's name as OCI has it.
#[must_use]
pub(crate) fn known_architecture(name: &str) -> bool {
    !matches!(Arch::from(name), Arch::Other(_))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choice(os: &str, architecture: &str, variant: Option<&str>, digit: char) -> Choice {
        let digest = format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap();
        let manifest = Part { digest, size: 1 };
        let variant = variant.map(str::to_owned);
        Choice { manifest, os: os.into(), architecture: architecture.into(), variant }
    }

    #[test]
    fn the_guests_processor_decides_and_an_error_names_what_there_is() {
        let all = [
            choice("windows", "amd64", None, '1'),
            choice("linux", "arm64", Some("v8"), '2'),
            choice("linux", "amd64", Some("v3"), '3'),
            choice("linux", "amd64", None, '4'),
            choice("unknown", "unknown", None, '5'),
        ];
        assert_eq!(choose(&all, "amd64", "x").unwrap(), all[3].manifest);
        assert_eq!(choose(&all, "arm64", "x").unwrap(), all[1].manifest);
        let error = choose(&all, "riscv64", "x").unwrap_err().to_string();
        assert_eq!(
            error,
            "x has no version for linux/riscv64; there are: windows/amd64, linux/arm64/v8, linux/amd64/v3, linux/amd64"
        );
    }

    #[test]
    fn an_environment_is_names_and_values() {
        let lines = ["A=1=2".to_owned(), "B=".to_owned()];
        let env = environment(&lines).unwrap();
        assert_eq!((env["A"].as_str(), env["B"].as_str()), ("1=2", ""));
        for bad in ["=x", "novalue", "A=\0"] {
            assert!(environment(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
        assert!(environment(&vec!["A=123456789".to_owned(); 20_000]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
            drop(parse_config(&bytes, 1));
        }

        #[test]
        fn arbitrary_json_never_panics(
            kind in "(manifests|layers|config|rootfs)", digest in "(sha256:)?[0-9a-f/.]{0,70}", size in any::<i64>(),
        ) {
            let descriptor = format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#);
            let text = format!(r#"{{"schemaVersion":2,"{kind}":[{descriptor}],"config":{descriptor},"layers":[{descriptor}]}}"#);
            drop(parse(text.as_bytes()));
            drop(parse_config(text.as_bytes(), 1));
        }
    }
}
