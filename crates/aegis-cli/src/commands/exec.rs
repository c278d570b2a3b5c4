//! `aegis exec`.

use aegis_api::instance::ExecRequest;
use aegis_api::stream::Frame;
use tokio::time::{Duration, Instant};

use crate::Context;
use crate::arguments::process::{Exec, Interaction};
use crate::commands::run::{environment, explain, words};
use crate::failure::{AEGIS_FAILED, Failure};
use crate::output::{self, READER_GONE, say};
use crate::session::{Control, End, Input, Interrupts, Reminder, copy_output, send_input};
use crate::terminal::{self, Changed};

/// What a terminal sends for Ctrl-C.
const SIGINT: u8 = 2;
/// How long a command is waited for that was told to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Executes a command in an instance and returns its exit code.
///
/// # Errors
/// If Aegis fails.
pub async fn exec(context: &Context, arguments: Exec) -> Result<i32, Failure> {
    let Interaction { interactive, tty } = arguments.interaction;
    let (command, command_base64) = words(&arguments.command);
    let request = ExecRequest {
        command,
        command_base64,
        env: environment(arguments.env),
        workdir: arguments.workdir,
        user: arguments.user,
        timeout_ms: arguments.timeout,
        tty: tty.then(terminal::size),
        stdin: interactive,
        unlogged: false,
        at_rest: false,
        detach: arguments.detach,
    };
    let mut interrupts = Interrupts::listen()?;
    let mut client = context.client();
    let failed = |error| Failure::from(error).of_process().about(&arguments.instance);
    if request.detach {
        let started = tokio::select! {
            started = client.exec_detached(&arguments.instance, &request) => started,
            number = interrupts.next() => return Ok(ended_by(number)),
        };
        return output::line(started.map_err(failed)?.exec_id);
    }
    let opened = tokio::select! {
        opened = client.exec(&arguments.instance, &request) => opened,
        number = interrupts.next() => return Ok(ended_by(number)),
    };
    let (mut reader, mut writer) = opened.map_err(failed)?;
    let raw = if tty && interactive { Changed::to_raw()? } else { None };
    let mut input = interactive.then(Input::start);
    let (signals, mut control) = Control::channel();
    let mut passed = [0; 2];
    let work = async {
        tokio::select! {
            end = copy_output(&mut reader, &mut passed) => end,
            () = send_input(&mut writer, input.as_mut(), tty, &mut control) => Ok(End::DaemonGone),
        }
    };
    tokio::pin!(work);
    let (mut patience, mut reminder) = (Patience::default(), Reminder::default());
    let end = loop {
        tokio::select! {
            end = &mut work => break end,
            number = interrupts.next() => {
                if patience.is_used_up_by(number) {
                    return Ok(given_up(number));
                }
                if number == SIGINT {
                    reminder.begin();
                }
                // A connection that has broken ends the loop by itself, one that stands still does so by patience.
                let _full_or_broken = signals.try_send(Frame::Signal(number));
            }
            number = patience.over() => return Ok(given_up(number)),
            () = reminder.due() => reminder.say(),
        }
    };
    drop(raw);
    match end.map_err(Failure::of_process)? {
        End::Exit(exit) => {
            explain(&exit);
            Ok(exit.code)
        }
        End::Failed(failure) => Err(failure.of_process().about(&arguments.instance)),
        End::ReaderGone => Ok(READER_GONE),
        End::DaemonGone => Err(Failure { exit_code: AEGIS_FAILED, ..Failure::new("lost aegisd") }),
    }
}

/// Exit code of a program that a signal ended, as shells tell it.
fn ended_by(signal: u8) -> i32 {
    128 + i32::from(signal)
}

fn given_up(signal: u8) -> i32 {
    say("the command has not ended, and is hung up");
    ended_by(signal)
}

/// How long a command that was told a signal is waited for: until the next signal, and where it was a program that sent
/// it, which may not know of that, for some seconds.
#[derive(Debug, Default)]
struct Patience {
    asked: bool,
    until: Option<(Instant, u8)>,
}

impl Patience {
    fn is_used_up_by(&mut self, number: u8) -> bool {
        if number != SIGINT {
            self.until = self.until.or(Some((Instant::now() + PATIENCE, number)));
        }
        std::mem::replace(&mut self.asked, true)
    }

    async fn over(&self) -> u8 {
        match self.until {
            Some((at, number)) => {
                tokio::time::sleep_until(at).await;
                number
            }
            None => std::future::pending().await,
        }
    }
}
