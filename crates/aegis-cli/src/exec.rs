//! `aegis exec`.

use aegis_api::instance::ExecRequest;
use aegis_api::stream::Frame;

use crate::Context;
use crate::arguments::{Exec, Interaction};
use crate::failure::{AEGIS_FAILED, Failure};
use crate::output::READER_GONE;
use crate::run::environment;
use crate::session::{Control, End, Input, Interrupts, copy_output, send_input};
use crate::terminal::{self, Changed};

/// Executes a command in an instance and returns its exit code.
///
/// # Errors
/// If Aegis fails.
pub async fn exec(context: &Context, arguments: Exec) -> Result<i32, Failure> {
    let Interaction { interactive, tty } = arguments.interaction;
    let request = ExecRequest {
        command: arguments.command,
        env: environment(arguments.env),
        workdir: arguments.workdir,
        user: arguments.user,
        timeout_ms: arguments.timeout,
        tty: tty.then(terminal::size),
        stdin: interactive,
        unlogged: false,
        at_rest: false,
    };
    let mut interrupts = Interrupts::listen()?;
    let opened = context.client().exec(&arguments.instance, &request).await;
    let (mut reader, mut writer) = opened.map_err(|error| Failure::from(error).of_process())?;
    let raw = if tty && interactive { Changed::to_raw()? } else { None };
    let mut input = interactive.then(Input::start);
    let (say, mut control) = Control::channel();
    let mut passed = [0; 2];
    let work = async {
        tokio::select! {
            end = copy_output(&mut reader, &mut passed) => end,
            () = send_input(&mut writer, input.as_mut(), tty, &mut control) => Ok(End::DaemonGone),
        }
    };
    tokio::pin!(work);
    let end = loop {
        tokio::select! {
            end = &mut work => break end,
            number = interrupts.next() => {
                // A connection that has broken ends the loop by itself.
                let _broken = say.send(Frame::Signal(number)).await;
            }
        }
    };
    drop(raw);
    match end.map_err(Failure::of_process)? {
        End::Exit(exit) => Ok(exit.code),
        End::Failed(failure) => Err(failure.of_process()),
        End::ReaderGone => Ok(READER_GONE),
        End::DaemonGone => Err(Failure { exit_code: AEGIS_FAILED, ..Failure::new("lost aegisd") }),
    }
}
