//! Guests that have just come up, kept to start others from: one for each kind of machine.
//!
//! A template's guest has its harness running, has opened no disk and has run nothing, so it serves every image. It
//! holds nothing of any instance. It is a cache: any of them may vanish at any time, and one that is damaged, or of
//! which another monitor, kernel, harness or processor would have made something else, is not used; then a machine
//! boots.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aegis_guest_link::Resume;
use aegis_guest_protocol::messages::Settle;
use aegis_guest_protocol::rpc::Call;
use aegis_store::saved::SavedError;
use aegis_vmm::{Draft, Machine, MachineSpec, Saved};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::at_rest;
use crate::error::chain;
use crate::machine::session::Session;
use crate::manager::{Context, Instances};
use crate::now_ms;
use crate::spec::InstanceSpec;

/// Most that templates take on disk, unless set otherwise, bytes.
pub const DEFAULT_BUDGET: u64 = 2 << 30;

/// Extension of their files.
const EXTENSION: &str = "template";
/// How many are held in memory, ready for use.
const MOST_LOADED: usize = 2;
/// How long a guest may take to become one, or to be ready as a spare one.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What such a machine has for a disk while it boots, bytes. Nobody looks at it.
const PLACEHOLDER: u64 = 1 << 20;

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
    /// Whether a machine that was started from it is ready for the next instance.
    pub spare: bool,
}

/// What is noted in a template's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// What machines must have in common with it.
    likeness: String,
    memory_mib: u32,
    vcpus: u32,
    created_ms: i64,
}

/// All templates of a home.
#[derive(Debug)]
pub(crate) struct Templates {
    dir: PathBuf,
    budget: u64,
    /// Those used last, the latest first.
    loaded: Mutex<Vec<(String, Arc<Saved>)>>,
    /// Those that are being made.
    making: Mutex<HashSet<String>>,
}

