//! Logs as JSON lines.

use aegis_api::error::ErrorBody;
use aegis_api::logs::{LogEntry, LogSource, LogStream, encode};
use aegis_instances::handle::InstanceHandle;
use aegis_store::logs::{self, LogReader, LogRecord};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::watch;
use utoipa::IntoParams;

use crate::api_failure::ApiFailure;
use crate::body::timestamp;
use crate::state::ApiState;

/// Which part of a log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Selection {
    /// Go on with what comes, until the instance is deleted.
    follow: bool,
    /// Only about the last so many lines of what is there.
    tail: Option<usize>,
    /// Only what came at or after this time (RFC 3339).
    since: Option<String>,
    /// Only what this exec wrote.
    exec_id: Option<String>,
}

/// The newest part of an instance's log, oldest entry first.
#[utoipa::path(get, path = "/v1/instances/{id}/logs",
    params(("id" = String, description = "Id or handle."), Selection),
    responses((status = 200, content_type = "application/x-ndjson", body = LogEntry),
        (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn logs(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    Query(selection): Query<Selection>,
) -> Result<Response, ApiFailure> {
    let instance = app.engine.instances().find(&id)?;
    let since_ms = match &selection.since {
        None => 0,
        Some(text) => {
            let since: Timestamp =
                text.parse().map_err(|error| ApiFailure::invalid(format!("since={text:?}: {error}")))?;
            u64::try_from(since.as_millisecond()).unwrap_or(0)
        }
    };
    let (mut reader, newest) = instance.log()?;
    // A command that writes faster than this is read must not keep it from its end.
    reader.set_end(Some(*newest.borrow()));
    if let Some(lines) = selection.tail {
        reader.tail_lines(lines).map_err(aegis_instances::error::InstanceError::from)?;
    }
    if selection.follow {
        reader.set_end(None);
    }
    let (sender, body) = Channel::<Bytes>::new(8);
    let telling = Telling { id: instance.view().id.clone(), exec_id: selection.exec_id, since_ms };
    let end = app.shutdown.clone();
    app.streams.spawn(async move {
        let follow = selection.follow.then_some(newest);
        tokio::select! {
            () = tell(&telling, reader, follow, instance, sender) => {}
            () = end.requested().cancelled(), if selection.follow => {}
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response())
}

struct Telling {
    id: String,
    exec_id: Option<String>,
    since_ms: u64,
}

impl Telling {
    fn line(&self, record: &LogRecord) -> Option<Bytes> {
        let wanted = self.exec_id.as_ref().is_none_or(|id| record.exec.as_ref() == Some(id));
        if !wanted || record.at_ms < self.since_ms {
            return None;
        }
        let (data, data_base64) = encode(&record.payload);
        let entry = LogEntry {
            seq: record.seq,
            ts: timestamp(i64::try_from(record.at_ms).unwrap_or(i64::MAX)),
            source: match record.source {
                logs::LogSource::Primary => LogSource::Server,
                logs::LogSource::Exec => LogSource::Exec,
                logs::LogSource::System => LogSource::System,
            },
            stream: match record.stream {
                logs::LogStream::Stderr => LogStream::Stderr,
                logs::LogStream::Stdout | logs::LogStream::None => LogStream::Stdout,
            },
            instance_id: self.id.clone(),
            exec_id: record.exec.clone(),
            data,
            data_base64,
        };
        let mut json = serde_json::to_vec(&entry).unwrap_or_default();
        json.push(b'\n');
        Some(json.into())
    }
}

async fn tell(
    telling: &Telling,
    mut reader: LogReader,
    mut follow: Option<watch::Receiver<u64>>,
    instance: InstanceHandle,
    mut sender: Sender<Bytes>,
) {
    loop {
        if let Some(newest) = &mut follow {
            newest.mark_unchanged();
        }
        match reader.next() {
            Ok(Some(record)) => {
                if let Some(line) = telling.line(&record)
                    && sender.send_data(line).await.is_err()
                {
                    return;
                }
            }
            Ok(None) => {
                let Some(newest) = &mut follow else { return };
                tokio::select! {
                    changed = newest.changed() => if changed.is_err() { return },
                    () = instance.gone() => return,
                }
            }
            Err(error) => {
                tracing::warn!(id = telling.id, %error, "log not readable");
                return;
            }
        }
    }
}
