//! Directories of the host in a guest: who sees what, what lasts, what a guest can never do.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aegis_tests::{Daemon, eventually, is_alive};
use rustix::process::{Pid, Signal, kill_process};

/// Starts an instance that sees a directory, and returns its id.
pub(crate) fn start(daemon: &Daemon, handle: &str, workspace: &str, more: &[&str]) -> String {
    let settings = ["instance", "start", "--name", handle, "--memory", "160", "--workspace", workspace];
    let out = daemon.ok(&[&settings[..], more, &["--", "sleep", "1000"]].concat());
    out.lines().find_map(|line| line.strip_prefix("Instance started: ")).unwrap().to_owned()
}

fn sh(daemon: &Daemon, handle: &str, script: &str) -> String {
    daemon.ok(&["exec", handle, "--", "sh", "-c", script])
}

/// A command that has to fail, and what it says.
fn refused(daemon: &Daemon, handle: &str, script: &str) -> String {
    let done = daemon.aegis(&["exec", handle, "--", "sh", "-c", script]);
    assert_ne!(done.code, 0, "{script}: {}", done.out());
    done.err()
}

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn text(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }
}

#[test]
fn what_is_written_to_a_named_workspace_lasts_and_all_else_does_not() {
    let daemon = Daemon::start();
    let run = ["run", "--memory", "160", "--workspace", "notes", "--", "sh", "-c"];
    assert_eq!(daemon.ok(&[&run[..], &["echo kept > note; echo lost > /srv/note"]].concat()), "");
    assert_eq!(daemon.ok(&[&run[..], &["cat note; ls /srv"]].concat()), "kept\n");
    let on_host = daemon.root().join("data/workspaces/notes/note");
    assert_eq!(std::fs::read_to_string(&on_host).unwrap(), "kept\n");
    // Without one there is a private one, and nothing is left of it.
    assert_eq!(
        daemon.ok(&["run", "--memory", "160", "--", "sh", "-c", "echo x > note; pwd"]),
        "/workspace\n"
    );
    let listed = daemon.ok(&["workspace", "list"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("notes      -        /"), "{listed}");
    // Instances that are deleted leave named ones alone.
    start(&daemon, "box", "notes", &[]);
    assert_eq!(daemon.aegis(&["instance", "delete", "box"]).code, 0);
    assert!(on_host.exists());
}

#[test]
fn workspaces_are_made_described_and_removed_unless_an_instance_sees_them() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ok(&["workspace", "list"]), "No workspaces\n");
    assert_eq!(daemon.ok(&["workspace", "create", "w"]), "Workspace w created\n");
    let again = daemon.aegis(&["workspace", "create", "w"]);
    assert!(again.code == 1 && again.err().contains("already"), "{}", again.err());
    start(&daemon, "box", "w", &[]);
    assert_eq!(sh(&daemon, "box", "head -c 10000 /dev/zero > f; mkdir d; echo done"), "done\n");
    let info = daemon.ok(&["workspace", "info", "w"]);
    assert!(info.contains("Used by:  box\n") && info.contains("Entries:  2\n"), "{info}");
    let shown = daemon.ok(&["instance", "info", "box"]);
    assert!(shown.lines().any(|line| line.starts_with("Workspace:") && line.ends_with(" w")), "{shown}");
    for verb in ["stop", "disable"] {
        assert_eq!(daemon.aegis(&["instance", verb, "box"]).code, 0);
        let used = daemon.aegis(&["workspace", "remove", "w"]);
        assert!(used.code == 1 && used.err().contains("in use by box"), "{}", used.err());
    }
    assert_eq!(daemon.aegis(&["instance", "delete", "box"]).code, 0);
    assert_eq!(daemon.ok(&["workspace", "remove", "w"]), "Workspace w removed\n");
    assert!(!daemon.root().join("data/workspaces/w").exists());
    let gone = daemon.aegis(&["workspace", "info", "w"]);
    assert!(gone.code == 1 && gone.err().contains("aegis workspace list"), "{}", gone.err());
}

