//! `POST /v1/instances/{id}/attach`: the standard streams of the command.

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_api::stream::{Exit, Frame, Started, UPGRADE};
use aegis_guest_protocol::messages::Target;
use aegis_instances::handle::InstanceHandle;
use aegis_instances::usage::UsageGuard;
use aegis_lifecycle::event::Request as Ask;
use aegis_lifecycle::idle_policy::User;
use aegis_machines::output::{Attachment, ClientCount, Ending, Piece};
use aegis_store::logs::LogStream;
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api_failure::{ApiFailure, stopped};
use crate::mapping;
use crate::processes::{pass_on, upgrade, wants_upgrade};
use crate::state::ApiState;
use crate::stream::{Incoming, Outgoing};

/// Where an attaching client stands.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Held {
    /// Bytes of standard output that it has already.
    #[serde(default)]
    stdout: u64,
    /// Bytes of standard error that it has already.
    #[serde(default)]
    stderr: u64,
}

/// Connects to the standard streams of the instance's command, in any state. Needs `Upgrade: aegis-stream`. Ends
/// with the command.
#[utoipa::path(post, path = "/v1/instances/{id}/attach", params(("id" = String, description = "Id or handle."), Held),
    responses((status = 101, description = "Frames follow."), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn attach(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    Query(held): Query<Held>,
    request: Request,
) -> Result<Response, ApiFailure> {
    let instance = app.engine.instances().find(&id)?;
    if !wants_upgrade(request.headers()) {
        return Err(ApiFailure::invalid(format!("attach needs the header Upgrade: {UPGRADE}")));
    }
    let (attachment, count) = instance.attach([held.stdout, held.stderr])?;
    // Somebody who sits at a terminal wants it to stay awake; a `run` that merely prints may rest.
    let terminal = instance.view().spec.tty.and_then(|_| instance.usage().enter(User::Terminal));
    Ok(upgrade(&app, request, move |incoming, outgoing| async move {
        tokio::select! {
            () = deliver(attachment, &instance, outgoing) => {}
            () = control(incoming, &instance) => {}
        }
        let _gone: (ClientCount, Option<UsageGuard>) = (count, terminal);
    }))
}

async fn deliver(mut attachment: Attachment, instance: &InstanceHandle, mut outgoing: Outgoing) {
    let started = Frame::Started(Started { id: instance.view().id.clone() });
    if outgoing.send(&started).await.is_err() || !replay(&mut attachment, &mut outgoing).await {
        return;
    }
    while let Some(piece) = attachment.live.recv().await {
        let frame = match piece {
            Piece::Stdout(bytes) => Frame::Stdout(bytes),
            Piece::Stderr(bytes) => Frame::Stderr(bytes),
            Piece::End(Ending::Exit(code, reason)) => {
                let timings = instance.view().timings.as_ref().map(mapping::timings);
                Frame::Exit(Exit { code, reason: Some(mapping::reason(&reason)), timings })
            }
            Piece::End(Ending::Failed(reason)) => Frame::Error(stopped(&reason)),
        };
        let last = matches!(frame, Frame::Exit(_) | Frame::Error(_));
        let sent =
            if last { return drop(outgoing.finish(&frame).await) } else { outgoing.send(&frame).await };
        if sent.is_err() {
            return;
        }
    }
}

/// Sends from the log what the client lacks of the past. Returns whether the client is still there.
async fn replay(attachment: &mut Attachment, outgoing: &mut Outgoing) -> bool {
    let [out_end, err_end] = attachment.live_from;
    loop {
        let record = match attachment.past.next() {
            Ok(Some(record)) => record,
            Ok(None) => return true,
            Err(error) => {
                let text = format!("the output so far cannot be read from the log: {error}");
                drop(outgoing.send(&Frame::Error(ApiError::new(ErrorCode::Internal, text))).await);
                return false;
            }
        };
        let end = if record.stream == LogStream::Stderr { err_end } else { out_end };
        if record.offset >= end {
            // The live part begins here; records behind it may be of the other stream.
            if record.seq >= attachment.past_until {
                return true;
            }
            continue;
        }
        let keep = usize::try_from(end - record.offset).unwrap_or(usize::MAX).min(record.payload.len());
        let bytes = record.payload.slice(..keep);
        let frame =
            if record.stream == LogStream::Stderr { Frame::Stderr(bytes) } else { Frame::Stdout(bytes) };
        if outgoing.send(&frame).await.is_err() {
            return false;
        }
        if record.seq >= attachment.past_until {
            return true;
        }
    }
}

/// Carries an attached client's frames to the command, as soon as there is one. One that rests is woken for it.
async fn control(mut incoming: Incoming, instance: &InstanceHandle) {
    while let Some(frame) = incoming.next().await {
        if !instance.usage().is_awake() {
            // One that has ended is not booted for it; what it left is still delivered.
            let _ended = instance.request(Ask::Ensure).await;
        }
        let Some(session) = instance.next_session().await else { return };
        if !pass_on(frame, &session, Target::Workload, session.stdin()).await {
            return;
        }
    }
}
