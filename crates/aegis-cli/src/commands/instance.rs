//! `aegis instance`.

use aegis_api::instance::{CreateInstance, Instance, State};
use aegis_client::Client;

use crate::arguments::format::OutputFormat;
use crate::arguments::instance::{Expose, Info, List, Names, Prune, Start, Unexpose};
use crate::commands::run::{fetch_image, request};
use crate::failure::Failure;
use crate::{Context, output, render};

/// Creates and starts an instance, or starts an existing one.
///
/// # Errors
/// If it does not run afterwards.
pub async fn start(context: &Context, arguments: Start) -> Result<i32, Failure> {
    if arguments.command.is_empty() && arguments.settings.name.is_none() && arguments.from.is_none() {
        let text = "a command is needed after --, or the handle of an existing instance with --name";
        let hint = arguments.settings.image.as_deref().map(|image| {
            format!(
                "the ENTRYPOINT and CMD of an image are not used; see them with: aegis image info {image}"
            )
        });
        return Err(Failure { exit_code: 2, hint, ..Failure::new(text) });
    }
    let mut request = CreateInstance {
        wait: true,
        restart: arguments.restart,
        from: arguments.from,
        share_workspace: arguments.share_workspace,
        ..request(arguments.settings, &arguments.command)?
    };
    let mut client = context.client();
    fetch_image(&mut client, &mut request).await?;
    let instance = client.create(&request).await?;
    let mut text = format!("Instance started: {}", instance.id);
    if let Some(handle) = &instance.handle {
        text = format!("{text}\nHandle: {handle}");
    }
    if let Some(url) = &instance.url {
        text = format!("{text}\nRouter: {url}");
    }
    for endpoint in &instance.endpoints {
        text = format!("{text}\n{}", render::endpoint(endpoint));
    }
    output::line(text)
}

/// Lists instances.
///
/// # Errors
/// If the daemon cannot be asked.
pub async fn list(context: &Context, arguments: &List) -> Result<i32, Failure> {
    let wanted = |instance: &Instance| {
        let stopped = instance.state == State::Stopped;
        (!arguments.running || !stopped) && (!arguments.stopped || stopped)
    };
    let instances: Vec<Instance> = context.client().list().await?.into_iter().filter(wanted).collect();
    match arguments.format.output {
        OutputFormat::Json => output::json(&instances),
        OutputFormat::Text => output::line(render::list(&instances)),
    }
}

/// Describes an instance.
///
/// # Errors
/// If there is none.
pub async fn info(context: &Context, arguments: &Info) -> Result<i32, Failure> {
    let instance = context.client().describe(&arguments.instance).await?;
    match arguments.format.output {
        OutputFormat::Json => output::json(&instance),
        OutputFormat::Text => output::line(render::info(&instance)),
    }
}

/// Deletes instances that have been stopped for long.
///
/// # Errors
/// If the daemon cannot be asked.
pub async fn prune(context: &Context, arguments: &Prune) -> Result<i32, Failure> {
    let reply = context.client().prune(&arguments.stopped_older_than, arguments.all).await?;
    match arguments.format.output {
        OutputFormat::Json => output::json(&reply),
        OutputFormat::Text => output::line(render::pruned(&reply)),
    }
}

/// Makes ports of an instance reachable from the host: all of them or none.
///
/// # Errors
/// If one is taken or contradicts what is exposed.
pub async fn expose(context: &Context, arguments: Expose) -> Result<i32, Failure> {
    let ports = arguments.ports.into_iter().flat_map(|ports| ports.0).collect();
    let endpoints = context.client().expose(&arguments.instance, ports).await;
    let endpoints = endpoints.map_err(|error| Failure::from(error).about(&arguments.instance))?;
    match arguments.format.output {
        OutputFormat::Json => output::json(&endpoints),
        OutputFormat::Text => {
            let code = output::line(endpoints.iter().map(render::endpoint).collect::<Vec<_>>().join("\n"))?;
            tell_rest(context, &arguments.instance, endpoints.len()).await;
            Ok(code)
        }
    }
}

/// Says that an instance rests when nobody uses it, which it does from its first ports on; `exposed` have just become so.
async fn tell_rest(context: &Context, instance: &str, exposed: usize) {
    // That it is reachable has been said; whether more can be is of no weight.
    let Ok(described) = context.client().describe(instance).await else { return };
    if described.next_step.is_some() && described.endpoints.len() <= exposed {
        output::say(
            "note: from now on it is paused when nobody uses it, and connections wake it; see: aegis instance info",
        );
    }
}

/// Withdraws ports of an instance.
///
/// # Errors
/// If there is no such instance.
pub async fn unexpose(context: &Context, arguments: &Unexpose) -> Result<i32, Failure> {
    let mut code = 0;
    for port in &arguments.ports {
        context.client().unexpose(&arguments.instance, *port).await?;
        code = output::line(format!("Port {port} of {} is exposed no longer", arguments.instance))?;
    }
    Ok(code)
}

/// Who is connected to one that has been paused, and waits.
async fn waiting(client: &mut Client, name: &str) -> String {
    // Paused it is, whether or not this can be asked.
    match client.describe(name).await.map(|instance| instance.active_connections) {
        Ok(1) => "; 1 client is connected and waits until it goes on".to_owned(),
        Ok(count) if count > 1 => format!("; {count} clients are connected and wait until it goes on"),
        _ => String::new(),
    }
}

/// Does the same to each instance. All are tried.
///
/// # Errors
/// If standard output cannot be written.
pub async fn act(context: &Context, names: &Names, verb: &str, done: &str) -> Result<i32, Failure> {
    let mut client = context.client();
    output::each(&names.instances, async |name| {
        let acted = if verb == "delete" { client.delete(name).await } else { client.act(name, verb).await };
        acted?;
        let waiting = if verb == "pause" { waiting(&mut client, name).await } else { String::new() };
        Ok(format!("Instance {name} {done}{waiting}"))
    })
    .await
}
