use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;

use super::migrations::{MIGRATIONS, migrate};
use super::*;
use crate::writer::{Change, Writer};

fn row(id: &str) -> InstanceRow {
    InstanceRow {
        id: id.to_owned(),
        handle: None,
        spec: "{}".to_owned(),
        enabled: true,
        state: "stopped".to_owned(),
        exit_code: None,
        stop_reason: None,
        vm: None,
        boot: 0,
        created_at_ms: 1,
        updated_at_ms: 2,
        last_active_at_ms: 3,
        stopped_at_ms: None,
        started_at_ms: None,
        ports: "[]".to_owned(),
    }
}

fn named(id: &str, handle: &str) -> InstanceRow {
    InstanceRow { handle: Some(handle.to_owned()), ..row(id) }
}

fn event(id: &str, kind: &str) -> NewEvent {
    NewEvent { at_ms: 7, instance_id: id.to_owned(), kind: kind.to_owned(), detail: "{}".to_owned() }
}

fn open() -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path().join("aegis.db")).unwrap();
    (dir, registry)
}

#[tokio::test]
async fn rows_come_back_as_they_went_in() {
    let (dir, registry) = open();
    let full = InstanceRow {
        handle: Some("web".to_owned()),
        exit_code: Some(-1),
        stop_reason: Some("\"x\"".to_owned()),
        vm: Some("{\"pid\":1}".to_owned()),
        boot: u32::MAX,
        enabled: false,
        stopped_at_ms: Some(i64::MAX),
        started_at_ms: Some(17),
        ports: "[1]".to_owned(),
        ..row("b")
    };
    registry.insert(full.clone(), None).await.unwrap();
    registry.insert(row("a"), None).await.unwrap();
    assert_eq!(registry.all().await.unwrap(), [row("a"), full.clone()]);
    registry.close().await.unwrap();
    let again = Registry::open(dir.path().join("aegis.db")).unwrap();
    assert_eq!(again.all().await.unwrap(), [row("a"), full]);
}

