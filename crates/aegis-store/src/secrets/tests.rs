use std::os::unix::fs::MetadataExt;

use super::*;

fn open(dir: &tempfile::TempDir) -> Result<Secrets, SecretError> {
    Secrets::open(dir.path(), None)
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn what_is_set_is_there_after_reopening_and_nowhere_in_clear() {
    let dir = dir();
    let secrets = open(&dir).unwrap();
    assert!(!dir.path().join("master.key").exists(), "no key before it is needed");
    secrets.set("TOKEN", "hunter2-hunter2").unwrap();
    secrets.set("EMPTY", "").unwrap();
    secrets.set("TOKEN", "correct-horse").unwrap();
    let secrets = open(&dir).unwrap();
    assert_eq!(secrets.names(), ["EMPTY", "TOKEN"]);
    assert_eq!(secrets.value("TOKEN").unwrap().as_str(), "correct-horse");
    assert_eq!(secrets.value("EMPTY").unwrap().as_str(), "");
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
        let bytes = fs::read(&path).unwrap();
        for word in [&b"hunter2"[..], b"correct-horse"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word), "{}", path.display());
        }
    }
    secrets.delete("TOKEN").unwrap();
    assert!(matches!(secrets.delete("TOKEN"), Err(SecretError::NotFound(_))));
    assert!(matches!(open(&dir).unwrap().value("TOKEN"), Err(SecretError::NotFound(_))));
}

