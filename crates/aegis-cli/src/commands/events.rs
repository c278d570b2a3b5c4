//! `aegis events`.

use aegis_api::events::InstanceEvent;
use aegis_client::{EventQuery, EventStreamItem};

use crate::arguments::format::OutputFormat;
use crate::arguments::observe::Events;
use crate::failure::Failure;
use crate::output::{self, say};
use crate::{Context, text};

/// Shows what happened to instances.
///
/// # Errors
/// If the daemon cannot be asked, or the output cannot be written.
pub async fn events(context: &Context, arguments: &Events) -> Result<i32, Failure> {
    let query = EventQuery {
        // All that is kept, or what happens from now on.
        after: arguments.after.or((!arguments.follow).then_some(0)),
        follow: arguments.follow,
        instance: arguments.instance.clone(),
    };
    let mut stream = context.client().events(&query).await?;
    while let Some(told) = stream.next().await? {
        let code = match told {
            EventStreamItem::Missed(missed) => {
                say(&format!("events {} to {} are no longer kept", missed.from, missed.to));
                0
            }
            EventStreamItem::Event(event) => match arguments.format.output {
                OutputFormat::Text => output::line(line(&event))?,
                OutputFormat::Json => output::json_line(&event)?,
            },
        };
        if code != 0 {
            return Ok(code);
        }
    }
    Ok(0)
}

fn line(event: &InstanceEvent) -> String {
    let InstanceEvent { seq, at, kind, instance_id, .. } = event;
    let name = event.handle.as_deref().unwrap_or(instance_id);
    let reason = event
        .stop_reason
        .as_ref()
        .map(|reason| format!("  {}", text::field(&reason.message)))
        .unwrap_or_default();
    let note = event.note.as_ref().map(|note| format!("  {}", text::field(note))).unwrap_or_default();
    format!("{seq}  {at}  {name}  {kind}{reason}{note}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aegis_api::instance::StopReason;

    #[test]
    fn a_line_names_number_time_instance_and_what_happened() {
        let reason = StopReason { code: "exited".into(), message: "why".into(), console: vec![] };
        let event = InstanceEvent {
            seq: 12,
            at: "2026-01-02T03:04:05Z".into(),
            kind: "stopped".into(),
            instance_id: "inst-1".into(),
            handle: Some("web".into()),
            boot: 1,
            stop_reason: Some(reason),
            exit_code: Some(0),
            note: None,
        };
        assert_eq!(line(&event), "12  2026-01-02T03:04:05Z  web  stopped  why");
        let bare = InstanceEvent { handle: None, stop_reason: None, kind: "created".into(), ..event };
        assert_eq!(line(&bare), "12  2026-01-02T03:04:05Z  inst-1  created");
        let noted = InstanceEvent { note: Some("more".into()), ..bare };
        assert_eq!(line(&noted), "12  2026-01-02T03:04:05Z  inst-1  created  more");
    }
}
