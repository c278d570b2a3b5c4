//! The layers of crates: arrows run downwards.

use std::path::Path;

/// From the top to the bottom. A crate depends on crates of lower layers alone.
const LAYERS: &[&[&str]] = &[
    &["aegisd", "aegis-cli", "aegis-krun-worker"],
    &["aegis-http"],
    &["aegis-engine", "aegis-client"],
    &["aegis-instances"],
    &["aegis-machines", "aegis-registry", "aegis-router", "aegis-images", "aegis-harness"],
    &[
        "aegis-gateway",
        "aegis-workspace",
        "aegis-guest-link",
        "aegis-kits",
        "aegis-store",
        "aegis-vmm",
        "aegis-copy",
    ],
    &["aegis-spec", "aegis-erofs"],
    &["aegis-lifecycle", "aegis-policy", "aegis-jail", "aegis-guest-protocol", "aegis-api"],
    &["aegis-paths", "aegis-sys"],
    &["aegis-fuzz"],
];

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

/// What is wrong with the dependencies of a crate.
pub(crate) fn problems(dir: &Path, name: &str) -> Result<Vec<String>, String> {
    let path = dir.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let manifest: toml::Table = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
    let Some(own) = layer_of(name) else {
        return Ok(vec![format!("{name} is in no layer: put it into xtask/src/layers.rs")]);
    };
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    let names = dependencies.into_iter().flat_map(toml::Table::keys);
    let upwards = names.filter(|other| layer_of(other).is_some_and(|layer| layer <= own));
    Ok(upwards.map(|other| format!("{name} depends on {other}, which is not below it")).collect())
}