#[test]
fn a_lost_or_wrong_key_is_told_and_nothing_is_overwritten() {
    let dir = dir();
    open(&dir).unwrap().set("A", "value").unwrap();
    let (key, stored) = (dir.path().join("master.key"), dir.path().join("secrets.json"));
    let before = fs::read(&key).unwrap();
    let replace = |bytes: &[u8]| {
        fs::remove_file(&key).unwrap();
        write_private(&key, bytes).unwrap();
    };
    for wrong in [&[1; 32][..], &[1; 31]] {
        replace(wrong);
        assert!(matches!(open(&dir), Err(SecretError::Unreadable { .. })));
    }
    fs::remove_file(&key).unwrap();
    assert!(matches!(open(&dir), Err(SecretError::Unreadable { .. })));
    write_private(&key, &before).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open(&dir).unwrap_err().to_string().contains("chmod 600"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(open(&dir).unwrap().value("A").unwrap().as_str(), "value");
    fs::write(&stored, "garbage").unwrap();
    assert!(matches!(open(&dir), Err(SecretError::Unreadable { .. })));
}

#[test]
fn a_value_under_another_name_is_no_value() {
    let dir = dir();
    let secrets = open(&dir).unwrap();
    secrets.set("PUBLIC", "harmless").unwrap();
    secrets.set("ADMIN", "dangerous").unwrap();
    let path = dir.path().join("secrets.json");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("PUBLIC", "X")
        .replace("ADMIN", "PUBLIC")
        .replace("\"X\"", "\"ADMIN\"");
    fs::write(&path, text).unwrap();
    assert!(matches!(open(&dir).unwrap().value("PUBLIC"), Err(SecretError::Unreadable { .. })));
}

#[test]
fn a_new_key_seals_everything_anew_and_a_crash_at_any_step_loses_nothing() {
    let dir = dir();
    let secrets = open(&dir).unwrap();
    for number in 0..5 {
        secrets.set(&format!("S{number}"), &format!("value {number}")).unwrap();
    }
    let file = |name: &str| dir.path().join(name);
    let (old_key, old_values) =
        (fs::read(file("master.key")).unwrap(), fs::read(file("secrets.json")).unwrap());
    assert_eq!(secrets.rekey().unwrap(), 5);
    let (new_key, new_values) =
        (fs::read(file("master.key")).unwrap(), fs::read(file("secrets.json")).unwrap());
    assert_ne!(old_key, new_key);
    // What the files are after each step.
    for (own, next, values) in [
        (&old_key, None, &old_values),
        (&old_key, Some(&new_key[..10]), &old_values),
        (&old_key, Some(&new_key[..]), &old_values),
        (&old_key, Some(&new_key[..]), &new_values),
        (&new_key, None, &new_values),
    ] {
        for (name, bytes) in
            [("master.key", Some(&own[..])), ("master.key.next", next), ("secrets.json", Some(&values[..]))]
        {
            remove(&file(name)).unwrap();
            if let Some(bytes) = bytes {
                write_private(&file(name), bytes).unwrap();
            }
        }
        let secrets = open(&dir).unwrap();
        for number in 0..5 {
            assert_eq!(secrets.value(&format!("S{number}")).unwrap().as_str(), format!("value {number}"));
        }
        assert!(!file("master.key.next").exists(), "the old key or the new one is gone");
    }
}

#[test]
fn names_and_numbers_have_limits() {
    let dir = dir();
    let secrets = open(&dir).unwrap();
    assert!(matches!(secrets.set("LD_PRELOAD", "x"), Err(SecretError::Invalid(_))));
    assert!(matches!(secrets.set("A", "x\0y"), Err(SecretError::Invalid(_))));
    assert_eq!(secrets.names(), Vec::<String>::new());
}

/// A keyring that can be locked.
#[derive(Debug, Default)]
struct Ring {
    entries: Mutex<BTreeMap<String, Vec<u8>>>,
    locked: std::sync::atomic::AtomicBool,
}

impl Ring {
    fn lock(&self, locked: bool) {
        self.locked.store(locked, std::sync::atomic::Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), String> {
        if self.locked.load(std::sync::atomic::Ordering::Relaxed) {
            Err("it is locked".to_owned())
        } else {
            Ok(())
        }
    }
}

impl Keyring for Ring {
    fn store(&self, entry: &str, key: &[u8]) -> Result<(), String> {
        self.check()?;
        self.entries.lock().unwrap().insert(entry.to_owned(), key.to_vec());
        Ok(())
    }

    fn load(&self, entry: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        self.check()?;
        Ok(self.entries.lock().unwrap().get(entry).cloned().map(Zeroizing::new))
    }

    fn forget(&self, entry: &str) -> Result<(), String> {
        self.check()?;
        self.entries.lock().unwrap().remove(entry);
        Ok(())
    }
}

#[test]
fn a_keyring_wraps_the_key_and_without_it_nothing_opens() {
    let (dir, ring) = (dir(), Arc::new(Ring::default()));
    let with = |ring: &Arc<Ring>| Secrets::open(dir.path(), Some(Arc::<Ring>::clone(ring)));
    let secrets = with(&ring).unwrap();
    secrets.set("A", "value").unwrap();
    let first = ring.entries.lock().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(first.len(), 1);
    assert!(fs::read(dir.path().join("master.key")).unwrap().starts_with(b"{"));
    assert_eq!(with(&ring).unwrap().value("A").unwrap().as_str(), "value");
    // Locked, or not there at all: the store opens, its values do not.
    let none = Secrets::open(dir.path(), None).unwrap();
    assert!(matches!(none.value("A"), Err(SecretError::Locked { .. })));
    assert!(matches!(none.set("B", "x"), Err(SecretError::Locked { .. })));
    ring.lock(true);
    let later = with(&ring).unwrap();
    assert!(matches!(later.value("A"), Err(SecretError::Locked { .. })));
    ring.lock(false);
    assert_eq!(later.value("A").unwrap().as_str(), "value");
    // A new key has a new entry, and the old one is gone.
    assert_eq!(later.rekey().unwrap(), 1);
    let second = ring.entries.lock().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(second.len() == 1 && second != first);
    assert_eq!(with(&ring).unwrap().value("A").unwrap().as_str(), "value");
}

#[test]
fn a_key_that_lay_open_is_wrapped_by_the_next_rekey_and_a_locked_keyring_is_no_obstacle() {
    let (dir, ring) = (dir(), Arc::new(Ring::default()));
    open(&dir).unwrap().set("A", "value").unwrap();
    let secrets = Secrets::open(dir.path(), Some(Arc::<Ring>::clone(&ring))).unwrap();
    assert_eq!(secrets.value("A").unwrap().as_str(), "value");
    ring.lock(true);
    secrets.rekey().unwrap();
    assert_eq!(fs::read(dir.path().join("master.key")).unwrap().len(), 32);
    ring.lock(false);
    secrets.rekey().unwrap();
    assert!(matches!(open(&dir).unwrap().value("A"), Err(SecretError::Locked { .. })));
}

#[test]
fn other_things_are_sealed_until_the_key_changes() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = Secrets::open(dir.path(), None).unwrap();
    assert!(secrets.seal("value").is_err(), "there is no key yet");
    secrets.set("TOKEN", "x").unwrap();
    let sealed = secrets.seal("value").unwrap();
    assert!(!sealed.contains("value"));
    assert_eq!(Secrets::open(dir.path(), None).unwrap().unseal(&sealed).unwrap().as_str(), "value");
    assert!(secrets.unseal("{}").is_err() && secrets.unseal("no").is_err());
    secrets.rekey().unwrap();
    assert!(secrets.unseal(&sealed).is_err());
}
