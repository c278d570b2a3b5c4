//! What a kit says of itself. Unknown fields are refused: a misspelt one would silently mean nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest manifest, bytes.
pub const MOST_BYTES: u64 = 256 << 10;
/// Longest name, characters.
const LONGEST_NAME: usize = 40;

/// A manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// Its name, which is also that of its file or directory.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// What it is, in a line.
    pub description: String,
    /// How it is used, for people.
    pub usage: String,
    /// The image; the base root file system if there is none.
    pub image: Option<String>,
    /// The command, unless the user gives one.
    pub command: Vec<String>,
    /// Environment: stronger than the image's, weaker than secrets and what the user says.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// User in the guest.
    pub user: Option<String>,
    /// Secrets that it wants to be given.
    pub secrets: Secrets,
    /// Files that are put into the guest before its command is executed, at each boot.
    pub files: Vec<File>,
    /// Ports, as `--expose` takes them.
    pub ports: Vec<String>,
    /// The port in the guest that URLs by name reach; one of `ports`. The first HTTP port, if it is not said.
    pub http_port: Option<u16>,
    /// Limits.
    pub limits: Limits,
    /// When an idle instance rests.
    pub idle: Idle,
    /// What an instance may reach, as the API's `network` says it; the daemon understands it.
    pub network: Option<serde_json::Value>,
    /// Directory of the kit whose contents an empty workspace gets.
    pub workspace: Option<String>,
    /// Programs that run in the guest before the command does.
    pub hooks: Hooks,
    /// Programs that run on the host as long as an instance is enabled.
    pub instance_daemons: Vec<Daemon>,
}

/// Names of secrets. They are checked only: the user still says which an instance gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// Without these no instance is made.
    pub required: BTreeSet<String>,
    /// These it can use.
    pub optional: BTreeSet<String>,
}

/// A file or tree for the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where it is, in the kit's directory.
    pub from: String,
    /// Where it goes in the guest, absolute.
    pub to: String,
}

/// Limits, in units of the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory, e.g. `512m`.
    pub memory: Option<String>,
    /// Virtual processors.
    pub cpus: Option<u32>,
    /// Disk, e.g. `20g`.
    pub disk: Option<String>,
}

/// When an idle instance rests: durations, or `never`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Idle {
    /// From the last use to the pause.
    pub pause: Option<String>,
    /// From the pause until the machine goes to disk.
    pub hibernate: Option<String>,
    /// From the pause to the stop.
    pub stop: Option<String>,
    /// From a connection's last byte until it counts no more.
    pub connections_after: Option<String>,
}

/// Programs that run in the guest, never on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Ends with something other than 0, and a sentence on standard error, if the instance cannot work as it is set up.
    pub validate_config: Vec<String>,
    /// Prints lines of `KEY=VALUE`: more environment for the command, as strong as the kit's own.
    pub render_env: Vec<String>,
}

/// A program on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// Its name, for logs.
    pub name: String,
    /// Program and arguments; a program with `/` is one of the kit's directory.
    pub command: Vec<String>,
    /// Secrets that it gets, of those that the kit names and the user gives to the instance.
    #[serde(default)]
    pub secrets: BTreeSet<String>,
}

/// What is wrong with a manifest. The sentence names it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// How a manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// TOML.
    Toml,
}

fn broken<T>(text: impl Into<String>) -> Result<T, Broken> {
    Err(Broken(text.into()))
}

