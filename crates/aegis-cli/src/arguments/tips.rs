//! Arguments that are commonly left out or put elsewhere, and what was probably meant.

use std::ffi::OsString;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::arguments::command::Arguments;
use crate::arguments::docker_words;

/// Reads the arguments; an error of use has a tip where there is one.
///
/// # Errors
/// Clap's, which is also what help is.
pub fn parse(arguments: &[OsString]) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(arguments).map_err(|mut error| {
        if let Some(tip) = tip(&error, arguments) {
            let tips = ContextValue::StyledStrs(vec![tip.into()]);
            let _earlier = error.insert(ContextKind::Suggested, tips);
            // What is spelled alike is something else.
            for alike in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg] {
                let _none = error.remove(alike);
            }
        }
        error
    })
}

fn tip(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let words: Vec<&str> = arguments.iter().skip(1).map_while(|word| word.to_str()).collect();
    let unexpected = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) => word.as_str(),
        _ => "",
    };
    match (error.kind(), words.as_slice()) {
        (ErrorKind::MissingRequiredArgument, ["run", rest @ ..]) if names_image(rest) => Some(
            "the ENTRYPOINT and CMD of an image are not used: give the command after --; \
             'aegis image info IMAGE' shows what the image has"
                .to_owned(),
        ),
        (ErrorKind::InvalidSubcommand, ..) => match error.get(ContextKind::InvalidSubcommand) {
            Some(ContextValue::String(word)) => docker_words::command(word).map(str::to_owned),
            _ => None,
        },
        _ if unexpected.starts_with('-') => docker_words::option(unexpected).map(str::to_owned),
        (ErrorKind::UnknownArgument, ["exec" | "run", ..]) => {
            Some(format!("a command and its arguments stand after --: '-- {unexpected}'"))
        }
        (ErrorKind::UnknownArgument, ["instance", "start", ..]) if !words.contains(&"--name") => Some(
            format!("an instance is named with --name: '--name {unexpected}'; a command stands after --"),
        ),
        (ErrorKind::UnknownArgument, ["instance", "start", ..]) => {
            Some(format!("a command and its arguments stand after --: '-- {unexpected}'"))
        }
        _ => None,
    }
}

fn names_image(words: &[&str]) -> bool {
    words.iter().any(|word| *word == "--image" || word.starts_with("--image="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&words).unwrap_err().to_string()
    }

    #[test]
    fn an_image_without_a_command_is_told_that_its_own_is_not_used() {
        for line in ["aegis run --image nginx", "aegis run -i --image=nginx --name web"] {
            let said = said(line);
            assert!(said.contains("ENTRYPOINT and CMD") && said.contains("aegis image info"), "{said}");
            assert!(said.contains("-- <COMMAND>..."), "{said}");
        }
        assert!(!said("aegis run").contains("ENTRYPOINT"));
    }

    #[test]
    fn a_word_in_the_wrong_place_gets_a_tip() {
        for (line, tip) in [
            ("aegis ps", "aegis instance list"),
            ("aegis prune", "aegis instance prune"),
            ("aegis instance create", "aegis instance start --name"),
            ("aegis run -p 80:80 -- true", "--expose"),
            ("aegis run --publish=80:80 -- true", "--expose"),
            ("aegis run --rm -- true", "leave it out"),
            ("aegis exec web sh", "after --: '-- sh'"),
            ("aegis run echo hello", "after --: '-- echo'"),
            ("aegis instance start deb", "'--name deb'"),
            ("aegis instance start --name deb sh", "'-- sh'"),
        ] {
            let said = said(line);
            assert!(said.contains(tip) && said.matches("tip:").count() == 1, "{said}");
        }
        assert!(!said("aegis exec web --nmae x").contains("after --: '--"));
    }

    #[test]
    fn what_is_right_is_read() {
        let words = ["aegis", "run", "--", "echo", "hello"].map(OsString::from);
        assert!(parse(&words).is_ok());
    }
}