#[test]
fn files_belong_to_the_commands_user_in_the_guest_and_to_the_daemons_on_the_host() {
    let (daemon, dir) = (Daemon::start(), Home::new());
    std::fs::write(dir.path().join("mine"), "x").unwrap();
    std::fs::set_permissions(dir.path().join("mine"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    start(&daemon, "box", &dir.text(), &["--user", "1000:1001"]);
    assert_eq!(sh(&daemon, "box", "stat -c '%u:%g %a' . mine; cat mine"), "1000:1001 700\n1000:1001 640\nx");
    assert_eq!(
        sh(&daemon, "box", "umask 022; echo y > yours; mkdir d; chmod 750 d; stat -c '%u %a' yours d"),
        "1000 644\n1000 750\n"
    );
    let yours = dir.path().join("yours").metadata().unwrap();
    assert_eq!((yours.uid(), yours.mode() & 0o7777), (rustix::process::getuid().as_raw(), 0o644));
    // Ownership is no matter of the guest's, and neither are powers that the host would honour.
    let root = ["exec", "box", "--user", "root", "--", "sh", "-c"];
    let script = "chown 7:7 yours; chmod 6755 yours; stat -c '%u %a' yours; mknod disk b 8 0 2>&1 | grep -o 'not permitted'; mknod pipe p; stat -c %F pipe";
    assert_eq!(daemon.ok(&[&root[..], &[script]].concat()), "1000 755\nnot permitted\nfifo\n");
    assert_eq!(dir.path().join("yours").metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_file_without_permission_to_write_is_written_by_whoever_made_it() {
    let (daemon, dir) = (Daemon::start(), Home::new());
    start(&daemon, "box", &dir.text(), &[]);
    // As git makes its objects.
    let script = "import os; f = os.open('object', os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444); print(os.write(f, b'x' * 300000)); os.fsync(f)";
    assert_eq!(daemon.ok(&["exec", "box", "--", "python3", "-c", script]), "300000\n");
    assert_eq!(dir.path().join("object").metadata().unwrap().mode() & 0o777, 0o444);
    assert_eq!(sh(&daemon, "box", "mkdir d; chmod 555 d; touch d/x && rm -rf d && echo gone"), "gone\n");
}

#[test]
fn what_is_only_for_reading_is_never_written_whatever_the_guest_does() {
    let (daemon, dir) = (Daemon::start(), Home::new());
    std::fs::write(dir.path().join("f"), "x").unwrap();
    start(&daemon, "box", &format!("{}:ro", dir.text()), &[]);
    assert_eq!(sh(&daemon, "box", "cat f"), "x");
    assert!(refused(&daemon, "box", "echo y > f").contains("Read-only"));
    // The guest's root can make its kernel forget that; the server does not.
    for script in
        ["echo y > f", "touch g", "rm f", "chmod 777 f", "mv f g", "ln f g", "mkdir d", "truncate -s 0 f"]
    {
        let script = format!("mount -o remount,rw /workspace 2>/dev/null; {script}");
        assert!(refused(&daemon, "box", &script).contains("Read-only"), "{script}");
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("f")).unwrap(), "x");
}

#[test]
fn a_symbolic_link_never_leads_out_of_the_guest() {
    let (daemon, dir) = (Daemon::start(), Home::new());
    let (inside, secret) = (dir.path().join("w"), dir.path().join("secret"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(&secret, "of the host").unwrap();
    symlink("../secret", inside.join("relative")).unwrap();
    symlink(&secret, inside.join("absolute")).unwrap();
    symlink("..", inside.join("up")).unwrap();
    symlink("/etc/hostname", inside.join("hostname")).unwrap();
    start(&daemon, "box", inside.to_str().unwrap(), &[]);
    for name in ["relative", "absolute", "up/secret", "../secret", "up/../secret"] {
        assert!(refused(&daemon, "box", &format!("cat {name}")).contains("No such file"), "{name}");
    }
    // It means what it means in the guest.
    assert_eq!(sh(&daemon, "box", "cat hostname; readlink relative"), "box\n../secret\n");
    assert!(!refused(&daemon, "box", "echo x > relative/y").is_empty());
    assert_eq!(sh(&daemon, "box", "echo new > relative; cat /secret"), "new\n");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the host");
    // A directory that the host replaces by a link under the guest's feet is not followed either.
    std::fs::create_dir(inside.join("d")).unwrap();
    assert_eq!(sh(&daemon, "box", "ls d"), "");
    std::fs::remove_dir(inside.join("d")).unwrap();
    symlink("..", inside.join("d")).unwrap();
    assert!(!daemon.aegis(&["exec", "box", "--", "sh", "-c", "ls d/"]).out().contains("secret\nw"));
}

#[test]
fn a_quota_holds_for_all_that_share_a_workspace() {
    let daemon = Daemon::start();
    for name in ["a", "b"] {
        start(&daemon, name, "w", &["--workspace-quota", "4"]);
    }
    assert_eq!(
        sh(&daemon, "a", "head -c 3000000 /dev/zero > a && df -k . | tail -1 | awk '{print $2}'"),
        "4096\n"
    );
    assert!(refused(&daemon, "b", "head -c 3000000 /dev/zero > b").contains("No space"));
    assert!(
        refused(&daemon, "a", "truncate -s 10M sparse").contains("large")
            || refused(&daemon, "a", "truncate -s 10M sparse").contains("No space")
    );
    // Names count too: no flood of empty files.
    assert!(refused(&daemon, "a", "for i in $(seq 2000); do : > f$i || exit 1; done").contains("No space"));
    assert_eq!(sh(&daemon, "a", "rm -f f* a sparse; echo ok"), "ok\n");
    assert_eq!(sh(&daemon, "b", "rm -f b; head -c 3000000 /dev/zero > b; echo ok"), "ok\n");
    // A file that is open keeps its space until it is closed.
    assert_eq!(
        sh(&daemon, "b", "exec 3< b; rm b; head -c 3000000 /dev/zero > c 2>/dev/null || echo full"),
        "full\n"
    );
    assert_eq!(sh(&daemon, "b", "rm -f c; head -c 3000000 /dev/zero > c; echo ok"), "ok\n");
}

#[test]
fn what_one_instance_writes_the_others_and_the_host_see_within_a_second() {
    let daemon = Daemon::start();
    let id = start(&daemon, "a", "w", &[]);
    start(&daemon, "b", "w", &[]);
    assert!(!id.is_empty());
    assert_eq!(sh(&daemon, "a", "echo 1 > shared"), "");
    assert_eq!(sh(&daemon, "b", "cat shared; ls absent 2>/dev/null; true"), "1\n");
    let begun = std::time::Instant::now();
    for round in 2..6 {
        // Same size, same name; new name; replaced name.
        assert_eq!(
            sh(
                &daemon,
                "a",
                &format!("echo {round} > shared; echo {round} > n{round}; echo {round} > t; mv t r")
            ),
            ""
        );
        let seen = || {
            sh(&daemon, "b", &format!("cat shared n{round} r 2>/dev/null")) == format!("{round}\n").repeat(3)
        };
        eventually("b sees what a wrote", Duration::from_secs(10), seen);
        let host = daemon.root().join("data/workspaces/w/shared");
        assert_eq!(std::fs::read_to_string(&host).unwrap(), format!("{round}\n"));
        std::fs::write(&host, format!("{}\n", round + 100)).unwrap();
        let seen = || sh(&daemon, "a", "cat shared") == format!("{}\n", round + 100);
        eventually("a sees what the host wrote", Duration::from_secs(10), seen);
    }
    assert!(begun.elapsed() > Duration::ZERO);
    // What they are told holds for less than a second in the guest: one look after a whole one is enough.
    assert_eq!(sh(&daemon, "b", "cat shared >/dev/null; sleep 1"), "");
    assert_eq!(sh(&daemon, "a", "echo last > shared"), "");
    assert_eq!(sh(&daemon, "b", "sleep 1; cat shared"), "last\n");
}

#[test]
fn locks_hold_within_an_instance_and_not_across() {
    let daemon = Daemon::start();
    start(&daemon, "a", "w", &[]);
    start(&daemon, "b", "w", &[]);
    assert_eq!(
        sh(&daemon, "a", "touch lock; nohup flock lock sleep 1000 >/dev/null 2>&1 & sleep 0.2; echo ok"),
        "ok\n"
    );
    let locked = || daemon.aegis(&["exec", "a", "--", "flock", "--nonblock", "lock", "true"]).code == 1;
    eventually("the lock holds in the instance that took it", Duration::from_secs(10), locked);
    assert_eq!(daemon.aegis(&["exec", "b", "--", "flock", "--nonblock", "lock", "true"]).code, 0);
}

#[test]
fn more_directories_are_mounted_where_they_are_wanted() {
    let (daemon, dir) = (Daemon::start(), Home::new());
    for name in ["data", "deep"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("f"), name).unwrap();
    }
    let at = |name: &str, place: &str| format!("{}/{name}:{place}", dir.text());
    let (deep, data) = (at("deep", "/workspace/in/side"), at("data", "/data:ro"));
    start(&daemon, "box", "w", &["--mount", &deep, "--mount", &data]);
    assert_eq!(
        sh(
            &daemon,
            "box",
            "cat /data/f in/side/f; echo n > in/side/new; touch /data/x 2>/dev/null || echo ro"
        ),
        "datadeepro\n"
    );
    assert!(dir.path().join("deep/new").exists());
    assert!(refused(&daemon, "box", "rm in/side/*; rmdir in/side").contains("busy"));
    for bad in ["/proc", "/", "/a/../b", "/dev/x"] {
        let wrong = daemon.aegis(&["run", "--mount", &at("data", bad), "--", "true"]);
        assert!(wrong.code != 0 && wrong.err().contains("no place"), "{}", wrong.err());
    }
    let absent = daemon.aegis(&["run", "--workspace", "./absent", "--", "true"]);
    assert!(absent.code == 2 && absent.err().contains("absent"), "{}", absent.err());
}

/// The process that serves an instance's files.
pub(crate) fn server(id: &str) -> Option<i32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("serve-files") && line.contains(id) && is_alive(*pid)
    })
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Writes a number to a line, durably, again and again.
const WRITER: &str = "import os\nf = os.open('log', os.O_CREAT | os.O_WRONLY | os.O_APPEND)\nfor i in range(100000):\n  os.write(f, b'%d\\n' % i); os.fsync(f); open('mark', 'w').write(str(i))\n";

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn check_log(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let whole = text.rsplit_once('\n').unwrap().0;
    for (number, line) in whole.lines().enumerate() {
        assert_eq!(line, number.to_string());
    }
}

#[test]
fn a_guest_that_writes_does_not_notice_the_daemons_crash() {
    let daemon = Daemon::start();
    let id = start(&daemon, "box", "w", &[]);
    let log = daemon.root().join("data/workspaces/w/log");
    let quoted = WRITER.replace('"', "\\\"");
    assert_eq!(
        sh(
            &daemon,
            "box",
            &format!(
                "nohup python3 -c \"{quoted}\" >/dev/null 2>&1 & exec 9> open; rm open; echo kept >&9; cat <&9; echo"
            )
        ),
        "\n"
    );
    eventually("the guest writes", Duration::from_secs(20), || lines(&log) > 20);
    let serving = server(&id).unwrap();
    daemon.crash();
    let before = lines(&log);
    eventually("the guest writes on", Duration::from_secs(20), || lines(&log) > before + 20);
    daemon.up();
    assert_eq!(daemon.state("box"), "running");
    assert_eq!(server(&id), Some(serving));
    let before = lines(&log);
    eventually("the guest writes on", Duration::from_secs(20), || lines(&log) > before + 20);
    assert_eq!(daemon.aegis(&["instance", "delete", "box"]).code, 0);
    check_log(&log);
    // The server that the last daemon started ends with its machine all the same.
    eventually("the server is gone", Duration::from_secs(10), || !is_alive(serving));
}

#[test]
fn a_server_of_files_that_dies_is_replaced_and_the_guest_goes_on() {
    let daemon = Daemon::start();
    let id = start(&daemon, "box", "w", &[]);
    let log = daemon.root().join("data/workspaces/w/log");
    let script = "nohup sh -c 'i=0; while :; do echo $i >> log; i=$((i+1)); done' >/dev/null 2>&1 & echo ok";
    assert_eq!(sh(&daemon, "box", script), "ok\n");
    for _ in 0..3 {
        let before = lines(&log);
        eventually("the guest writes", Duration::from_secs(20), || lines(&log) > before + 20);
        let old = server(&id).unwrap();
        signal(old, Signal::KILL);
        eventually("another server", Duration::from_secs(10), || server(&id).is_some_and(|new| new != old));
    }
    // Also one whose daemon is not the one that started it.
    daemon.crash();
    let old = server(&id).unwrap();
    signal(old, Signal::KILL);
    daemon.up();
    eventually("another server", Duration::from_secs(10), || server(&id).is_some_and(|new| new != old));
    let before = lines(&log);
    eventually("the guest writes", Duration::from_secs(20), || lines(&log) > before + 20);
    check_log(&log);
}

#[test]
fn a_server_that_does_not_answer_never_blocks_the_end_of_an_instance() {
    let daemon = Daemon::start();
    let id = start(&daemon, "box", "w", &[]);
    assert_eq!(
        sh(&daemon, "box", "nohup sh -c 'while :; do date >> log; done' >/dev/null 2>&1 & echo ok"),
        "ok\n"
    );
    let log = daemon.root().join("data/workspaces/w/log");
    eventually("the guest writes", Duration::from_secs(20), || lines(&log) > 2);
    let serving = server(&id).unwrap();
    signal(serving, Signal::STOP);
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    let info = daemon.info("box").unwrap();
    assert_eq!(info["stop_reason"]["code"], "stopped");
    eventually("nothing is left", Duration::from_secs(10), || !is_alive(serving));
    // It starts again.
    let again = daemon.ok(&["instance", "start", "--name", "box"]);
    assert!(again.contains(&id), "{again}");
    assert_eq!(sh(&daemon, "box", "test -s log && echo there"), "there\n");
}

#[test]
fn nothing_of_a_machine_with_a_workspace_is_left_behind() {
    let daemon = Daemon::start();
    let id = start(&daemon, "box", "w", &[]);
    let serving = server(&id).unwrap();
    assert_eq!(daemon.aegis(&["instance", "delete", "box"]).code, 0);
    assert!(!is_alive(serving));
    assert_eq!(daemon.files_of(&id), Vec::<PathBuf>::new());
    // Killed from outside, it takes its server along.
    let id = start(&daemon, "box", "w", &[]);
    let serving = server(&id).unwrap();
    for machine in daemon.machines() {
        signal(machine, Signal::KILL);
    }
    eventually("the server is gone", Duration::from_secs(10), || !is_alive(serving));
    eventually("the instance is stopped", Duration::from_secs(10), || daemon.state("box") == "stopped");
}

#[test]
fn a_directory_that_is_gone_is_told_when_the_instance_starts() {
    let (daemon, dir) = (Daemon::start(), Home::new());
    let path = dir.path().join("w");
    std::fs::create_dir(&path).unwrap();
    start(&daemon, "box", path.to_str().unwrap(), &[]);
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    std::fs::remove_dir_all(&path).unwrap();
    let gone = daemon.aegis(&["instance", "start", "--name", "box"]);
    assert!(gone.code == 1 && gone.err().contains("cannot be mounted at /workspace"), "{}", gone.err());
}
