//! Standard streams of processes: `exec`, `attach`, `signal`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_api::instance::{ActionReply, ExecRequest, SignalRequest};
use aegis_api::logs::{ExecLine, LogStream as ApiStream, encode};
use aegis_api::stream::{Exit, Frame, Started, UPGRADE};
use aegis_guest_protocol::messages::{Resize, Signal, Target};
use aegis_instances::error::InstanceError;
use aegis_instances::handle::{ExecHandle, InstanceHandle};
use aegis_machines::maintenance::MaintenanceMachine;
use aegis_machines::output::Output;
use aegis_machines::session::Session;
use aegis_store::logs::LogStream;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::api_failure::ApiFailure;
use crate::body::parse;
use crate::exec_timeout::{Limit, TIME_WAS_UP, TIMED_OUT, time_was_up, until_given_up};
use crate::mapping::{self, exec_spec};
use crate::state::ApiState;
use crate::stream::{self, Incoming, Outgoing};

/// Sends a signal to the instance's command and its process group.
#[utoipa::path(post, path = "/v1/instances/{id}/signal", request_body = SignalRequest,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn signal(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<axum::Json<ActionReply>, ApiFailure> {
    let SignalRequest { signal } = parse(&body)?;
    let instance = app.engine.instances().find(&id)?;
    let view = instance.view();
    let running = view.state == aegis_lifecycle::event::State::Running;
    let session = instance.current_session().filter(|_| running);
    let session = session.ok_or(InstanceError::Stopped)?;
    let call = Signal { target: Target::Workload, signal: signal.into() };
    session.link().call(&call).await.map_err(InstanceError::from)?;
    Ok(axum::Json(ActionReply { id: view.id.clone(), status: "signalled".to_owned() }))
}

pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes() == UPGRADE.as_bytes())
}

fn switching() -> Response {
    let headers = [(header::UPGRADE, UPGRADE), (header::CONNECTION, "upgrade")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Answers with `101` and lets `serve` have the connection when it is upgraded.
pub(crate) fn upgrade<F: Future<Output = ()> + Send + 'static>(
    app: &ApiState,
    mut request: Request,
    serve: impl FnOnce(Incoming, Outgoing) -> F + Send + 'static,
) -> Response {
    let upgrading = hyper::upgrade::on(&mut request);
    app.streams.spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            let (incoming, outgoing) = stream::split(upgraded);
            serve(incoming, outgoing).await;
        }
    });
    switching()
}

