//! Checks of the sources that the compiler does not make: `cargo run -p xtask -- check-imports`.
//!
//! - No circle of files within a crate: a file that is imported does not import back, however long the way.
//! - No crate depends on one of its own layer or above it; the layers are in [`layers`].

mod graph;
mod layers;
mod modules;
mod references;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("check-imports") => check_imports(),
        _ => {
            say("usage: xtask check-imports");
            ExitCode::from(2)
        }
    }
}

/// Tells whoever runs this, if he still listens.
fn say(text: &str) {
    let _gone = writeln!(std::io::stderr(), "{text}");
}

/// The directories of the crates whose sources are checked.
fn crates(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root.join("crates"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("Cargo.toml").exists())
        .collect();
    found.sort();
    Ok(found)
}

fn check_imports() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    match problems(root) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            problems.iter().for_each(|problem| say(problem));
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("check-imports: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn problems(root: &Path) -> Result<Vec<String>, String> {
    let mut problems = Vec::new();
    for dir in crates(root).map_err(|error| error.to_string())? {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        problems.extend(layers::problems(&dir, &name)?);
        for top in ["src/lib.rs", "src/main.rs"] {
            let top = dir.join(top);
            if !top.exists() {
                continue;
            }
            let tree = modules::Tree::read(&top)?;
            let imports = references::imports(&tree);
            for circle in graph::circles(&imports) {
                let files: Vec<String> = circle.iter().map(|file| modules::shown(file, &dir)).collect();
                problems.push(format!("{name}: a circle of files: {}", files.join(" -> ")));
            }
        }
    }
    Ok(problems)
}
