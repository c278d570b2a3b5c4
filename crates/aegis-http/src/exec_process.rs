//! A process of `exec`, served to its client until it has ended.

use std::sync::Arc;
use std::time::Duration;

use aegis_api::error::{ApiError, ErrorCode};
use aegis_api::logs::{ExecLine, LogStream as ApiStream, encode};
use aegis_api::stream::{Exit, Frame, Started};
use aegis_guest_protocol::messages::Target;
use aegis_instances::handle::{ExecHandle, InstanceHandle};
use aegis_machines::maintenance::MaintenanceMachine;
use aegis_machines::output::Output;
use aegis_machines::session::Session;
use aegis_store::logs::LogStream;
use bytes::Bytes;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::client_frames::client;
use crate::exec_timeout::{Limit, TIMED_OUT, time_was_up};
use crate::stream::{Incoming, Outgoing};

/// A process of `exec` and what belongs to it.
pub(crate) struct ExecProcess {
    pub(crate) name: String,
    pub(crate) process: ExecHandle,
    pub(crate) session: Arc<Session>,
    /// Where its output is logged.
    pub(crate) output: Option<Arc<Output>>,
    pub(crate) instance: InstanceHandle,
    pub(crate) timeout: Option<Duration>,
    /// Of what goes on when nobody waits for it.
    pub(crate) owner: TaskTracker,
    /// The machine, if it lives for this process alone.
    pub(crate) _machine: Option<MaintenanceMachine>,
}

/// What a process did next.
enum Next {
    Said(Said),
    /// Both its output streams have ended, or its session has.
    Ended,
}

/// What a process said.
enum Said {
    Out(Bytes),
    Err(Bytes),
}

impl ExecProcess {
    /// Serves an upgraded connection until the process has ended or the client has gone; then the process is
    /// hung up, by its streams being dropped.
    pub(crate) async fn serve(mut self, incoming: Incoming, mut outgoing: Outgoing) {
        let started = Frame::Started(Started { id: self.name.clone() });
        if outgoing.send(&started).await.is_err() {
            return;
        }
        let target = Target::Exec(self.process.exec_id);
        // Apart from the output: each direction goes on while the other waits.
        let input = client(incoming, Arc::clone(&self.session), target, Arc::clone(&self.process.io));
        let mut input = AbortOnDropHandle::new(tokio::spawn(input));
        let limit = Limit::begin(&self.owner, Arc::clone(&self.session), target, self.timeout);
        let instance = self.instance.clone();
        let held = instance.held();
        tokio::pin!(held);
        let (mut reading, mut noticed) = (Reading::default(), false);
        loop {
            tokio::select! {
                next = self.next(&mut reading) => {
                    let sent = match next {
                        Next::Said(Said::Out(bytes)) => outgoing.send(&Frame::Stdout(bytes)).await,
                        Next::Said(Said::Err(bytes)) => outgoing.send(&Frame::Stderr(bytes)).await,
                        Next::Ended => break,
                    };
                    if sent.is_err() {
                        return;
                    }
                    self.taken(&mut reading).await;
                }
                () = limit.given_up() => break,
                notice = &mut held, if !noticed => {
                    noticed = true;
                    if outgoing.send(&Frame::Notice(notice)).await.is_err() {
                        return;
                    }
                }
                _gone = &mut input => return,
            }
        }
        let frame = match self.exit_code(&limit).await {
            Some(code) => {
                Frame::Exit(Exit { code, reason: limit.is_over().then(time_was_up), timings: None })
            }
            None => Frame::Error(lost()),
        };
        // A client that has gone needs no exit code.
        let _gone = outgoing.finish(&frame).await;
    }

    /// The next piece of output, logged. Waits, and may be abandoned while it does.
    async fn next(&self, reading: &mut Reading) -> Next {
        while !(reading.out_ended && reading.err_ended) {
            let (out, read) = tokio::select! {
                read = self.process.io.read(), if !reading.out_ended => (true, read),
                read = self.process.err.read(), if !reading.err_ended => (false, read),
            };
            match read {
                Err(_) => return Next::Ended,
                Ok(None) if out => reading.out_ended = true,
                Ok(None) => reading.err_ended = true,
                Ok(Some(bytes)) => {
                    self.log(out, reading, &bytes);
                    reading.untaken = Some((out, bytes.len()));
                    return Next::Said(if out { Said::Out(bytes) } else { Said::Err(bytes) });
                }
            }
        }
        Next::Ended
    }