/// Executes a process beside the instance's command. With `Upgrade: aegis-stream` the connection carries its
/// standard streams both ways; otherwise the reply is its output, one JSON object a line.
#[utoipa::path(post, path = "/v1/instances/{id}/exec", request_body = ExecRequest,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 101, description = "Frames follow."),
        (status = 200, content_type = "application/x-ndjson", body = ExecLine),
        (status = 202, description = "Detached.", body = ExecLine),
        (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
pub(crate) async fn exec(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiFailure> {
    let instance = app.engine.instances().find(&id)?;
    let upgraded = wants_upgrade(request.headers());
    let (parts, body) = request.into_parts();
    let body = http_body_util::Limited::new(body, crate::body::MAX_BODY).collect().await;
    let body = body.map_err(|error| ApiFailure::invalid(format!("the body cannot be read: {error}")))?;
    let wanted: ExecRequest = parse(&body.to_bytes())?;
    let timeout = wanted.timeout_ms.map(Duration::from_millis);
    let logged = wanted.tty.is_none() && !wanted.unlogged;
    let (at_rest, detach) = (wanted.at_rest, wanted.detach);
    if detach && (at_rest || upgraded || wanted.tty.is_some() || wanted.stdin) {
        let text =
            "what is detached has no terminal, no input and no connection, and takes a running instance";
        return Err(ApiFailure::invalid(text));
    }
    let spec = exec_spec(wanted)?;
    let starting = app.engine.exec(&instance, &spec, at_rest);
    // A guest that is stuck does not start it at all.
    let Ok(started) = tokio::time::timeout(until_given_up(timeout), starting).await else {
        return if detach {
            Err(ApiFailure(ApiError::new(ErrorCode::GuestFailed, TIME_WAS_UP)))
        } else {
            Ok(never_started(&app, upgraded, Request::from_parts(parts, Body::empty())))
        };
    };
    let (process, session, machine) = started?;
    let running = Running {
        name: format!("exec-{}", process.exec_id),
        process,
        session,
        output: logged.then(|| Arc::clone(instance.output())),
        instance,
        timeout,
        owner: app.streams.clone(),
        _machine: machine,
    };
    if detach {
        let started = running.first_line();
        app.streams.spawn(running.keep());
        return Ok((StatusCode::ACCEPTED, axum::Json(started)).into_response());
    }
    if upgraded {
        let request = Request::from_parts(parts, Body::empty());
        return Ok(upgrade(&app, request, |incoming, outgoing| running.serve(incoming, outgoing)));
    }
    let (sender, body) = Channel::<Bytes>::new(8);
    app.streams.spawn(running.narrate(sender));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response())
}

/// The answer for a process whose time was up before its guest executed it.
fn never_started(app: &ApiState, upgraded: bool, request: Request) -> Response {
    let exit = Exit { code: TIMED_OUT, reason: Some(time_was_up()), timings: None };
    if upgraded {
        return upgrade(app, request, async move |_incoming, outgoing| {
            // A client that has gone needs no exit code.
            let _gone = outgoing.finish(&Frame::Exit(exit)).await;
        });
    }
    let line = ExecLine { exit_code: Some(exit.code), done: true, ..ExecLine::default() };
    let json = serde_json::to_string(&line).unwrap_or_default() + "\n";
    ([(header::CONTENT_TYPE, "application/x-ndjson")], json).into_response()
}

/// A process of `exec` and what belongs to it.
struct Running {
    name: String,
    process: ExecHandle,
    session: Arc<Session>,
    /// Where its output is logged.
    output: Option<Arc<Output>>,
    instance: InstanceHandle,
    timeout: Option<Duration>,
    /// Of what goes on when nobody waits for it.
    owner: TaskTracker,
    /// The machine, if it lives for this process alone.
    _machine: Option<MaintenanceMachine>,
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

impl Running {
    /// Serves an upgraded connection until the process has ended or the client has gone; then the process is
    /// hung up, by its streams being dropped.
    async fn serve(mut self, incoming: Incoming, mut outgoing: Outgoing) {
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
    fn first_line(&self) -> ExecLine {
        let started_at = Some(jiff::Timestamp::now().to_string());
        ExecLine { exec_id: self.name.clone(), started_at, ..ExecLine::default() }
    }

    /// Logs the process's output until it has ended.
    async fn keep(mut self) {
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
    async fn narrate(mut self, mut sender: http_body_util::channel::Sender<Bytes>) {
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

/// Carries the client's frames to the process until the client has gone.
async fn client(
    mut incoming: Incoming,
    session: Arc<Session>,
    target: Target,
    stdin: Arc<aegis_guest_link::GuestStream>,
) {
    while let Some(frame) = incoming.next().await {
        if !pass_on(frame, &session, target, &stdin).await {
            return;
        }
    }
}

/// Passes one frame of a client on. Returns false for what no client says.
///
/// What the process does not want any more is dropped: its exit is told by the other direction.
pub(crate) async fn pass_on(
    frame: Frame,
    session: &Session,
    target: Target,
    stdin: &aegis_guest_link::GuestStream,
) -> bool {
    match frame {
        Frame::Stdin(bytes) => drop(stdin.write(bytes).await),
        Frame::StdinEnd => drop(stdin.finish().await),
        Frame::Signal(signal) => drop(session.link().call(&Signal { target, signal: signal.into() }).await),
        Frame::Resize(size) => drop(session.link().call(&Resize { target, size: mapping::size(size) }).await),
        Frame::Started(_)
        | Frame::Stdout(_)
        | Frame::Stderr(_)
        | Frame::Exit(_)
        | Frame::Error(_)
        | Frame::Notice(_) => {
            return false;
        }
    }
    true
}
