//! `aegis run`: an instance that belongs to this process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use aegis_api::image::PullPolicy;
use aegis_api::instance::{CreateInstance, TimedStep, Timings};
use aegis_api::stream::{Exit, Frame};
use aegis_client::{Client, ClientError};
use tokio::time::Instant;

use crate::arguments::host_directory;
use crate::arguments::instance_settings::{Pull, Settings};
use crate::arguments::process::{Interaction, Run};
use crate::arguments::value_parsers;
use crate::commands::image;
use crate::failure::{AEGIS_FAILED, Failure};
use crate::output::{READER_GONE, complain, say};
use crate::session::{Control, End, Input, Interrupts, Reminder, copy_output, send_input};
use crate::terminal::{self, Changed};
use crate::{Context, render};

/// Exit code of an interrupted run: 128 + SIGINT.
const INTERRUPTED: i32 = 130;
/// Exit code of a run whose time was up, as of `timeout(1)` and of `exec`.
const TIMED_OUT: i32 = 124;
/// How long an interrupted command may take to end.
const INTERRUPT_GRACE: Duration = Duration::from_secs(10);
/// How long to wait for a daemon that has gone.
const DAEMON_RETURN: Duration = Duration::from_secs(30);
/// How often to look whether it is back.
const RETRY: Duration = Duration::from_millis(100);

/// Environment variables as the API takes them; the last of a name counts.
#[must_use]
pub fn environment(pairs: Vec<value_parsers::Environment>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|pair| (pair.key, pair.value)).collect()
}