/// The name of the template of all machines that are like this.
fn name_of(likeness: &str) -> String {
    Sha256::digest(likeness).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ms(time: std::io::Result<SystemTime>) -> i64 {
    let since = time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
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

impl Templates {
    /// Those in this directory, of which at most so many bytes are kept. Without any room there are none.
    pub(crate) fn new(dir: PathBuf, budget: u64) -> Templates {
        sweep(&dir);
        Templates { dir, budget, loaded: Mutex::default(), making: Mutex::default() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name).with_extension(EXTENSION)
    }

    /// The template for machines that are like this, if there is one.
    pub(crate) async fn find(self: &Arc<Self>, likeness: &str) -> Option<Arc<Saved>> {
        let name = name_of(likeness);
        if let Some(saved) = self.recall(&name) {
            return Some(saved);
        }
        let (this, likeness) = (Arc::clone(self), likeness.to_owned());
        tokio::task::spawn_blocking(move || this.load(&name, &likeness)).await.ok()?
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

    fn load(&self, name: &str, likeness: &str) -> Option<Arc<Saved>> {
        let path = self.file(name);
        match read(&path, likeness) {
            Ok(saved) => {
                self.touch(name);
                let saved = Arc::new(saved);
                self.keep(name, Arc::clone(&saved));
                Some(saved)
            }
            Err(SavedError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
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

    fn remove(&self, name: &str) -> bool {
        lock(&self.loaded).retain(|(one, _)| one != name);
        std::fs::remove_file(self.file(name)).is_ok()
    }

    /// Notes that the template for machines that are like this is of no use.
    pub(crate) fn distrust(&self, likeness: &str) {
        self.remove(&name_of(likeness));
    }

    fn list(&self) -> Vec<Template> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let ours = paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        let mut all: Vec<Template> = ours.filter_map(|path| describe(&path)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Removes what is too much.
    fn trim(&self) {
        for template in excess(self.list(), self.budget) {
            tracing::info!(name = template.name, "a template goes: there is no room for it");
            self.remove(&template.name);
        }
    }
}

/// Removes files that a daemon did not finish and never will: only the one that has the home's lock makes them, and now that is
/// this one. Its predecessor may still be a process, if it was killed a moment ago.
fn sweep(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(aegis_store::sweep::PARTIAL) {
            // The next daemon tries again.
            let _left = std::fs::remove_file(entry.path());
        }
    }
}

fn read(path: &Path, likeness: &str) -> Result<Saved, SavedError> {
    let (note, file) = at_rest::open::<Note>(path)?;
    if note.likeness != likeness {
        return Err(SavedError::Damaged("it was made by another version"));
    }
    at_rest::load(file)
}

fn describe(path: &Path) -> Option<Template> {
    let meta = path.metadata().ok()?;
    let (note, _) = at_rest::open::<Note>(path).ok()?;
    Some(Template {
        name: path.file_stem()?.to_str()?.to_owned(),
        memory_mib: note.memory_mib,
        vcpus: note.vcpus,
        bytes: meta.len(),
        created_ms: note.created_ms,
        used_ms: ms(meta.modified()),
        spare: false,
    })
}

/// A machine, and what others must have in common with it to be started from its template.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) spec: MachineSpec,
    pub(crate) likeness: String,
    /// Size of its own disk, MiB.
    pub(crate) disk_mib: u64,
}

impl Pattern {
    /// Whether a machine of this one that has its root mounted already can be that of the other. Its monitor may write no
    /// file that is larger than the disk that it was made with.
    pub(crate) fn fits(&self, other: &Pattern) -> bool {
        self.likeness == other.likeness
            && self.spec.root_disk == other.spec.root_disk
            && self.spec.modules == other.spec.modules
            && self.disk_mib >= other.disk_mib
    }
}

/// The pattern of such a machine, if it may be started from a template.
pub(crate) fn pattern(context: &Context, of: &InstanceSpec, spec: &MachineSpec) -> Option<Pattern> {
    if of.no_template || context.templates.budget == 0 {
        return None;
    }
    Some(Pattern { likeness: context.vmm.likeness(spec)?, spec: spec.clone(), disk_mib: of.disk_mib })
}

/// Makes the template for machines like one that has just booted, unless there is one or it is being made.
pub(crate) fn make_later(context: &Arc<Context>, pattern: Pattern) {
    let name = name_of(&pattern.likeness);
    let templates = &context.templates;
    if context.disk.refusal().is_some()
        || templates.file(&name).exists()
        || !lock(&templates.making).insert(name.clone())
    {
        return;
    }
    let context = Arc::clone(context);
    let tasks = context.upkeep.clone();
    // Owned by the instances, which wait for it before the daemon ends.
    tasks.spawn(async move {
        let made = make(&context, pattern, &name).await;
        lock(&context.templates.making).remove(&name);
        match made {
            Ok(bytes) => tracing::info!(name, bytes, "a template was made"),
            Err(error) => tracing::warn!(name, error, "no template was made"),
        }
    });
}

async fn make(context: &Arc<Context>, pattern: Pattern, name: &str) -> Result<u64, String> {
    let id = format!("inst-template{name}");
    // No files of its are strays.
    let _coming = context.announce(&id);
    let spec = prepare(context, &pattern.spec, &id).map_err(|error| error.to_string())?;
    let saved = match context.vmm.start(&spec).await {
        Err(error) => Err(chain(&error)),
        Ok(machine) => {
            let saved = in_time(context, settle_and_save(&*machine, spec.memory_mib)).await;
            machine.stop().await;
            saved
        }
    };
    clear_up(context, &id);
    let (templates, name) = (Arc::clone(&context.templates), name.to_owned());
    let note = Note {
        likeness: pattern.likeness.clone(),
        memory_mib: spec.memory_mib,
        vcpus: spec.vcpus,
        created_ms: now_ms(),
    };
    let saved = saved?;
    let written = tokio::task::spawn_blocking(move || {
        let written =
            at_rest::write(&templates.file(&name), &note, &saved, None).map_err(|error| chain(&error))?;
        templates.keep(&name, Arc::new(saved));
        templates.trim();
        Ok(written)
    });
    let written = written.await.map_err(|error| error.to_string())?;
    if written.is_ok() {
        context.spares.want(Some(pattern));
    }
    written
}

/// A machine like another one, with names and paths of its own.
pub(crate) fn another(context: &Context, like: &MachineSpec, id: &str) -> std::io::Result<MachineSpec> {
    Ok(MachineSpec {
        name: id.to_owned(),
        run_dir: context.home.run_dir(id).map_err(std::io::Error::other)?,
        console_log: context.home.console(id),
        data_disk: context.home.disk(id),
        ..like.clone()
    })
}

/// A machine like another one, with disks of no content.
fn prepare(context: &Context, like: &MachineSpec, id: &str) -> std::io::Result<MachineSpec> {
    std::fs::create_dir_all(&context.templates.dir)?;
    let spec = another(context, like, id)?;
    std::fs::File::create(&spec.data_disk)?.set_len(PLACEHOLDER)?;
    Ok(MachineSpec { root_disk: vec![spec.data_disk.clone()], modules: None, ..spec })
}

async fn settle_and_save(machine: &dyn Machine, memory_mib: u32) -> Result<Saved, String> {
    tell(machine, &Settle {}).await?;
    let memory = Draft::new(u64::from(memory_mib) << 20).map_err(|error| error.to_string())?;
    machine.save(memory).await.map_err(|error| chain(&error))
}

/// What comes of work on a machine that belongs to no instance, unless it takes too long or the daemon ends.
pub(crate) async fn in_time<T>(
    context: &Context,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::select! {
        done = tokio::time::timeout(TIMEOUT, work) => {
            done.unwrap_or_else(|_| Err("it took too long".to_owned()))
        }
        () = context.upkeep_over.cancelled() => Err("the daemon ends".to_owned()),
    }
}

/// Has the guest of such a machine do one thing, in a session that ends with it.
pub(crate) async fn tell(machine: &dyn Machine, call: &impl Call) -> Result<(), String> {
    let (session, _events, _) =
        Session::open(machine, Resume::default()).await.map_err(|error| error.to_string())?;
    session.link().call(call).await.map_err(|error| error.to_string())?;
    session.link().close();
    Ok(())
}

/// Removes the files of a machine that belongs to no instance.
pub(crate) fn clear_up(context: &Context, id: &str) {
    let gone = [std::fs::remove_file(context.home.disk(id)), std::fs::remove_file(context.home.console(id))];
    let run_dir = context.home.remove_run_dir(id).map_err(|error| error.to_string());
    if let Err(error) = run_dir {
        tracing::warn!(id, error, "run-time directory not removed");
    }
    // What is not there need not be removed.
    drop(gone);
}

impl Instances {
    /// All templates, by name.
    #[must_use]
    pub fn templates(&self) -> Vec<Template> {
        let ready = self.context().spares.ready().map(|likeness| name_of(&likeness));
        let mut all = self.context().templates.list();
        for template in &mut all {
            template.spare = ready.as_ref() == Some(&template.name);
        }
        all
    }

    /// Removes all templates, and returns them. A spare machine goes with them.
    #[must_use]
    pub fn prune_templates(&self) -> Vec<Template> {
        self.context().spares.want(None);
        let templates = &self.context().templates;
        let all = templates.list();
        all.into_iter().filter(|template| templates.remove(&template.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(name: usize, bytes: u64, used_ms: i64) -> Template {
        let name = name.to_string();
        Template { name, memory_mib: 512, vcpus: 1, bytes, created_ms: 0, used_ms, spare: false }
    }

    #[test]
    fn a_template_of_another_version_or_damaged_is_removed_and_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let templates = Templates::new(dir.path().to_owned(), DEFAULT_BUDGET);
        let saved = || {
            let draft = Draft::new(1 << 20).unwrap();
            draft.write(0, &[7; 5000]).unwrap();
            Saved { devices: vec![1, 2], memory: draft.seal().unwrap() }
        };
        let note = Note { likeness: "this".into(), memory_mib: 1, vcpus: 1, created_ms: 5 };
        let path = templates.file(&name_of("this"));
        at_rest::write(&path, &note, &saved(), None).unwrap();
        assert_eq!(templates.list().len(), 1);
        let loaded = templates.load(&name_of("this"), "this").unwrap();
        assert_eq!((loaded.devices.as_slice(), loaded.memory.bytes()), ([1, 2].as_slice(), 1 << 20));
        assert!(templates.load(&name_of("this"), "that").is_none());
        assert!(!path.exists() && templates.recall(&name_of("this")).is_none());
        at_rest::write(&path, &note, &saved(), None).unwrap();
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
