//! Manifests and configurations: what of them counts, checked.

use std::collections::BTreeMap;

use oci_spec::image::Arch;
use serde::Deserialize;
use serde_json::Value;

use crate::digest::Digest;
use crate::error::ImageError;

/// Longest manifest or configuration, bytes. Registries commonly refuse more than 4 MiB.
pub(crate) const MOST_DOCUMENT: u64 = 4 << 20;
/// Most layers; Docker allows 127.
pub(crate) const MOST_LAYERS: usize = 512;
/// Most images of one index or archive.
pub(crate) const MOST_IMAGES: usize = 1000;
/// Most documents that are looked at for one image: indices may lead to indices.
pub(crate) const MOST_LOOKED: usize = 32;
/// Most bytes of an image's environment.
const MOST_ENV: usize = 128 << 10;
/// Most of what there is that an error names.
const MOST_NAMED: usize = 20;

/// Media types that registries are asked for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A part of an image by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A layer of an image. How it is packed, its first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerPart {
    pub(crate) blob: Part,
    /// What it is called if that is no layer that is known.
    pub(crate) unknown: Option<String>,
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
    /// Names of system and processor are empty if it does not say which.
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
    pub(crate) annotations: BTreeMap<String, String>,
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

/// A manifest or an index, of which builders leave out or set to null whatever they have no use for.
#[derive(Deserialize)]
struct Written {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<Value>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    digest: String,
    size: Option<u64>,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Default, Deserialize)]
struct Platform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl Descriptor {
    fn part(&self) -> Result<Part, ImageError> {
        // Where the size is not said, it is not checked before the digest is.
        Ok(Part { digest: self.digest.parse()?, size: self.size.unwrap_or(MOST_DOCUMENT) })
    }

    fn layer(&self) -> Result<LayerPart, ImageError> {
        let name = self.media_type.clone().unwrap_or_default();
        let unknown = (!is_layer(&name)).then_some(name);
        let size = self.size.ok_or_else(|| ImageError::invalid("its manifest: a layer without a size"))?;
        Ok(LayerPart { blob: Part { digest: self.digest.parse()?, size }, unknown })
    }

    fn choice(self) -> Option<Choice> {
        // What has another kind of digest is no image that can be stored here.
        let manifest = self.part().ok()?;
        let platform = self.platform.unwrap_or_default();
        let annotations = self.annotations.unwrap_or_default();
        Some(Choice {
            manifest,
            os: platform.os.unwrap_or_default().to_lowercase(),
            architecture: architecture(platform.architecture.as_deref().unwrap_or_default()),
            variant: platform.variant.filter(|variant| !variant.is_empty()),
            annotations: annotations.into_iter().filter_map(|(key, value)| Some((key, value?))).collect(),
        })
    }
}

/// A processor under its usual name among images.
fn architecture(name: &str) -> String {
    match name.to_lowercase().as_str() {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    }
}

fn is_layer(media_type: &str) -> bool {
    let known = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let packed = |rest: &str| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd");
    known.iter().any(|known| media_type.strip_prefix(known).is_some_and(packed))
}

/// Reads a manifest or an index.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, ImageError> {
    let broken = |error: &dyn std::fmt::Display| ImageError::invalid(format!("its manifest: {error}"));
    let written: Written = serde_json::from_slice(bytes).map_err(|error| broken(&error))?;
    if written.schema_version == Some(Value::from(1)) {
        return Err(ImageError::invalid("its manifest has version 1, which registries have given up"));
    }
    let is_index = |kind: &String| kind.contains("index") || kind.contains("manifest.list");
    if written.manifests.is_some() || written.media_type.as_ref().is_some_and(is_index) {
        let manifests = written.manifests.unwrap_or_default();
        if manifests.len() > MOST_IMAGES {
            return Err(ImageError::invalid(format!("it has more than {MOST_IMAGES} images")));
        }
        return Ok(Document::Index(manifests.into_iter().filter_map(Descriptor::choice).collect()));
    }
    let config = written.config.ok_or_else(|| broken(&"it names no configuration"))?.part()?;
    let layers = written.layers.unwrap_or_default();
    if layers.len() > MOST_LAYERS {
        return Err(ImageError::invalid(format!("it has more than {MOST_LAYERS} layers")));
    }
    let layers = layers.iter().map(Descriptor::layer).collect::<Result<_, _>>()?;
    Ok(Document::Image { config, layers })
}

/// What a manifest calls itself.
pub(crate) fn media_type(bytes: &[u8]) -> String {
    let written: Option<Written> = serde_json::from_slice(bytes).ok();
    let own = written.and_then(|written| written.media_type);
    own.unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned())
}