/// A command as the API takes it: text, or base64 where a word is no UTF-8.
#[must_use]
pub fn words(command: &[OsString]) -> (Vec<String>, Vec<String>) {
    aegis_api::command_encoding::request(&command.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
}

/// The request for an instance with these settings.
///
/// # Errors
/// If a file that they name cannot be read.
pub fn request(settings: Settings, command: &[OsString]) -> Result<CreateInstance, Failure> {
    let (command, command_base64) = words(command);
    let directories = settings.workspace.iter().chain(settings.mount.iter().map(|mount| &mount.directory));
    let followed = directories.flat_map(|directory| directory.followed.clone()).collect();
    Ok(CreateInstance {
        followed,
        network: settings.network.request()?,
        command,
        command_base64,
        handle: settings.name,
        env: environment(settings.env),
        memory_mb: settings.memory,
        vcpus: settings.cpus,
        disk_mb: settings.disk,
        workdir: settings.workdir,
        user: settings.user,
        image: settings.image,
        pull: settings.pull.map(pull_policy),
        no_image_env: settings.no_image_env,
        secrets: settings.secret,
        workspace: settings
            .workspace
            .map(|wanted| host_directory::directory(wanted, settings.workspace_quota)),
        mounts: settings.mount.into_iter().map(host_directory::WantedMount::request).collect(),
        kit: settings.kit,
        timeout_ms: settings.timeout,
        max_lifetime_ms: settings.max_lifetime,
        no_template: settings.no_template,
        exposes: settings.expose.into_iter().flat_map(|ports| ports.0).collect(),
        idle_pause_ms: settings.idle_pause,
        idle_hibernate_ms: settings.idle_hibernate,
        idle_stop_ms: settings.idle_stop,
        idle_connections_after_ms: settings.idle_connections_after,
        ..CreateInstance::default()
    })
}

fn pull_policy(pull: Pull) -> PullPolicy {
    match pull {
        Pull::Missing => PullPolicy::Missing,
        Pull::Always => PullPolicy::Always,
        Pull::Never => PullPolicy::Never,
    }
}

/// Fetches the image that a request names, where the user can watch.
///
/// # Errors
/// If it cannot be had.
pub async fn fetch_image(client: &mut Client, request: &mut CreateInstance) -> Result<(), Failure> {
    let Some(name) = &request.image else { return Ok(()) };
    image::make_ready(client, name, request.pull.unwrap_or_default()).await?;
    if request.pull == Some(PullPolicy::Always) {
        // Once is enough.
        request.pull = None;
    }
    Ok(())
}

/// Runs a command in a machine that ends with it, and returns its exit code.
///
/// # Errors
/// If Aegis fails; the instance is deleted.
pub async fn run(context: &Context, arguments: Run) -> Result<i32, Failure> {
    let begun = Instant::now();
    let Interaction { interactive, tty } = arguments.interaction;
    let mut request = CreateInstance {
        ephemeral: true,
        stdin: interactive,
        tty: tty.then(terminal::size),
        ..request(arguments.settings, &arguments.command)?
    };
    let mut interrupts = Interrupts::listen()?;
    let mut client = context.client();
    tokio::select! {
        fetched = fetch_image(&mut client, &mut request) => fetched.map_err(Failure::of_process)?,
        _number = interrupts.next() => return Ok(INTERRUPTED),
    }
    let instance = tokio::select! {
        created = client.create(&request) => created.map_err(|error| Failure::from(error).of_process())?,
        // One that is being created all the same is deleted: nobody attaches to it.
        _number = interrupts.next() => return Ok(INTERRUPTED),
    };
    for endpoint in &instance.endpoints {
        say(&format!("Serving on {}", render::url(endpoint)));
    }
    let raw = if tty && interactive { Changed::to_raw()? } else { None };
    let mut belonging = Belonging {
        client,
        id: instance.id,
        passed: [0; 2],
        input: interactive.then(Input::start),
        tty,
        timings: None,
    };
    let outcome = belonging.follow(&mut interrupts).await;
    drop(raw);
    if let Some(timings) = belonging.timings.filter(|_| arguments.timings) {
        say(&told(&timings, begun.elapsed()));
    }
    outcome
}

/// The instance of this run.
struct Belonging {
    client: Client,
    id: String,
    passed: [u64; 2],
    input: Option<Input>,
    tty: bool,
    /// Where the time of its start went, once that is known.
    timings: Option<Timings>,
}

impl Belonging {
    async fn follow(&mut self, interrupts: &mut Interrupts) -> Result<i32, Failure> {
        let mut interrupted = None;
        loop {
            let end = self.attend(interrupts, &mut interrupted).await;
            // A command that ends by itself, with the interrupt or in spite of it, has the last word.
            let given_up = interrupted.is_some() && !matches!(end, Ok(End::Exit(_)));
            let code = match end {
                Ok(End::Exit(mut exit)) => {
                    self.timings = exit.timings.take();
                    explain(&exit);
                    Ok(exit_code(&exit))
                }
                Ok(End::Failed(failure)) => Err(failure.of_process()),
                Ok(End::ReaderGone) => Ok(READER_GONE),
                Ok(End::DaemonGone) => {
                    if self.daemon_is_back(interrupts).await {
                        continue;
                    }
                    let text = "lost aegisd; the instance is deleted at its next start";
                    return Err(Failure { exit_code: AEGIS_FAILED, ..Failure::new(text) });
                }
                Err(failure) => Err(failure.of_process()),
            };
            tokio::select! {
                () = self.delete() => {}
                // The daemon deletes it all the same.
                _number = interrupts.next() => {}
            }
            return if given_up { Ok(INTERRUPTED) } else { code };
        }
    }

    /// Passes everything on until the command ends, the daemon goes, or patience with an interrupted command does.
    async fn attend(
        &mut self,
        interrupts: &mut Interrupts,
        interrupted: &mut Option<Instant>,
    ) -> Result<End, Failure> {
        let (mut reader, mut writer) = tokio::select! {
            attached = self.client.attach(&self.id, self.passed) => attached?,
            _number = interrupts.next() => {
                *interrupted = Some(Instant::now());
                return Ok(End::ReaderGone);
            }
        };
        let (say, mut control) = Control::channel();
        let mut passed = self.passed;
        let work = async {
            tokio::select! {
                end = copy_output(&mut reader, &mut passed) => end,
                () = send_input(&mut writer, self.input.as_mut(), self.tty, &mut control) => Ok(End::DaemonGone),
            }
        };
        let mut reminder = Reminder::default();
        let end = {
            tokio::pin!(work);
            loop {
                let patience = async {
                    match *interrupted {
                        Some(since) => tokio::time::sleep_until(since + INTERRUPT_GRACE).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    end = &mut work => break end,
                    _number = interrupts.next() => {
                        if interrupted.replace(Instant::now()).is_some() {
                            break Ok(End::ReaderGone);
                        }
                        reminder.begin();
                        // A connection that has broken ends the loop by itself, one that stands still does so by patience.
                        let _full_or_broken = say.try_send(Frame::Signal(2));
                    }
                    () = patience => break Ok(End::ReaderGone),
                    () = reminder.due() => reminder.say(),
                }
            }
        };
        self.passed = passed;
        end
    }

    /// Waits for a daemon that has gone. Returns whether it is back, and knows the instance.
    async fn daemon_is_back(&mut self, interrupts: &mut Interrupts) -> bool {
        let until = Instant::now() + DAEMON_RETURN;
        while Instant::now() < until {
            match self.client.describe(&self.id).await {
                Ok(_) => return true,
                Err(ClientError::NotRunning | ClientError::Io(_)) => {}
                Err(_) => return false,
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = interrupts.next() => return false,
            }
        }
        false
    }

    async fn delete(&mut self) {
        match self.client.delete(&self.id).await {
            Ok(_) => {}
            // Gone already: that is what was wanted.
            Err(ClientError::Api(error)) if error.code == aegis_api::error::ErrorCode::NotFound => {}
            Err(error) => complain(&Failure::from(error)),
        }
    }
}

/// The command's exit code, unless its time was up.
fn exit_code(exit: &Exit) -> i32 {
    let timed_out =
        exit.reason.as_ref().is_some_and(|reason| matches!(reason.code.as_str(), "timeout" | "lifetime"));
    if timed_out { TIMED_OUT } else { exit.code }
}

/// Where the time went, in one line.
fn told(timings: &Timings, whole: Duration) -> String {
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
    let step = |step: &TimedStep| format!("{} {:.1}", step.name, ms(step.us));
    let steps: Vec<String> = timings.steps.iter().map(step).collect();
    let start: u64 = timings.steps.iter().map(|step| step.us).sum();
    let (how, whole) = (&timings.start, whole.as_secs_f64() * 1000.0);
    format!("ms: started by {how} in {:.1} ({}); whole command {whole:.1}", ms(start), steps.join(", "))
}

/// Says why a command ended where its exit code does not.
pub(crate) fn explain(exit: &Exit) {
    let Some(reason) = &exit.reason else { return };
    if matches!(reason.code.as_str(), "exited" | "stopped" | "deleted") {
        return;
    }
    say(&reason.message);
    for line in &reason.console {
        say(&format!("console: {line}"));
    }
}
