//! Guests that have just come up, kept to start others from: one for each kind of machine.
//!
//! A template's guest has its harness running, has opened no disk and has run nothing, so it serves every image. It
//! holds nothing of any instance. It is a cache: any of them may vanish at any time, and one that is damaged, or of
//! which another monitor, kernel, harness or processor would have made something else, is not used; then a machine
//! boots.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aegis_spec::instance::InstanceSpec;
use aegis_store::machine_state::MachineStateError;
use aegis_vmm::{MachineSpec, Saved, Vmm};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checkpoint::memory_file;
use crate::clock::{now_ms, unix_ms};
use crate::template_key::TemplateKey;

/// Most that templates take on disk, unless set otherwise, bytes.
pub const DEFAULT_BUDGET: u64 = 2 << 30;

/// Extension of their files.
const EXTENSION: &str = "template";
/// How many are held in memory, ready for use.
const MOST_LOADED: usize = 2;

/// A template as others see it. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// Memory of its machines, MiB.
    pub memory_mib: u32,
    /// Their processors.
    pub vcpus: u32,
    /// What it takes on disk, bytes.
    pub bytes: u64,
    /// When it was made.
    pub created_ms: i64,
    /// When it was last used.
    pub used_ms: i64,
    /// Whether a warm machine that was started from it is ready for the next instance.
    pub warm: bool,
}

/// What is noted in a template's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// What machines must have in common with it.
    #[serde(rename = "likeness")]
    compatibility_key: String,
    memory_mib: u32,
    vcpus: u32,
    created_ms: i64,
}

/// All templates of a home.
#[derive(Debug)]
pub struct TemplateStore {
    dir: PathBuf,
    budget: u64,
    /// Those used last, the latest first.
    loaded: Mutex<Vec<(String, Arc<Saved>)>>,
    /// Those that are being made.
    making: Mutex<HashSet<String>>,
}

/// The name of the template of all machines with this key.
#[must_use]
pub fn name_of(compatibility_key: &str) -> String {
    Sha256::digest(compatibility_key).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has to go so that the rest is within the budget: the least recently used first.
fn excess(mut all: Vec<Template>, budget: u64) -> Vec<Template> {
    all.sort_by_key(|template| std::cmp::Reverse(template.used_ms));
    let mut sum = 0u64;
    let fits = |template: &Template| {
        sum = sum.saturating_add(template.bytes);
        sum <= budget
    };
    let kept = all.iter().map(fits).take_while(|fits| *fits).count();
    all.split_off(kept)
}

impl TemplateStore {
    /// Those in this directory, of which at most so many bytes are kept. Without any room there are none.
    pub fn new(dir: PathBuf, budget: u64) -> TemplateStore {
        sweep(&dir);
        TemplateStore { dir, budget, loaded: Mutex::default(), making: Mutex::default() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name).with_extension(EXTENSION)
    }

    /// The template for machines that are like this, if there is one.
    pub async fn find(self: &Arc<Self>, compatibility_key: &str) -> Option<Arc<Saved>> {
        let name = name_of(compatibility_key);
        if let Some(saved) = self.recall(&name) {
            return Some(saved);
        }
        let (this, compatibility_key) = (Arc::clone(self), compatibility_key.to_owned());
        tokio::task::spawn_blocking(move || this.load(&name, &compatibility_key)).await.ok()?
    }

    fn recall(&self, name: &str) -> Option<Arc<Saved>> {
        let mut loaded = lock(&self.loaded);
        let at = loaded.iter().position(|(one, _)| one == name)?;
        let found = loaded.remove(at);
        let saved = Arc::clone(&found.1);
        loaded.insert(0, found);
        drop(loaded);
        self.touch(name).then_some(saved)
    }

    /// Notes its use; `false` if it is there no more.
    fn touch(&self, name: &str) -> bool {
        let file = std::fs::File::options().append(true).open(self.file(name));
        file.and_then(|file| file.set_modified(SystemTime::now())).is_ok()
    }

    fn load(&self, name: &str, compatibility_key: &str) -> Option<Arc<Saved>> {
        let path = self.file(name);
        match read(&path, compatibility_key) {
            Ok(saved) => {
                self.touch(name);
                let saved = Arc::new(saved);
                self.keep(name, Arc::clone(&saved));
                Some(saved)
            }
            Err(MachineStateError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(name, %error, "a template cannot be used, and is removed");
                self.remove(name);
                None
            }
        }
    }

    fn keep(&self, name: &str, saved: Arc<Saved>) {
        let mut loaded = lock(&self.loaded);
        loaded.retain(|(one, _)| one != name);
        loaded.insert(0, (name.to_owned(), saved));
        loaded.truncate(MOST_LOADED);
    }

    /// Removes a template. Returns whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        lock(&self.loaded).retain(|(one, _)| one != name);
        std::fs::remove_file(self.file(name)).is_ok()
    }

    /// Notes that the template for machines that are like this is of no use.
    pub fn distrust(&self, compatibility_key: &str) {
        self.remove(&name_of(compatibility_key));
    }

    /// All templates, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Template> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let ours = paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        let mut all: Vec<Template> = ours.filter_map(|path| describe(&path)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The directory that they are in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kind of such a machine, if it may be started from a template.
    #[must_use]
    pub fn template_key(&self, of: &InstanceSpec, spec: &MachineSpec, vmm: &dyn Vmm) -> Option<TemplateKey> {
        if of.no_template || self.budget == 0 {
            return None;
        }
        let compatibility_key = vmm.compatibility_key(spec)?;
        Some(TemplateKey { compatibility_key, spec: spec.clone(), disk_mib: of.disk_mib })
    }

    /// Notes that the template for machines with this key is being made, until what is returned is dropped; `None` if there is
    /// one, or somebody else makes it.
    #[must_use]
    pub fn begin(self: &Arc<Self>, compatibility_key: &str) -> Option<BeingMade> {
        let name = name_of(compatibility_key);
        let free = !self.file(&name).exists() && lock(&self.making).insert(name.clone());
        free.then(|| BeingMade { store: Arc::clone(self), name })
    }

    /// Writes a template, and keeps it ready for use. What is too much goes. Returns its length, bytes. Blocks.
    ///
    /// # Errors
    /// As of [`memory_file::write`].
    pub fn write(&self, of: &TemplateKey, saved: Saved) -> Result<u64, MachineStateError> {
        let name = name_of(&of.compatibility_key);
        let note = Note {
            compatibility_key: of.compatibility_key.clone(),
            memory_mib: of.spec.memory_mib,
            vcpus: of.spec.vcpus,
            created_ms: now_ms(),
        };
        let written = memory_file::write(&self.file(&name), &note, &saved, None)?;
        self.keep(&name, Arc::new(saved));
        self.trim();
        Ok(written)
    }

    /// Removes what is too much.
    fn trim(&self) {
        for template in excess(self.list(), self.budget) {
            tracing::info!(name = template.name, "a template goes: there is no room for it");
            self.remove(&template.name);
        }
    }
}

