//! `aegis kit`.

use aegis_api::kit::Kit;

use crate::arguments::format::{Format, OutputFormat};
use crate::arguments::kit::{KitName, KitPath};
use crate::failure::Failure;
use crate::render::columns;
use crate::{Context, output};

/// Lists kits, broken ones with what is wrong.
///
/// # Errors
/// If the daemon cannot be asked.
pub async fn list(context: &Context, format: Format) -> Result<i32, Failure> {
    let kits = context.client().kits().await?;
    if format.output == OutputFormat::Json {
        return output::json(&kits);
    }
    if kits.is_empty() {
        return output::line("No kits installed.");
    }
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let head = ["NAME", "VERSION", "STATUS", "DESCRIPTION"].map(str::to_owned);
    let row = |kit: &Kit| {
        let text = kit.problem.as_deref().unwrap_or(&kit.description).lines().collect::<Vec<_>>().join(" ");
        [kit.name.clone(), or_dash(&kit.version), kit.status.clone(), or_dash(&text)]
    };
    output::line(columns(&std::iter::once(head).chain(kits.iter().map(row)).collect::<Vec<_>>()))
}

/// Describes a kit.
///
/// # Errors
/// If there is none of that name.
pub async fn info(context: &Context, name: &KitName) -> Result<i32, Failure> {
    let kit = context.client().kit(&name.name).await?;
    if name.format.output == OutputFormat::Json {
        return output::json(&kit);
    }
    output::line(described(&kit))
}

fn described(kit: &Kit) -> String {
    let manifest = kit.manifest.clone().unwrap_or_default();
    let text = |field: &str| manifest[field].as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| {
        let texts = value.as_array().into_iter().flatten().filter_map(|one| one.as_str());
        texts.collect::<Vec<_>>().join(" ")
    };
    let mut fields = vec![
        ("Name", kit.name.clone()),
        ("Version", kit.version.clone()),
        ("Description", kit.description.clone()),
        ("Status", kit.status.clone()),
        ("Problem", kit.problem.clone().unwrap_or_default()),
        ("Source", kit.source.clone()),
        ("Image", text("image")),
        ("Command", list(&manifest["command"])),
        ("Ports", list(&manifest["ports"])),
        ("Needs", list(&manifest["secrets"]["required"])),
        ("Can use", list(&manifest["secrets"]["optional"])),
        ("Used by", kit.used_by.join(", ")),
        ("Usage", text("usage").trim_end().to_owned()),
    ];
    fields.retain(|(_, value)| !value.is_empty());
    let line = |(label, value): &(&str, String)| format!("{:<12} {value}", format!("{label}:"));
    fields.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Checks a manifest, wherever it is. One that is broken is a failure.
///
/// # Errors
/// What is wrong with it.
pub async fn validate(context: &Context, arguments: &KitPath) -> Result<i32, Failure> {
    let shown = arguments.path.display();
    let path = arguments.path.canonicalize().map_err(|error| Failure::new(format!("{shown}: {error}")))?;
    let path = path.into_os_string().into_string().map_err(|_| Failure::new("the path is no UTF-8"))?;
    let kit = context.client().validate_kit(path).await?;
    if arguments.format.output == OutputFormat::Json {
        return output::json(&kit).map(|code| if kit.problem.is_some() { 1 } else { code });
    }
    match kit.problem {
        Some(problem) => Err(Failure::new(format!("kit {} is broken: {problem}", kit.name))),
        None => output::line(format!("Kit {} is valid", kit.name)),
    }
}
