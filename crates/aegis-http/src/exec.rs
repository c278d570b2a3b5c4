//! Processes beside an instance's command: `exec`, and signals to the command.

use std::sync::Arc;
use std::time::Duration;

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_api::instance::{ActionReply, ExecRequest, SignalRequest};
use aegis_api::logs::ExecLine;
use aegis_api::stream::{Exit, Frame};
use aegis_guest_protocol::messages::{Signal, Target};
use aegis_instances::error::InstanceError;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;

use crate::api_failure::ApiFailure;
use crate::body::parse;
use crate::exec_process::ExecProcess;
use crate::exec_timeout::{TIME_WAS_UP, TIMED_OUT, time_was_up, until_given_up};
use crate::mapping::exec_spec;
use crate::state::ApiState;
use crate::upgrade::{upgrade, wants_upgrade};

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
    let running = ExecProcess {
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
