//! The database's shape, as steps that are each applied once.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::RegistryError;

/// One step per version; step `n` brings a database from version `n` to `n + 1`. Released steps never change.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE instances (
        id TEXT PRIMARY KEY NOT NULL,
        handle TEXT UNIQUE,
        spec TEXT NOT NULL,
        enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
        state TEXT NOT NULL,
        exit_code INTEGER,
        stop_reason TEXT,
        vm TEXT,
        boot INTEGER NOT NULL CHECK (boot >= 0),
        created_at_ms INTEGER NOT NULL,
        updated_at_ms INTEGER NOT NULL,
        last_active_at_ms INTEGER NOT NULL,
        stopped_at_ms INTEGER
    ) STRICT;
    -- No foreign key: the events of a removed instance stay until newer ones push them out.
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        instance_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT;
",
    "
    ALTER TABLE instances ADD COLUMN started_at_ms INTEGER;
",
    "
    ALTER TABLE instances ADD COLUMN ports TEXT NOT NULL DEFAULT '[]';
",
];

/// Brings the database to the newest version, each step in a transaction of its own.
pub(super) fn migrate(conn: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), RegistryError> {
    let fail = |source| RegistryError::storage("migrate", path, Arc::new(source));
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
    let done = match usize::try_from(version) {
        Ok(done) if done <= steps.len() => done,
        _ => {
            return Err(RegistryError::TooNew { path: path.to_owned(), found: version, known: steps.len() });
        }
    };
    for (index, step) in steps.iter().enumerate().skip(done) {
        let transaction = conn.transaction().map_err(fail)?;
        transaction.execute_batch(step).map_err(fail)?;
        // `user_version` is part of the transaction, so a crash leaves a step done entirely or not at all.
        let version = i64::try_from(index + 1).unwrap_or(i64::MAX);
        transaction.pragma_update(None, "user_version", version).map_err(fail)?;
        transaction.commit().map_err(fail)?;
    }
    Ok(())
}