/// A template that is being made.
#[derive(Debug)]
pub struct BeingMade {
    store: Arc<TemplateStore>,
    name: String,
}

impl BeingMade {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for BeingMade {
    fn drop(&mut self) {
        lock(&self.store.making).remove(&self.name);
    }
}

/// Removes files that a daemon did not finish and never will: only the one that has the home's lock makes them, and now that is
/// this one. Its predecessor may still be a process, if it was killed a moment ago.
fn sweep(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(aegis_store::orphans::PARTIAL) {
            // The next daemon tries again.
            let _left = std::fs::remove_file(entry.path());
        }
    }
}

fn read(path: &Path, compatibility_key: &str) -> Result<Saved, MachineStateError> {
    let (note, file) = memory_file::open::<Note>(path)?;
    if note.compatibility_key != compatibility_key {
        return Err(MachineStateError::Damaged("it was made by another version"));
    }
    memory_file::load(file)
}

fn describe(path: &Path) -> Option<Template> {
    let meta = path.metadata().ok()?;
    let (note, _) = memory_file::open::<Note>(path).ok()?;
    Some(Template {
        name: path.file_stem()?.to_str()?.to_owned(),
        memory_mib: note.memory_mib,
        vcpus: note.vcpus,
        bytes: meta.len(),
        created_ms: note.created_ms,
        used_ms: meta.modified().map_or(0, unix_ms),
        warm: false,
    })
}

#[cfg(test)]
mod tests {
    use aegis_vmm::MemoryBuilder;
    use proptest::prelude::*;

    use super::*;

    fn template(name: usize, bytes: u64, used_ms: i64) -> Template {
        let name = name.to_string();
        Template { name, memory_mib: 512, vcpus: 1, bytes, created_ms: 0, used_ms, warm: false }
    }

    #[test]
    fn a_template_of_another_version_or_damaged_is_removed_and_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let templates = TemplateStore::new(dir.path().to_owned(), DEFAULT_BUDGET);
        let saved = || {
            let draft = MemoryBuilder::new(1 << 20).unwrap();
            draft.write(0, &[7; 5000]).unwrap();
            Saved { devices: vec![1, 2], memory: draft.seal().unwrap() }
        };
        let note = Note { compatibility_key: "this".into(), memory_mib: 1, vcpus: 1, created_ms: 5 };
        let path = templates.file(&name_of("this"));
        memory_file::write(&path, &note, &saved(), None).unwrap();
        assert_eq!(templates.list().len(), 1);
        let loaded = templates.load(&name_of("this"), "this").unwrap();
        assert_eq!((loaded.devices.as_slice(), loaded.memory.bytes()), ([1, 2].as_slice(), 1 << 20));
        assert!(templates.load(&name_of("this"), "that").is_none());
        assert!(!path.exists() && templates.recall(&name_of("this")).is_none());
        memory_file::write(&path, &note, &saved(), None).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 100;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(templates.load(&name_of("this"), "this").is_none());
        assert!(!path.exists());
    }

    proptest! {
        #[test]
        fn what_is_kept_fits_and_was_used_after_all_that_goes(
            all in proptest::collection::vec((0u64..100, 0i64..1000), 0..12), budget in 0u64..400,
        ) {
            let all: Vec<Template> =
                all.iter().enumerate().map(|(name, (bytes, used))| template(name, *bytes, *used)).collect();
            let gone = excess(all.clone(), budget);
            let kept: Vec<&Template> = all.iter().filter(|one| !gone.contains(one)).collect();
            prop_assert!(kept.iter().map(|one| one.bytes).sum::<u64>() <= budget);
            let oldest_kept = kept.iter().map(|one| one.used_ms).min();
            let newest_gone = gone.iter().map(|one| one.used_ms).max();
            prop_assert!(oldest_kept.zip(newest_gone).is_none_or(|(kept, gone)| kept >= gone));
            prop_assert!(gone.is_empty() || all.iter().map(|one| one.bytes).sum::<u64>() > budget);
        }
    }
}
