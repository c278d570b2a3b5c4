//! How an image's maker meant it to be run. It counts for nothing here; users look it up to know what to type.

use std::fs::File;
use std::io::Read;

use serde_json::Value;

use crate::error::ImageError;
use crate::image_record::Record;
use crate::manifest::MOST_DOCUMENT;
use crate::store::Images;

/// What an image's configuration says of how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSettings {
    /// Program, with its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments behind those; without them the command.
    pub cmd: Vec<String>,
    /// User, empty if none is named.
    pub user: String,
    /// Working directory, empty if none is named.
    pub working_dir: String,
    /// Ports, each as `NUMBER/PROTOCOL`.
    pub exposed_ports: Vec<String>,
}

impl RunSettings {
    /// Reads a configuration, of which builders write each part as they please. What makes no sense is left out.
    fn read(bytes: &[u8]) -> RunSettings {
        let whole: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let field = |name: &str| whole["config"].get(name).cloned().unwrap_or_default();
        let words = |name: &str| match field(name) {
            Value::Array(words) => words.iter().filter_map(text).collect(),
            // A line for a shell, as some old builders write it.
            Value::String(line) if !line.is_empty() => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
            _ => Vec::new(),
        };
        let ports = field("ExposedPorts").as_object().map(|ports| ports.keys().cloned().collect());
        RunSettings {
            entrypoint: words("Entrypoint"),
            cmd: words("Cmd"),
            user: text(&field("User")).unwrap_or_default(),
            working_dir: text(&field("WorkingDir")).unwrap_or_default(),
            exposed_ports: ports.unwrap_or_default(),
        }
    }
}

impl Images {
    /// How an image's maker meant it to be run, out of its stored configuration. Blocks.
    ///
    /// # Errors
    /// If the configuration cannot be read.
    pub fn run_settings(&self, record: &Record) -> Result<RunSettings, ImageError> {
        let at = self.workshop().layout.blob(&record.config);
        let mut bytes = Vec::new();
        let read = File::open(&at).and_then(|file| file.take(MOST_DOCUMENT).read_to_end(&mut bytes));
        read.map_err(ImageError::io("cannot read", at))?;
        Ok(RunSettings::read(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_configuration_says_is_read_however_it_is_written() {
        let read = |config: &str| RunSettings::read(format!(r#"{{"config":{config}}}"#).as_bytes());
        let usual = read(
            r#"{"Entrypoint":["/bin/web"],"Cmd":["-p","80"],"User":"www","WorkingDir":"/srv","ExposedPorts":{"80/tcp":{},"53/udp":{}}}"#,
        );
        assert_eq!((usual.entrypoint, usual.cmd), (vec!["/bin/web".into()], vec!["-p".into(), "80".into()]));
        assert_eq!((usual.user.as_str(), usual.working_dir.as_str()), ("www", "/srv"));
        assert_eq!(usual.exposed_ports, ["53/udp", "80/tcp"]);
        let odd = read(r#"{"Entrypoint":null,"Cmd":"run it","User":1000,"ExposedPorts":[]}"#);
        assert_eq!(
            (odd.cmd.as_slice(), odd.user.as_str()),
            (&["/bin/sh", "-c", "run it"].map(str::to_owned)[..], "1000")
        );
        for nothing in ["null", "{}", "7", r#"{"Cmd":"","Entrypoint":{}}"#] {
            assert_eq!(read(nothing), RunSettings::default(), "{nothing}");
        }
        assert_eq!(RunSettings::read(b"\xff"), RunSettings::default());
    }
}
