//! `aegis`.

use aegis_cli::arguments::command::{Arguments, Command};
use aegis_cli::arguments::image::ImageCommand;
use aegis_cli::arguments::instance::InstanceCommand;
use aegis_cli::arguments::kit::KitCommand;
use aegis_cli::arguments::secret::SecretCommand;
use aegis_cli::arguments::tips;
use aegis_cli::arguments::workspace::WorkspaceCommand;
use aegis_cli::commands::{
    copy, daemon, events, exec, image, instance, kit, logs, network, run, secret, snapshot, stats, template,
    workspace,
};
use aegis_cli::failure::Failure;
use aegis_cli::{Context, markdown, output};
use clap::CommandFactory;

fn main() {
    let words: Vec<_> = std::env::args_os().collect();
    let arguments = tips::parse(&words).unwrap_or_else(|error| error.exit());
    let context = Context::read();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(&context, arguments.command)),
        Err(error) => Err(Failure::new(format!("cannot start: {error}"))),
    };
    let code = done.unwrap_or_else(|failure| {
        output::complain(&failure);
        failure.exit_code
    });
    // A thread may still wait for standard input; nothing of it is wanted any more.
    std::process::exit(code);
}

async fn dispatch(context: &Context, command: Command) -> Result<i32, Failure> {
    let without_home = matches!(
        command,
        Command::Version | Command::Completions { .. } | Command::Man { .. } | Command::MarkdownHelp
    );
    if !without_home {
        context.check()?;
    }
    match command {
        Command::Up(arguments) => daemon::up(context, &arguments).await,
        Command::Down(arguments) => daemon::down(context, &arguments).await,
        Command::Status(format) => daemon::status(context, format.output).await,
        Command::Doctor(format) => daemon::doctor(context, format.output),
        Command::Version => output::line(format!("aegis {}", env!("CARGO_PKG_VERSION"))),
        Command::Run(arguments) => run::run(context, *arguments).await,
        Command::Exec(arguments) => exec::exec(context, arguments).await,
        Command::Cp(arguments) => copy::copy(context, &arguments).await,
        Command::Logs(arguments) => logs::logs(context, &arguments).await,
        Command::Events(arguments) => events::events(context, &arguments).await,
        Command::Stats(arguments) => stats::stats(context, &arguments).await,
        Command::Instance { command } => match command {
            InstanceCommand::Start(arguments) => instance::start(context, *arguments).await,
            InstanceCommand::List(arguments) => instance::list(context, &arguments).await,
            InstanceCommand::Info(arguments) => instance::info(context, &arguments).await,
            InstanceCommand::Stop(names) => instance::act(context, &names, "stop", "stopped").await,
            InstanceCommand::Disable(names) => instance::act(context, &names, "disable", "disabled").await,
            InstanceCommand::Delete(names) => instance::act(context, &names, "delete", "deleted").await,
            InstanceCommand::Pause(names) => instance::act(context, &names, "pause", "paused").await,
            InstanceCommand::Hibernate(names) => {
                instance::act(context, &names, "hibernate", "hibernated").await
            }
            InstanceCommand::Resume(names) => instance::act(context, &names, "resume", "resumed").await,
            InstanceCommand::Prune(arguments) => instance::prune(context, &arguments).await,
            InstanceCommand::Expose(arguments) => instance::expose(context, arguments).await,
            InstanceCommand::Unexpose(arguments) => instance::unexpose(context, &arguments).await,
            InstanceCommand::Restart(names) => instance::act(context, &names, "restart", "restarted").await,
        },
        Command::Network { command } => network::network(context, command).await,
        Command::Image { command } => match command {
            ImageCommand::Pull(arguments) => image::pull(context, &arguments).await,
            ImageCommand::List(format) => image::list(context, format).await,
            ImageCommand::Info(arguments) => image::info(context, &arguments).await,
            ImageCommand::Tag(arguments) => image::tag(context, &arguments).await,
            ImageCommand::Remove(names) => image::remove(context, &names).await,
            ImageCommand::Prune(arguments) => image::prune(context, &arguments).await,
            ImageCommand::Load(arguments) => image::load(context, &arguments).await,
            ImageCommand::Save(arguments) => image::save(context, &arguments).await,
        },
        Command::Secret { command } => match command {
            SecretCommand::Set(arguments) => secret::set(context, arguments).await,
            SecretCommand::List(format) => secret::list(context, format).await,
            SecretCommand::Delete(keys) => secret::delete(context, &keys).await,
            SecretCommand::Rekey => secret::rekey(context).await,
        },
        Command::Snapshot { command } => snapshot::snapshot(context, command).await,
        Command::Fork(arguments) => snapshot::fork(context, arguments).await,
        Command::Template { command } => template::template(context, command).await,
        Command::Workspace { command } => match command {
            WorkspaceCommand::List(format) => workspace::list(context, format).await,
            WorkspaceCommand::Create(name) => workspace::create(context, &name).await,
            WorkspaceCommand::Info(name) => workspace::info(context, &name).await,
            WorkspaceCommand::Remove(names) => workspace::remove(context, &names).await,
        },
        Command::Kit { command } => match command {
            KitCommand::List(format) => kit::list(context, format).await,
            KitCommand::Info(name) => kit::info(context, &name).await,
            KitCommand::Validate(arguments) => kit::validate(context, &arguments).await,
        },
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "aegis", &mut script);
            output::bytes(&script)
        }
        Command::Man { dir } => clap_mangen::generate_to(Arguments::command(), &dir)
            .map(|()| 0)
            .map_err(|error| Failure::new(format!("cannot write to {}: {error}", dir.display()))),
        Command::MarkdownHelp => output::bytes(markdown::reference().as_bytes()),
    }
}
