//! docs/CLI.md, from the definition of the commands.

use clap::{Arg, Command, CommandFactory};

use crate::arguments::command::Arguments;

const HEAD: &str = "# Command line\n\nGenerated from the program by `make docs`; do not edit.\n\n\
Exit codes: 0 for success, 2 for errors of use, 1 for any other failure. `run` and `exec` exit with the command's own \
code; 125 if Aegis itself failed, 126 if the command cannot be executed, 127 if it does not exist, 124 if its time \
was up, 130 if a `run` was interrupted and its command did not end by itself.\n";

/// The whole document.
#[must_use]
pub fn reference() -> String {
    let mut root = Arguments::command();
    root.build();
    let mut text = HEAD.to_owned();
    for command in visible(&root) {
        describe(command, "aegis", &mut text);
    }
    text
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn describe(command: &Command, parent: &str, text: &mut String) {
    let path = format!("{parent} {}", command.get_name());
    if command.has_subcommands() {
        for sub in visible(command) {
            describe(sub, &path, text);
        }
        return;
    }
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && argument.get_id() != "help")
        .collect();
    text.push_str(&format!("\n## {path}\n\n{about}.\n\n```\n{}\n```\n", usage(&path, &arguments)));
    if !arguments.is_empty() {
        text.push_str("\n| argument | meaning |\n|---|---|\n");
    }
    for argument in arguments {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("| `{}` | {} |\n", spelled(argument), help.replace('|', "\\|")));
    }
}

fn usage(path: &str, arguments: &[&Arg]) -> String {
    let mut line = path.to_owned();
    if arguments.iter().any(|argument| !argument.is_positional()) {
        line.push_str(" [OPTIONS]");
    }
    for argument in arguments.iter().filter(|argument| argument.is_positional()) {
        let dashes = if argument.is_last_set() { "-- " } else { "" };
        let name = spelled(argument);
        line.push_str(&if argument.is_required_set() {
            format!(" {dashes}{name}")
        } else {
            format!(" [{dashes}{name}]")
        });
    }
    line
}

fn spelled(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default();
    let value = values.iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ");
    if argument.is_positional() {
        let many = if argument.is_last_set()
            || argument.get_num_args().is_some_and(|count| count.max_values() > 1)
        {
            "…"
        } else {
            ""
        };
        return format!("{value}{many}");
    }
    let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let long = argument.get_long().unwrap_or_default();
    let takes_value = argument.get_action().takes_values();
    if takes_value { format!("{short}--{long} {value}") } else { format!("{short}--{long}") }
}
