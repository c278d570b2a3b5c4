//! Events, as server-sent events (WHATWG HTML, section 9.2).

use std::time::Duration;

use aegis_api::error::ErrorBody;
use aegis_api::events::{InstanceEvent, MISSED, Missed};
use aegis_instances::events::RecordedEvent;
use aegis_instances::instances::Instances;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api_failure::ApiFailure;
use crate::body::timestamp;
use crate::mapping::reason;
use crate::state::ApiState;

/// How many events are read from the registry at once.
const BATCH: u32 = 256;
/// After this long without an event a comment is sent, which also finds out whether anybody still listens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Selection {
    /// Those after this number; 0 for all that are kept. Absent: those that happen from now on. The header
    /// `Last-Event-ID` says the same and wins.
    after: Option<u64>,
    /// Go on with what happens; otherwise the stream ends with what is kept.
    follow: bool,
    /// Only those of the instance with this id or handle, which may long be deleted.
    instance: Option<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Selection { after: None, follow: true, instance: None }
    }
}

/// What happens to instances, as server-sent events.
#[utoipa::path(get, path = "/v1/events", params(Selection,
    ("Last-Event-ID" = Option<u64>, Header, description = "Number of the last event that the client has.")),
    responses((status = 200, content_type = "text/event-stream", body = InstanceEvent),
        (status = 400, body = ErrorBody)))]
pub(crate) async fn events(
    State(app): State<ApiState>,
    Query(selection): Query<Selection>,
    headers: HeaderMap,
) -> Result<Response, ApiFailure> {
    let after = match headers.get("last-event-id") {
        None => selection.after,
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            Some(number.ok_or_else(|| ApiFailure::invalid("Last-Event-ID is no number of an event"))?)
        }
    };
    let newest = u64::try_from(*app.engine.instances().newest_event().borrow()).unwrap_or(0);
    // A number from the future, of a home that was wiped since, would wait for years.
    let after = after.unwrap_or(newest).min(newest);
    let (sender, body) = Channel::<Bytes>::new(8);
    let (instances, end) = (app.engine.instances().clone(), app.shutdown.clone());
    app.streams.spawn(async move {
        tokio::select! {
            () = tell(&instances, after, &selection, sender) => {}
            () = end.requested().cancelled() => {}
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(body)).into_response())
}

async fn tell(instances: &Instances, mut after: u64, selection: &Selection, mut sender: Sender<Bytes>) {
    let mut newest = instances.newest_event();
    loop {
        newest.mark_unchanged();
        let batch = match instances.events(after, BATCH).await {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(%error, "events not readable");
                return;
            }
        };
        if let Some(missed) = batch.first().and_then(|first| gap(after, first.seq))
            && sender.send_data(frame(missed.to, MISSED, &missed)).await.is_err()
        {
            return;
        }
        let quiet = batch.is_empty();
        for happening in batch {
            after = happening.seq;
            if selects(selection.instance.as_deref(), &happening)
                && sender.send_data(told(happening)).await.is_err()
            {
                return;
            }
        }
        if quiet && !selection.follow {
            return;
        }
        if quiet && !wait(&mut newest, &mut sender).await {
            return;
        }
    }
}

/// Waits for news. Returns false if there will be none, or nobody to hear of it.
async fn wait(newest: &mut tokio::sync::watch::Receiver<i64>, sender: &mut Sender<Bytes>) -> bool {
    loop {
        match tokio::time::timeout(KEEP_ALIVE, newest.changed()).await {
            Ok(changed) => return changed.is_ok(),
            Err(_) => {
                if sender.send_data(Bytes::from_static(b":\n\n")).await.is_err() {
                    return false;
                }
            }
        }
    }
}

/// What lies between the last event that a client has and the first that is still kept. Whoever asks for all that
/// are kept (`after` 0) misses nothing.
fn gap(after: u64, first: u64) -> Option<Missed> {
    (after > 0 && first > after + 1).then(|| Missed { from: after + 1, to: first - 1 })
}

fn selects(instance: Option<&str>, happening: &RecordedEvent) -> bool {
    instance
        .is_none_or(|name| happening.instance_id == name || happening.detail.handle.as_deref() == Some(name))
}

fn told(happening: RecordedEvent) -> Bytes {
    let event = InstanceEvent {
        seq: happening.seq,
        at: timestamp(happening.at_ms),
        kind: happening.kind,
        instance_id: happening.instance_id,
        handle: happening.detail.handle,
        boot: happening.detail.boot,
        stop_reason: happening.detail.reason.as_ref().map(reason),
        exit_code: happening.detail.exit_code,
        note: happening.detail.note,
    };
    frame(event.seq, &event.kind, &event)
}

/// One server-sent event. JSON has no line breaks, and kinds are our own words.
fn frame(id: u64, kind: &str, data: &impl serde::Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("id: {id}\nevent: {kind}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_had_some_can_have_missed_some() {
        assert_eq!(gap(0, 500), None);
        assert_eq!(gap(9, 10), None);
        assert_eq!(gap(9, 12), Some(Missed { from: 10, to: 11 }));
    }

    #[test]
    fn an_event_is_three_lines_and_an_empty_one() {
        let frame = frame(7, "stopped", &Missed { from: 1, to: 2 });
        assert_eq!(&frame[..], b"id: 7\nevent: stopped\ndata: {\"from\":1,\"to\":2}\n\n");
    }
}
