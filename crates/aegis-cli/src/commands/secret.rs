//! `aegis secret`.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use crate::arguments::format::{Format, OutputFormat};
use crate::arguments::secret::{SecretKeys, SecretSet};
use crate::failure::Failure;
use crate::output::{self, say};
use crate::terminal::Changed;
use crate::{Context, user_file};

/// Longest value that is read, bytes; the daemon takes less.
const MOST_VALUE: u64 = 1 << 20;

/// Where a value comes from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Argument(String),
    File(std::path::PathBuf),
    Environment,
    Input,
    Question,
}

fn source(arguments: &SecretSet, terminal: bool) -> Source {
    match (&arguments.value, &arguments.from_file) {
        (Some(value), _) if value != "-" => Source::Argument(value.clone()),
        (Some(_), _) => Source::Input,
        (None, Some(path)) => Source::File(path.clone()),
        (None, None) if arguments.from_env => Source::Environment,
        (None, None) if terminal => Source::Question,
        (None, None) => Source::Input,
    }
}

fn whole(from: impl Read, what: &str) -> Result<String, Failure> {
    user_file::bounded(from, MOST_VALUE, what).map(without_line_end)
}

fn read(source: Source, key: &str) -> Result<String, Failure> {
    match source {
        Source::Argument(value) => {
            say("others can see a value in the list of processes and in the shell's history");
            let _mute =
                writeln!(io::stderr(), "  hint: leave it out to be asked for it, or use - or --from-file");
            Ok(value)
        }
        Source::File(path) => user_file::text(&path, MOST_VALUE).map(without_line_end),
        Source::Environment => {
            std::env::var(key).map_err(|_| Failure::new(format!("there is no environment variable {key}")))
        }
        Source::Input => whole(io::stdin().lock(), "standard input"),
        Source::Question => ask(key),
    }
}

fn ask(key: &str) -> Result<String, Failure> {
    let quiet = Changed::to_quiet()?;
    let _mute = write!(io::stderr(), "Value of {key}: ");
    let mut line = String::new();
    let read = io::stdin().lock().take(MOST_VALUE).read_line(&mut line);
    drop(quiet);
    let _mute = writeln!(io::stderr());
    read.map_err(|error| Failure::new(format!("cannot read the value: {error}")))?;
    Ok(without_line_end(line))
}

/// Files end with a line end that nobody means.
fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// Sets a secret.
///
/// # Errors
/// If the value cannot be read, or is refused.
pub async fn set(context: &Context, arguments: SecretSet) -> Result<i32, Failure> {
    let value = read(source(&arguments, io::stdin().is_terminal()), &arguments.key)?;
    context.client().set_secret(&arguments.key, value).await?;
    output::line(format!("Secret {} set", arguments.key))
}

/// Lists the names of secrets.
///
/// # Errors
/// If the daemon cannot be asked.
pub async fn list(context: &Context, format: Format) -> Result<i32, Failure> {
    let names = context.client().secrets().await?;
    match format.output {
        OutputFormat::Json => output::json(&names),
        OutputFormat::Text if names.is_empty() => output::line("No secrets"),
        OutputFormat::Text => {
            output::line(names.iter().fold("Secrets:".to_owned(), |text, name| format!("{text}\n  {name}")))
        }
    }
}

/// Deletes secrets. All are tried.
///
/// # Errors
/// If standard output cannot be written.
pub async fn delete(context: &Context, keys: &SecretKeys) -> Result<i32, Failure> {
    let mut client = context.client();
    output::each(&keys.keys, async |key| {
        client.delete_secret(key).await.map(|_| format!("Secret {key} deleted"))
    })
    .await
}

/// Seals all secrets anew.
///
/// # Errors
/// If that fails; then the old key counts.
pub async fn rekey(context: &Context) -> Result<i32, Failure> {
    let reply = context.client().rekey().await?;
    output::line(format!("Secrets sealed with a new key: {}", reply.secrets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_from_where_it_is_said_to_come_from() {
        let none = || SecretSet { from_file: None, from_env: false, key: "A".into(), value: None };
        assert_eq!(source(&none(), true), Source::Question);
        assert_eq!(source(&none(), false), Source::Input);
        assert_eq!(source(&SecretSet { value: Some("-".into()), ..none() }, true), Source::Input);
        assert_eq!(
            source(&SecretSet { value: Some("-x".into()), ..none() }, true),
            Source::Argument("-x".into())
        );
        assert_eq!(source(&SecretSet { from_env: true, ..none() }, false), Source::Environment);
    }

    #[test]
    fn one_line_end_is_nobodys_value() {
        assert_eq!(without_line_end("a\n".into()), "a");
        assert_eq!(without_line_end("a\r\n".into()), "a");
        assert_eq!(without_line_end("a\n\n".into()), "a\n");
        assert_eq!(without_line_end("a".into()), "a");
    }
}
