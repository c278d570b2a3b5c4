//! Daemons of kits: programs on the host that belong to an instance as long as it is enabled, whatever state it is in.
//!
//! A daemon gets its instance's name, the socket of Aegis and the secrets that its manifest names, and nothing else of what
//! this process has. One that fails is started again, later each time. All end with this process, however it ends.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Shortest and longest wait before a daemon that has ended is started again.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A daemon that ran for so long did well: the waits begin anew.
const WELL: Duration = Duration::from_secs(60);
/// How long a daemon may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// Longest log that is gone on with at a start, bytes; a longer one is put aside.
const MOST_LOG: u64 = 1 << 20;

/// What a daemon is made of. One that is made of anything else is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The kit's directory, which it is started in.
    pub dir: PathBuf,
    /// All of its environment.
    pub env: BTreeMap<String, String>,
    /// Where it writes.
    pub log: PathBuf,
}

/// Whose daemon it is, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The instance's id.
    pub instance: String,
    /// The daemon's name.
    pub daemon: String,
}

struct Running {
    plan: Plan,
    over: CancellationToken,
    task: JoinHandle<()>,
}

/// All daemons that run.
#[derive(Default)]
pub struct Daemons {
    running: HashMap<Owner, Running>,
}

impl std::fmt::Debug for Daemons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.running.keys()).finish()
    }
}

impl Daemons {
    /// Makes the daemons that run those that are wanted: starts, ends, and starts anew what is to be different.
    pub async fn reconcile(&mut self, wanted: HashMap<Owner, Plan>) {
        let unwanted =
            self.running.iter().filter(|(owner, running)| wanted.get(owner) != Some(&running.plan));
        let unwanted: Vec<Owner> = unwanted.map(|(owner, _)| owner.clone()).collect();
        self.end(unwanted).await;
        for (owner, plan) in wanted {
            self.running.entry(owner).or_insert_with_key(|owner| {
                let over = CancellationToken::new();
                let task = tokio::spawn(keep(owner.clone(), plan.clone(), over.clone()));
                Running { plan, over, task }
            });
        }
    }

    /// Ends all of them.
    pub async fn end_all(&mut self) {
        let all = self.running.keys().cloned().collect();
        self.end(all).await;
    }

    async fn end(&mut self, owners: Vec<Owner>) {
        let ending: Vec<Running> = owners.iter().filter_map(|owner| self.running.remove(owner)).collect();
        ending.iter().for_each(|running| running.over.cancel());
        for running in ending {
            // A task that panicked has ended too.
            let _ended = running.task.await;
        }
    }
}

/// How long to wait before the next start.
fn wait_after(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LONGEST_WAIT)
}

async fn keep(owner: Owner, plan: Plan, over: CancellationToken) {
    let (id, name) = (owner.instance, owner.daemon);
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let ended = match start(&plan) {
            Ok(mut child) => {
                tokio::select! {
                    status = child.wait() => match status {
                        // It has done what it was there for.
                        Ok(status) if status.success() => return,
                        Ok(status) => status.to_string(),
                        Err(error) => error.to_string(),
                    },
                    () = over.cancelled() => return end(child).await,
                }
            }
            Err(error) => error.to_string(),
        };
        failures = if begun.elapsed() >= WELL { 0 } else { failures };
        let wait = wait_after(failures);
        failures = failures.saturating_add(1);
        tracing::warn!(
            id,
            name,
            ended,
            wait_s = wait.as_secs(),
            "a kit's daemon has ended; it is started again"
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = over.cancelled() => return,
        }
    }
}

fn start(plan: &Plan) -> std::io::Result<Child> {
    let log = open_log(&plan.log)?;
    let errors = log.try_clone()?;
    let (program, arguments) = plan.command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let program = if program.contains('/') { plan.dir.join(program) } else { PathBuf::from(program) };
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear().envs(&plan.env).current_dir(&plan.dir);
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    aegis_sys::child::dependent(&mut command);
    Command::from(command).kill_on_drop(true).spawn()
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if path.metadata().is_ok_and(|status| status.len() > MOST_LOG) {
        std::fs::rename(path, path.with_extension("old"))?;
    }
    File::options().append(true).create(true).open(path)
}

async fn end(mut child: Child) {
    let group = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    let signal = |signal| {
        if let Some(group) = group {
            // Failing means that it is gone already.
            let _gone = kill_process_group(group, signal);
        }
    };
    signal(Signal::TERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        signal(Signal::KILL);
        let _ended = child.wait().await;
    }
    // What it has started ends too.
    signal(Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dir: &Path, script: &str) -> Plan {
        Plan {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            dir: dir.to_owned(),
            env: [("AEGIS_INSTANCE".to_owned(), "web".to_owned())].into(),
            log: dir.join("log"),
        }
    }

    fn owner() -> Owner {
        Owner { instance: "i".into(), daemon: "d".into() }
    }

    async fn eventually(mut done: impl FnMut() -> bool) {
        for _ in 0..500 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within ten seconds");
    }

    #[tokio::test]
    async fn a_daemon_has_its_environment_and_no_other_and_ends_when_it_is_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemons = Daemons::default();
        let script =
            "env | grep -v -e ^PWD -e ^SHLVL -e ^_= > env; echo $$ > pid; while :; do sleep 0.1; done";
        let wanted: HashMap<_, _> = [(owner(), plan(dir.path(), script))].into();
        daemons.reconcile(wanted.clone()).await;
        eventually(|| std::fs::read_to_string(dir.path().join("pid")).is_ok_and(|text| text.ends_with('\n')))
            .await;
        assert_eq!(std::fs::read_to_string(dir.path().join("env")).unwrap(), "AEGIS_INSTANCE=web\n");
        let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
        daemons.reconcile(wanted).await;
        assert_eq!(std::fs::read_to_string(dir.path().join("pid")).unwrap(), pid);
        daemons.reconcile(HashMap::new()).await;
        assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists());
    }

    #[tokio::test]
    async fn a_daemon_that_fails_is_started_again_and_one_that_is_done_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemons = Daemons::default();
        let script = "echo x >> starts; test $(wc -l < starts) -ge 2";
        daemons.reconcile([(owner(), plan(dir.path(), script))].into()).await;
        let starts =
            || std::fs::read_to_string(dir.path().join("starts")).unwrap_or_default().lines().count();
        eventually(|| starts() == 2).await;
        eventually(|| daemons.running.values().all(|running| running.task.is_finished())).await;
        assert_eq!(starts(), 2);
        daemons.end_all().await;
    }

    #[test]
    fn waits_grow_up_to_a_minute() {
        let waits: Vec<u64> = (0..9).map(|failures| wait_after(failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