#[tokio::test]
async fn refusals_are_typed_and_store_nothing() {
    let (_dir, registry) = open();
    registry.insert(named("a", "web"), None).await.unwrap();
    registry.insert(row("b"), None).await.unwrap();
    let refused = registry.insert(row("a"), Some(event("a", "x"))).await;
    assert!(matches!(refused, Err(RegistryError::IdTaken(id)) if id == "a"));
    let refused = registry.insert(named("c", "web"), Some(event("c", "x"))).await;
    assert!(matches!(refused, Err(RegistryError::HandleTaken(handle)) if handle == "web"));
    let refused = registry.update(named("b", "web"), Some(event("b", "x"))).await;
    assert!(matches!(refused, Err(RegistryError::HandleTaken(_))));
    let refused = registry.update(row("c"), Some(event("c", "x"))).await;
    assert!(matches!(refused, Err(RegistryError::NotFound(id)) if id == "c"));
    assert_eq!(registry.all().await.unwrap(), [named("a", "web"), row("b")]);
    assert_eq!(registry.events(0, 10).await.unwrap(), []);

    registry.update(named("a", "web"), None).await.unwrap();
    assert!(registry.remove("a", Some(event("a", "removed"))).await.unwrap());
    assert!(!registry.remove("a", Some(event("a", "removed"))).await.unwrap());
    registry.update(named("b", "web"), None).await.unwrap();
    assert_eq!(registry.events(0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn events_are_numbered_announced_and_bounded() {
    let (_dir, registry) = open();
    let mut newest = registry.subscribe();
    assert_eq!(*newest.borrow_and_update(), 0);
    registry.insert(row("a"), Some(event("a", "created"))).await.unwrap();
    assert_eq!(*newest.borrow_and_update(), 1);
    let total = i64::from(EVENTS_KEPT) + 50;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 1..total {
        let registry = registry.clone();
        tasks.spawn(async move { registry.append_event(event("a", &n.to_string())).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(*newest.borrow_and_update(), total);
    let kept = registry.events(0, u32::MAX).await.unwrap();
    let seqs: Vec<i64> = kept.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (51..=total).collect::<Vec<_>>());
    let page = registry.events(total - 5, 3).await.unwrap();
    assert_eq!(page.iter().map(|event| event.seq).collect::<Vec<_>>(), [total - 4, total - 3, total - 2]);
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_answered() {
    let (dir, registry) = open();
    for n in 0..20 {
        let id = format!("i{n:02}");
        registry.insert(row(&id), Some(event(&id, "created"))).await.unwrap();
    }
    // What a crash would leave: the files as they are while the database is open.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["aegis.db", "aegis.db-wal"] {
        std::fs::copy(dir.path().join(name), crashed.path().join(name)).unwrap();
    }
    drop(registry);
    for dir in [&dir, &crashed] {
        let registry = Registry::open(dir.path().join("aegis.db")).unwrap();
        assert_eq!(registry.all().await.unwrap().len(), 20);
        assert_eq!(registry.events(0, 100).await.unwrap().len(), 20);
    }
}

#[tokio::test]
async fn a_thousand_rows_are_quick() {
    let (_dir, registry) = open();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..1000 {
        let registry = registry.clone();
        tasks.spawn(async move { registry.insert(named(&format!("i{n:04}"), &format!("h{n}")), None).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    let begun = Instant::now();
    assert_eq!(registry.all().await.unwrap().len(), 1000);
    let took = begun.elapsed();
    println!("all() of 1,000 rows: {took:?}");
    assert!(took.as_millis() < 500, "{took:?}");
}

#[tokio::test]
async fn closing_ends_all_clones_once() {
    let (dir, registry) = open();
    let clone = registry.clone();
    let pending = registry.insert(row("a"), None);
    let (inserted, closed) = tokio::join!(pending, clone.close());
    inserted.unwrap();
    closed.unwrap();
    assert!(matches!(registry.all().await, Err(RegistryError::Closed)));
    registry.close().await.unwrap();
    assert!(!dir.path().join("aegis.db-wal").exists());
}

#[test]
fn migrations_apply_once_and_never_backwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aegis.db");
    let version = |conn: &rusqlite::Connection| -> i64 {
        conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    let mut conn = rusqlite::Connection::open(&path).unwrap();
    for _ in 0..3 {
        migrate(&mut conn, &path, MIGRATIONS).unwrap();
        assert_eq!(version(&conn), i64::try_from(MIGRATIONS.len()).unwrap());
    }
    // A step that fails half way leaves nothing, and the steps before it stay.
    let more = ["CREATE TABLE one (a INTEGER) STRICT", "CREATE TABLE two (a INTEGER) STRICT; nonsense"];
    let steps = [MIGRATIONS, &more].concat();
    assert!(matches!(migrate(&mut conn, &path, &steps), Err(RegistryError::Storage { .. })));
    assert_eq!(version(&conn), i64::try_from(MIGRATIONS.len() + 1).unwrap());
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('one', 'two')";
    assert_eq!(conn.query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(), 1);

    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    assert!(matches!(Registry::open(&path), Err(RegistryError::TooNew { found: 99, .. })));
}

#[tokio::test]
async fn an_instance_of_the_first_release_is_still_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aegis.db");
    let mut conn = rusqlite::Connection::open(&path).unwrap();
    migrate(&mut conn, &path, &MIGRATIONS[..1]).unwrap();
    let row = "INSERT INTO instances VALUES ('inst-1', 'web', '{}', 1, 'stopped', 3, NULL, NULL, 2, 10, 20, 30, 40)";
    conn.execute(row, []).unwrap();
    drop(conn);
    let all = Registry::open(&path).unwrap().all().await.unwrap();
    assert_eq!((all.len(), all[0].handle.as_deref(), all[0].boot), (1, Some("web"), 2));
    assert_eq!((all[0].stopped_at_ms, all[0].started_at_ms, &*all[0].ports), (Some(40), None, "[]"));
}

#[test]
fn a_full_disk_is_typed_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _events) = Writer::open(&dir.path().join("aegis.db"), None).unwrap();
    let pages: i64 = writer.conn.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    let limit = |pages: i64| {
        writer.conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    };
    let store = |rows: Vec<InstanceRow>| -> Vec<Result<bool, RegistryError>> {
        let (batch, mut answers): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .map(|row| {
                let (reply, answer) = tokio::sync::oneshot::channel();
                let event = event(&row.id, "created");
                ((Change::Insert(Box::new(row)), Some(event), reply), answer)
            })
            .unzip();
        writer.commit(batch);
        answers.iter_mut().map(|answer| answer.try_recv().unwrap()).collect()
    };
    let big = InstanceRow { spec: "x".repeat(1 << 20), ..row("big") };

    limit(pages + 10);
    // The one that does not fit takes neither its neighbours nor the writer down.
    let results = store(vec![row("a"), big.clone(), row("b")]);
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    assert!(matches!(&results[1], Err(RegistryError::DiskFull { .. })), "{results:?}");
    assert_eq!(sql::all(&writer.conn).unwrap().len(), 2);
    assert_eq!(sql::events(&writer.conn, 0, 10).unwrap().len(), 2);
    limit(1 << 20);
    assert!(store(vec![big])[0].is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, Option<u8>),
    Update(u8, Option<u8>),
    Remove(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let handle = || prop::option::of(0..4u8);
    prop_oneof![
        4 => (0..6u8, handle()).prop_map(|(id, handle)| Step::Insert(id, handle)),
        4 => (0..6u8, handle()).prop_map(|(id, handle)| Step::Update(id, handle)),
        3 => (0..6u8).prop_map(Step::Remove),
        1 => Just(Step::Reopen),
    ]
}

/// What a change of the model comes to, in the registry's words.
fn refusal(model: &BTreeMap<String, InstanceRow>, row: &InstanceRow, new: bool) -> Option<&'static str> {
    if model.contains_key(&row.id) == new {
        return Some(if new { "id" } else { "missing" });
    }
    let taken = |other: &&InstanceRow| other.id != row.id && other.handle == row.handle;
    (row.handle.is_some() && model.values().find(taken).is_some()).then_some("handle")
}

fn word(result: Result<(), RegistryError>) -> Option<&'static str> {
    result.err().map(|error| match error {
        RegistryError::IdTaken(_) => "id",
        RegistryError::NotFound(_) => "missing",
        RegistryError::HandleTaken(_) => "handle",
        other => panic!("{other}"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn behaves_like_a_map(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("aegis.db");
            let mut registry = Registry::open(&path).unwrap();
            let mut model: BTreeMap<String, InstanceRow> = BTreeMap::new();
            let mut events = 0;
            for (n, step) in steps.into_iter().enumerate() {
                let make = |id: u8, handle: Option<u8>| InstanceRow {
                    handle: handle.map(|handle| format!("h{handle}")),
                    boot: u32::try_from(n).unwrap(),
                    ..row(&format!("i{id}"))
                };
                match step {
                    Step::Insert(id, handle) => {
                        let row = make(id, handle);
                        let expected = refusal(&model, &row, true);
                        let result = registry.insert(row.clone(), Some(event(&row.id, "insert"))).await;
                        prop_assert_eq!(word(result), expected);
                        if expected.is_none() {
                            events += 1;
                            model.insert(row.id.clone(), row);
                        }
                    }
                    Step::Update(id, handle) => {
                        let row = make(id, handle);
                        let expected = refusal(&model, &row, false);
                        let result = registry.update(row.clone(), Some(event(&row.id, "update"))).await;
                        prop_assert_eq!(word(result), expected);
                        if expected.is_none() {
                            events += 1;
                            model.insert(row.id.clone(), row);
                        }
                    }
                    Step::Remove(id) => {
                        let id = format!("i{id}");
                        let existed = registry.remove(&id, Some(event(&id, "remove"))).await.unwrap();
                        prop_assert_eq!(existed, model.remove(&id).is_some());
                        events += usize::from(existed);
                    }
                    Step::Reopen => {
                        drop(registry);
                        registry = Registry::open(&path).unwrap();
                    }
                }
                let expected: Vec<_> = model.values().cloned().collect();
                prop_assert_eq!(registry.all().await.unwrap(), expected);
            }
            prop_assert_eq!(registry.events(0, 1000).await.unwrap().len(), events);
            Ok(())
        })?;
    }
}

/// `cargo test --release -p aegis-store -- --ignored --nocapture measure`
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_commits() {
    let (_dir, registry) = open();
    let begun = Instant::now();
    for n in 0..500 {
        let id = format!("i{n}");
        registry.insert(row(&id), Some(event(&id, "created"))).await.unwrap();
    }
    println!("one after another: {:?} each", begun.elapsed() / 500);
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..5000 {
        let (registry, id) = (registry.clone(), format!("i{}", n % 500));
        tasks.spawn(async move { registry.update(row(&id), Some(event(&id, "changed"))).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    println!("all at once: {:?} each", begun.elapsed() / 5000);
}