impl Choice {
    fn shown(&self) -> Option<String> {
        // Attestations call themselves unknown/unknown.
        let known = !self.os.is_empty() && self.os != "unknown";
        let variant = self.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
        known.then(|| format!("{}/{}{variant}", self.os, self.architecture))
    }
}

/// Those of an index that may be for Linux on this processor, the best one first: those that do not say what they are
/// for come last, and are looked into.
pub(crate) fn candidates<'c>(
    choices: &'c [Choice],
    architecture: &str,
    name: &str,
) -> Result<Vec<&'c Choice>, ImageError> {
    let rank = |choice: &Choice| match (choice.os.as_str(), choice.architecture.as_str()) {
        // Of several the one without a variant, or with the processor's usual one, runs everywhere.
        ("linux", its) if its == architecture => Some(match choice.variant.as_deref() {
            None => 0,
            Some("v8") => 1,
            Some(_) => 2,
        }),
        ("" | "linux", "") => Some(3),
        _ => None,
    };
    let mut ranked: Vec<(u8, &Choice)> =
        choices.iter().filter_map(|choice| Some((rank(choice)?, choice))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    if ranked.is_empty() {
        return Err(no_platform(name, architecture, choices.iter().filter_map(Choice::shown)));
    }
    Ok(ranked.into_iter().map(|(_, choice)| choice).collect())
}

fn no_platform(name: &str, wanted: &str, there: impl Iterator<Item = String>) -> ImageError {
    let there: Vec<String> = there.take(MOST_NAMED).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    ImageError::Platform { name: name.to_owned(), wanted: wanted.to_owned(), there }
}

/// A configuration, of which builders leave out or set to null whatever they have no use for.
#[derive(Deserialize)]
struct WrittenConfig {
    os: Option<String>,
    architecture: Option<String>,
    created: Option<Value>,
    config: Option<WrittenSettings>,
    rootfs: Option<WrittenRoot>,
}

#[derive(Deserialize)]
struct WrittenSettings {
    #[serde(rename = "Env", alias = "env")]
    env: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct WrittenRoot {
    diff_ids: Option<Vec<String>>,
}

/// Reads a configuration, for an image with so many layers.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<Config, ImageError> {
    let broken = |error: &dyn std::fmt::Display| ImageError::invalid(format!("its configuration: {error}"));
    let written: WrittenConfig = serde_json::from_slice(bytes).map_err(|error| broken(&error))?;
    let root = written.rootfs.ok_or_else(|| {
        ImageError::invalid("it is no image of a file system: its configuration speaks of no layers")
    })?;
    let ids = root.diff_ids.unwrap_or_default();
    let diff_ids = ids.iter().map(|id| id.parse()).collect::<Result<Vec<Digest>, _>>()?;
    if diff_ids.len() != layers {
        let text = format!("its configuration names {} layers, its manifest {layers}", diff_ids.len());
        return Err(ImageError::invalid(text));
    }
    let lines = written.config.and_then(|config| config.env).unwrap_or_default();
    let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
    Ok(Config {
        os: written.os.unwrap_or_default().to_lowercase(),
        architecture: architecture(&written.architecture.unwrap_or_default()),
        env: environment(&lines)?,
        diff_ids,
        created: written.created.as_ref().and_then(Value::as_str).map(str::to_owned),
    })
}

