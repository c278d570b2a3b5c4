//! `aegis template`.

use aegis_api::template::Template;

use crate::arguments::format::{Format, OutputFormat};
use crate::arguments::template::TemplateCommand;
use crate::byte_size::size;
use crate::failure::Failure;
use crate::render::columns;
use crate::{Context, output};

/// Does what is to be done with templates.
///
/// # Errors
/// If the daemon cannot be asked.
pub async fn template(context: &Context, command: TemplateCommand) -> Result<i32, Failure> {
    match command {
        TemplateCommand::List(format) => list(context, &format).await,
        TemplateCommand::Prune(format) => prune(context, &format).await,
    }
}

async fn list(context: &Context, format: &Format) -> Result<i32, Failure> {
    let all = context.client().templates().await?;
    if format.output == OutputFormat::Json {
        return output::json(&all);
    }
    if all.is_empty() {
        return output::line("No templates.");
    }
    let row = |one: &Template| {
        let (memory, size) = (format!("{} MiB", one.memory_mb), size(one.bytes));
        let spare = if one.spare { "ready" } else { "-" };
        let used = one.last_used_at.clone();
        [one.name.clone(), memory, one.vcpus.to_string(), size, spare.to_owned(), used]
    };
    let head = ["NAME", "MEMORY", "CPUS", "SIZE", "SPARE", "LAST USED"].map(str::to_owned);
    output::line(columns(&std::iter::once(head).chain(all.iter().map(row)).collect::<Vec<_>>()))
}

async fn prune(context: &Context, format: &Format) -> Result<i32, Failure> {
    let gone = context.client().prune_templates().await?;
    if format.output == OutputFormat::Json {
        return output::json(&gone);
    }
    let bytes: u64 = gone.iter().map(|one| one.bytes).sum();
    let what = if gone.len() == 1 { "template" } else { "templates" };
    output::line(format!("Removed {} {what}, {}", gone.len(), size(bytes)))
}
