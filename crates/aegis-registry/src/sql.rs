//! The statements, and how rows become values.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{EVENTS_KEPT, EventRow, InstanceRow, NewEvent};

const COLUMNS: &str = "id, handle, spec, enabled, state, exit_code, stop_reason, vm, boot, \
                       created_at_ms, updated_at_ms, last_active_at_ms, stopped_at_ms, started_at_ms, ports";

pub(super) fn exists(conn: &Connection, id: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM instances WHERE id = ?1")?.exists([id])
}

/// The id of the instance that has this handle.
pub(super) fn handle_owner(conn: &Connection, handle: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT id FROM instances WHERE handle = ?1")?
        .query_row([handle], |row| row.get(0))
        .optional()
}

/// Stores a row, in the place of the one with the same id if there is one.
pub(super) fn put(conn: &Connection, row: &InstanceRow) -> rusqlite::Result<()> {
    conn.prepare_cached(&format!(
        "INSERT INTO instances ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (id) DO UPDATE SET
            handle = excluded.handle, spec = excluded.spec, enabled = excluded.enabled,
            state = excluded.state, exit_code = excluded.exit_code, stop_reason = excluded.stop_reason,
            vm = excluded.vm, boot = excluded.boot, created_at_ms = excluded.created_at_ms,
            updated_at_ms = excluded.updated_at_ms, last_active_at_ms = excluded.last_active_at_ms,
            stopped_at_ms = excluded.stopped_at_ms, started_at_ms = excluded.started_at_ms,
            ports = excluded.ports"
    ))?
    .execute(params![
        row.id,
        row.handle,
        row.spec,
        row.enabled,
        row.state,
        row.exit_code,
        row.stop_reason,
        row.vm,
        row.boot,
        row.created_at_ms,
        row.updated_at_ms,
        row.last_active_at_ms,
        row.stopped_at_ms,
        row.started_at_ms,
        row.ports,
    ])
    .map(drop)
}

pub(super) fn delete(conn: &Connection, id: &str) -> rusqlite::Result<bool> {
    Ok(conn.prepare_cached("DELETE FROM instances WHERE id = ?1")?.execute([id])? > 0)
}

/// Stores an event and drops the one it pushes out. Numbers have no gaps, so a bound on the number is a bound
/// on the count, and finding what to drop is one look at the end of the primary key.
pub(super) fn add_event(conn: &Connection, event: &NewEvent) -> rusqlite::Result<i64> {
    let seq = conn
        .prepare_cached("INSERT INTO events (at_ms, instance_id, kind, detail) VALUES (?1, ?2, ?3, ?4)")?
        .insert(params![event.at_ms, event.instance_id, event.kind, event.detail])?;
    conn.prepare_cached("DELETE FROM events WHERE seq <= ?1")?.execute([seq - i64::from(EVENTS_KEPT)])?;
    Ok(seq)
}

pub(super) fn last_event(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))
}

pub(super) fn all(conn: &Connection) -> rusqlite::Result<Vec<InstanceRow>> {
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM instances ORDER BY id"))?
        .query_map([], instance)?
        .collect()
}

pub(super) fn events(conn: &Connection, after_seq: i64, limit: u32) -> rusqlite::Result<Vec<EventRow>> {
    conn.prepare_cached(
        "SELECT seq, at_ms, instance_id, kind, detail FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?
    .query_map(params![after_seq, limit], event)?
    .collect()
}

fn instance(row: &Row<'_>) -> rusqlite::Result<InstanceRow> {
    Ok(InstanceRow {
        id: row.get(0)?,
        handle: row.get(1)?,
        spec: row.get(2)?,
        enabled: row.get(3)?,
        state: row.get(4)?,
        exit_code: row.get(5)?,
        stop_reason: row.get(6)?,
        vm: row.get(7)?,
        boot: row.get(8)?,
        created_at_ms: row.get(9)?,
        updated_at_ms: row.get(10)?,
        last_active_at_ms: row.get(11)?,
        stopped_at_ms: row.get(12)?,
        started_at_ms: row.get(13)?,
        ports: row.get(14)?,
    })
}

fn event(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok(EventRow {
        seq: row.get(0)?,
        event: NewEvent {
            at_ms: row.get(1)?,
            instance_id: row.get(2)?,
            kind: row.get(3)?,
            detail: row.get(4)?,
        },
    })
}