/// Whether a text can be a kit's or a daemon's name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether a path stays in the kit's directory.
fn stays_inside(path: &str) -> bool {
    let parts = Path::new(path).components();
    !path.is_empty() && parts.into_iter().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && Path::new(path).components().all(|part| part != Component::ParentDir)
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn parse(text: &str, format: Format) -> Result<Manifest, Broken> {
        let manifest: Result<Manifest, String> = match format {
            Format::Json => serde_json::from_str(text).map_err(|error| error.to_string()),
            Format::Toml => toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned()),
        };
        let manifest = manifest.map_err(Broken)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// All secrets that it names.
    pub fn secret_names(&self) -> impl Iterator<Item = &String> {
        self.secrets.required.iter().chain(&self.secrets.optional)
    }

    /// What can be told without looking at files.
    fn check(&self) -> Result<(), Broken> {
        if !is_name(&self.name) {
            return broken(format!(
                "name: {:?} is no name: 1 to {LONGEST_NAME} of a-z, 0-9 and '-'",
                self.name
            ));
        }
        if let Some(file) = self.files.iter().find(|file| !stays_inside(&file.from)) {
            return broken(format!("files: {:?} is not in the kit's directory", file.from));
        }
        if let Some(file) = self.files.iter().find(|file| !is_absolute(&file.to)) {
            return broken(format!("files: {:?} is no absolute path in the guest", file.to));
        }
        if let Some(template) = self.workspace.as_ref().filter(|template| !stays_inside(template)) {
            return broken(format!("workspace: {template:?} is not in the kit's directory"));
        }
        if let Some(name) = self.secrets.required.intersection(&self.secrets.optional).next() {
            return broken(format!("secrets: {name} is both required and optional"));
        }
        self.check_daemons()
    }

    fn check_daemons(&self) -> Result<(), Broken> {
        let mut names = BTreeSet::new();
        for daemon in &self.instance_daemons {
            if !is_name(&daemon.name) || !names.insert(&daemon.name) {
                return broken(format!("instance_daemons: {:?} is no name, or is given twice", daemon.name));
            }
            match daemon.command.first() {
                None => return broken(format!("instance_daemons: {} has no command", daemon.name)),
                Some(program)
                    if program.contains('/') && !stays_inside(program) && !program.starts_with('/') =>
                {
                    return broken(format!("instance_daemons: {program:?} is not in the kit's directory"));
                }
                Some(_) => {}
            }
            let named: BTreeSet<&String> = self.secret_names().collect();
            if let Some(secret) = daemon.secrets.iter().find(|secret| !named.contains(secret)) {
                return broken(format!(
                    "instance_daemons: {} wants {secret}, which secrets do not name",
                    daemon.name
                ));
            }
        }
        Ok(())
    }
}

/// Environment out of what `render_env` printed: lines of `KEY=VALUE`.
///
/// # Errors
/// [`Broken`] for the first line that is none.
pub fn rendered_env(text: &str) -> Result<BTreeMap<String, String>, Broken> {
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let pair = line.split_once('=').filter(|(key, value)| {
            let first = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            first
                && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && !value.contains('\0')
        });
        match pair {
            Some((key, value)) => drop(all.insert(key.to_owned(), value.to_owned())),
            None => return broken(format!("render_env printed {line:?}, which is no KEY=VALUE")),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_text_is_no_panic(text in ".{0,300}") {
            drop(Manifest::parse(&text, Format::Json));
            drop(Manifest::parse(&text, Format::Toml));
            drop(rendered_env(&text));
        }

        #[test]
        fn a_path_that_stays_inside_has_no_way_out(path in "[a./]{0,12}") {
            if stays_inside(&path) {
                let joined = Path::new("/kit").join(&path);
                prop_assert!(joined.starts_with("/kit") && !path.split('/').any(|part| part == ".."));
            }
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let toml =
            "name = \"web\"\ncommand = [\"serve\"]\nports = [\"80\"]\n[secrets]\nrequired = [\"KEY\"]\n";
        let json = r#"{"name":"web","command":["serve"],"ports":["80"],"secrets":{"required":["KEY"]}}"#;
        assert_eq!(Manifest::parse(toml, Format::Toml), Manifest::parse(json, Format::Json));
        assert!(Manifest::parse(toml, Format::Toml).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("nmae = \"web\"", "nmae"),
            ("name = \"We b\"", "name"),
            ("name = \"w\"\n[[files]]\nfrom = \"../x\"\nto = \"/x\"", "files"),
            ("name = \"w\"\n[[files]]\nfrom = \"x\"\nto = \"x\"", "absolute"),
            ("name = \"w\"\nworkspace = \"/etc\"", "workspace"),
            ("name = \"w\"\n[[instance_daemons]]\nname = \"d\"\ncommand = []", "no command"),
            ("name = \"w\"\n[[instance_daemons]]\nname = \"d\"\ncommand = [\"a/../../x\"]", "directory"),
            ("name = \"w\"\n[[instance_daemons]]\nname = \"d\"\ncommand = [\"x\"]\nsecrets = [\"S\"]", "S"),
        ] {
            let error = Manifest::parse(text, Format::Toml).unwrap_err();
            assert!(error.0.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn rendered_environment_is_lines_of_pairs() {
        assert_eq!(
            rendered_env("A=1\n\nB=x=y\n"),
            Ok([("A".into(), "1".into()), ("B".into(), "x=y".into())].into())
        );
        assert!(rendered_env("not a pair").is_err());
        assert!(rendered_env("=x").is_err());
    }
}
