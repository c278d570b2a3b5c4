//! `aegis instance`.

use aegis_api::instance::{CreateInstance, Instance, State};

use crate::Context;
use crate::arguments::{Info, List, Names, OutputFormat, Prune, Start};
use crate::failure::{FAILED, Failure};
use crate::output::{self, complain};
use crate::render;
use crate::run::request;

/// Creates and starts an instance, or starts an existing one.
///
/// # Errors
/// If it does not run afterwards.
pub async fn start(context: &Context, arguments: Start) -> Result<i32, Failure> {
    if arguments.command.is_empty() && arguments.settings.name.is_none() {
        let text = "a command is needed after --, or the handle of an existing instance with --name";
        return Err(Failure { exit_code: 2, ..Failure::new(text) });
    }
    let request = CreateInstance { wait: true, ..request(arguments.settings, arguments.command) };
    let instance = context.client().create(&request).await?;
    let mut text = format!("Instance started: {}", instance.id);
    if let Some(handle) = instance.handle {
        text = format!("{text}\nHandle: {handle}");
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
    let reply = context.client().prune(&arguments.stopped_older_than).await?;
    match arguments.format.output {
        OutputFormat::Json => output::json(&reply),
        OutputFormat::Text => output::line(match reply.pruned {
            1 => "Pruned 1 stopped instance".to_owned(),
            count => format!("Pruned {count} stopped instances"),
        }),
    }
}

/// Does the same to each instance. All are tried.
///
/// # Errors
/// If standard output cannot be written.
pub async fn act(context: &Context, names: &Names, verb: &str, done: &str) -> Result<i32, Failure> {
    let mut client = context.client();
    let mut code = 0;
    for name in &names.instances {
        let outcome = match verb {
            "delete" => client.delete(name).await,
            _ => client.act(name, verb).await,
        };
        match outcome {
            Ok(_) => code = code.max(output::line(format!("Instance {name} {done}"))?),
            Err(error) => {
                complain(&error.into());
                code = FAILED;
            }
        }
    }
    Ok(code)
}