/// What has no name or no value is left out, as the programs that start containers do.
fn environment(lines: &[&str]) -> Result<BTreeMap<String, String>, ImageError> {
    if lines.iter().map(|line| line.len()).sum::<usize>() > MOST_ENV {
        return Err(ImageError::invalid(format!("its environment has more than {MOST_ENV} bytes")));
    }
    let pairs = lines.iter().filter(|line| !line.contains('\0')).filter_map(|line| line.split_once('='));
    let named = pairs.filter(|(name, _)| !name.is_empty());
    Ok(named.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Whether an image is for Linux on this processor: what does not say is taken to be, as elsewhere. What becomes of its
/// system and processor is what they are called.
pub(crate) fn check_platform(config: &mut Config, architecture: &str, name: &str) -> Result<(), ImageError> {
    for (said, usual) in [(&mut config.os, "linux"), (&mut config.architecture, architecture)] {
        if said.is_empty() {
            usual.clone_into(said);
        }
    }
    if config.os == "linux" && config.architecture == architecture {
        return Ok(());
    }
    let there = format!("{}/{}", config.os, config.architecture);
    Err(no_platform(name, architecture, std::iter::once(there)))
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
        let annotations = BTreeMap::new();
        Choice { manifest, os: os.into(), architecture: architecture.into(), variant, annotations }
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
        let chosen = |architecture| candidates(&all, architecture, "x").unwrap();
        assert_eq!(chosen("amd64"), [&all[3], &all[2]]);
        assert_eq!(chosen("arm64"), [&all[1]]);
        let error = candidates(&all, "riscv64", "x").unwrap_err().to_string();
        assert_eq!(
            error,
            "x has no version for linux/riscv64; there are: windows/amd64, linux/arm64/v8, linux/amd64/v3, linux/amd64"
        );
    }

    #[test]
    fn what_does_not_say_what_it_is_for_is_looked_into_last() {
        let all = [
            choice("", "", None, '1'),
            choice("unknown", "unknown", None, '2'),
            choice("linux", "", None, '3'),
            choice("linux", "amd64", None, '4'),
            choice("linux", "arm64", None, '5'),
        ];
        assert_eq!(candidates(&all, "amd64", "x").unwrap(), [&all[3], &all[0], &all[2]]);
    }

    #[test]
    fn an_environment_is_names_and_values() {
        let env = environment(&["A=1=2", "B=", "=x", "novalue", "C=\0"]).unwrap();
        assert_eq!(
            env.into_iter().collect::<Vec<_>>(),
            [("A", "1=2"), ("B", "")].map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert!(environment(&vec!["A=123456789"; 20_000]).is_err());
    }

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn configurations_of_all_builders_are_read() {
        let ids = format!(r#""rootfs":{{"type":"layers","diff_ids":["{EMPTY}"]}}"#);
        for rest in [
            r#""architecture":"amd64","os":"linux","config":{"Env":["A=1"],"User":1000,"Cmd":"x","Entrypoint":[]}"#,
            r#""architecture":"x86_64","os":"Linux","created":null,"config":{"env":["A=1"]},"history":null"#,
            r#""architecture":"","os":"","created":"","config":{"Env":["A=1","B",null,7],"ExposedPorts":null}"#,
            r#""created":0,"author":null,"config":{"Env":["A=1"],"Volumes":[],"Labels":null,"Healthcheck":{}}"#,
        ] {
            let mut config = parse_config(format!("{{{rest},{ids}}}").as_bytes(), 1).unwrap();
            check_platform(&mut config, "amd64", "x").unwrap();
            assert_eq!((config.os.as_str(), config.architecture.as_str()), ("linux", "amd64"), "{rest}");
            assert_eq!(config.env.len(), 1, "{rest}");
        }
        for none in [r#""config":null"#, r#""config":{"Env":null}"#, r#""config":{}"#] {
            let text = format!(r#"{{{none},"rootfs":{{"type":"layers","diff_ids":null}}}}"#);
            assert_eq!(parse_config(text.as_bytes(), 0).unwrap().env.len(), 0);
        }
        let told = parse_config(br#"{"mediaType":"chart"}"#, 0).unwrap_err().to_string();
        assert!(told.contains("no image of a file system"), "{told}");
    }

    #[test]
    fn manifests_of_all_builders_are_read() {
        let part = format!(r#""digest":"{EMPTY}","size":0"#);
        for text in [
            format!(r#"{{"schemaVersion":2,"config":{{{part}}},"layers":null}}"#),
            format!(r#"{{"config":{{{part},"mediaType":null,"annotations":null}},"mediaType":null}}"#),
            format!(
                r#"{{"schemaVersion":"2","config":{{{part}}},"layers":[],"annotations":{{}},"subject":null}}"#
            ),
        ] {
            assert!(
                matches!(parse(text.as_bytes()), Ok(Document::Image { layers, .. }) if layers.is_empty()),
                "{text}"
            );
        }
        for (media_type, known) in [
            ("application/vnd.oci.image.layer.v1.tar+gzip", true),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", true),
            ("application/vnd.example.layer", false),
            ("", false),
        ] {
            let text = format!(r#"{{"config":{{{part}}},"layers":[{{{part},"mediaType":"{media_type}"}}]}}"#);
            let Ok(Document::Image { layers, .. }) = parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(layers[0].unknown.is_none(), known, "{media_type}");
        }
        let index = format!(
            r#"{{"manifests":[{{{part},"platform":null}},{{{part},"platform":{{"architecture":"aarch64","os":"linux"}}}},
                {{"digest":"sha512:00","size":1}},{{{part},"annotations":{{"a":null,"b":"c"}}}}]}}"#
        );
        let Ok(Document::Index(choices)) = parse(index.as_bytes()) else { panic!("no index") };
        assert_eq!(choices.len(), 3, "what is no SHA-256 is left out");
        assert_eq!(choices[1].architecture, "arm64");
        assert_eq!(choices[2].annotations.get("b").unwrap(), "c");
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