    /// The client has taken the last piece: the process may say as much more.
    async fn taken(&self, reading: &mut Reading) {
        if let Some((out, count)) = reading.untaken.take() {
            let stream = if out { &*self.process.io } else { &self.process.err };
            // The next read tells of a session that is over.
            let _over = stream.consumed(count).await;
        }
    }

    fn log(&self, out: bool, reading: &mut Reading, bytes: &[u8]) {
        let (stream, offset) = if out {
            (LogStream::Stdout, &mut reading.out_offset)
        } else {
            (LogStream::Stderr, &mut reading.err_offset)
        };
        if let Some(output) = &self.output {
            output.log_exec(&self.name, stream, *offset, bytes);
        }
        *offset += bytes.len() as u64;
    }

    /// The exit code, as soon as the guest tells it, or the process's time is over whatever the guest says.
    async fn exit_code(&mut self, limit: &Limit) -> Option<i32> {
        tokio::select! {
            status = &mut self.process.exited => {
                limit.settled();
                let status = status.ok()?;
                Some(if limit.is_over() { TIMED_OUT } else { status.code() })
            }
            () = limit.given_up() => Some(TIMED_OUT),
        }
    }

    /// Says that it has been executed.
    pub(crate) fn first_line(&self) -> ExecLine {
        let started_at = Some(jiff::Timestamp::now().to_string());
        ExecLine { exec_id: self.name.clone(), started_at, ..ExecLine::default() }
    }

    /// Logs the process's output until it has ended.
    pub(crate) async fn keep(mut self) {
        // Without input to come, the process sees the end of it at once.
        let _over = self.process.io.finish().await;
        let limit = Limit::begin(
            &self.owner,
            Arc::clone(&self.session),
            Target::Exec(self.process.exec_id),
            self.timeout,
        );
        let mut reading = Reading::default();
        loop {
            tokio::select! {
                next = self.next(&mut reading) => match next {
                    Next::Said(_) => self.taken(&mut reading).await,
                    Next::Ended => break,
                },
                () = limit.given_up() => break,
            }
        }
        let _code = self.exit_code(&limit).await;
    }

    /// Tells the process's output as JSON lines.
    pub(crate) async fn narrate(mut self, mut sender: http_body_util::channel::Sender<Bytes>) {
        let name = self.name.clone();
        let line = |line: ExecLine| {
            let mut json =
                serde_json::to_vec(&ExecLine { exec_id: name.clone(), ..line }).unwrap_or_default();
            json.push(b'\n');
            Bytes::from(json)
        };
        if sender.send_data(line(self.first_line())).await.is_err() {
            return;
        }
        // Without input to come, the process sees the end of it at once.
        let _over = self.process.io.finish().await;
        let target = Target::Exec(self.process.exec_id);
        let limit = Limit::begin(&self.owner, Arc::clone(&self.session), target, self.timeout);
        let mut reading = Reading::default();
        loop {
            let next = tokio::select! {
                next = self.next(&mut reading) => next,
                () = limit.given_up() => Next::Ended,
            };
            let (stream, bytes) = match next {
                Next::Said(Said::Out(bytes)) => (ApiStream::Stdout, bytes),
                Next::Said(Said::Err(bytes)) => (ApiStream::Stderr, bytes),
                Next::Ended => break,
            };
            let (data, data_base64) = encode(&bytes);
            let said = ExecLine { stream: Some(stream), data, data_base64, ..ExecLine::default() };
            if sender.send_data(line(said)).await.is_err() {
                return;
            }
            self.taken(&mut reading).await;
        }
        let exit_code = Some(self.exit_code(&limit).await.unwrap_or(-1));
        let _gone = sender.send_data(line(ExecLine { exit_code, done: true, ..ExecLine::default() })).await;
    }
}

/// How far a process's output has been read.
#[derive(Default)]
struct Reading {
    out_ended: bool,
    err_ended: bool,
    out_offset: u64,
    err_offset: u64,
    /// What was read last, and for which no credit was given yet: whether standard output, and how much.
    untaken: Option<(bool, usize)>,
}

fn lost() -> ApiError {
    ApiError::new(ErrorCode::GuestFailed, "the instance stopped before the process had ended")
}
