//! `aegis logs`.

mod mark;
mod printer;
mod terminal;

use std::io::{self, IsTerminal, Write};

use aegis_client::LogQuery;
use printer::{Printer, Style, To};

use crate::Context;
use crate::arguments::format::OutputFormat;
use crate::arguments::observe::Logs;
use crate::failure::Failure;
use crate::output::{READER_GONE, pass_on};

/// Shows an instance's log.
///
/// # Errors
/// If there is none, or it cannot be printed.
pub async fn logs(context: &Context, arguments: &Logs) -> Result<i32, Failure> {
    let query = LogQuery { follow: arguments.follow, tail: arguments.tail, since: arguments.since.clone() };
    let mut lines = context.client().logs(&arguments.instance, &query).await?;
    let (mut out, mut err) = (io::stdout(), io::stderr());
    if arguments.format.output == OutputFormat::Json {
        while let Some(line) = lines.next_line().await? {
            if !pass_on(&mut out, &[&line[..], b"\n"].concat())? {
                return Ok(READER_GONE);
            }
        }
        return Ok(0);
    }
    let is_coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let terminals = (out.is_terminal(), err.is_terminal());
    let mut printer = Printer::new(Style { terminals, coloured: is_coloured, prefixed: arguments.prefix });
    let mut write = |parts: Vec<(To, Vec<u8>)>| {
        for (to, bytes) in parts {
            let to: &mut dyn Write = if to == To::Err { &mut err } else { &mut out };
            if !pass_on(to, &bytes)? {
                return Ok::<bool, Failure>(false);
            }
        }
        Ok(true)
    };
    while let Some(entry) = lines.next_entry().await? {
        if !write(printer.print(&entry))? {
            return Ok(READER_GONE);
        }
    }
    write(printer.end()).map(|all| if all { 0 } else { READER_GONE })
}
