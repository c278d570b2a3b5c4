//! Secrets: in the environment of processes in guests, and nowhere else.

use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_tests::Daemon;
use serde_json::{Value, json};

const VALUE: &str = "s3cr3t-c0rrect-h0rse-battery";

fn set(daemon: &Daemon, key: &str, value: &str) {
    let done = daemon.aegis_with_input(&["secret", "set", key, "-"], format!("{value}\n").into_bytes());
    assert_eq!((done.code, done.out()), (0, format!("Secret {key} set\n")), "{}", done.err());
}

fn start(daemon: &Daemon, handle: &str, secrets: &[&str]) {
    let mut arguments = vec!["instance", "start", "--name", handle, "--disk", "128"];
    for secret in secrets {
        arguments.extend(["--secret", secret]);
    }
    arguments.extend(["--", "sleep", "1000"]);
    assert!(daemon.ok(&arguments).contains("Instance started"));
}

fn shown(daemon: &Daemon, handle: &str, expression: &str) -> String {
    daemon.ok(&["exec", handle, "--", "sh", "-c", &format!("echo {expression}")]).trim().to_owned()
}

fn all_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => all_files(&entry.path(), found),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// Whether a file has these bytes anywhere.
fn has(path: &Path, word: &str) -> bool {
    let status = Command::new("grep").args(["-qsF", "--", word]).arg(path).status();
    status.unwrap().success()
}

/// What `cksum` makes of the value.
fn checksum() -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), VALUE).unwrap();
    let output = Command::new("cksum").stdin(std::fs::File::open(file.path()).unwrap()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_secret_is_in_the_environment_of_its_processes_and_nowhere_else() {
    let daemon = Daemon::start_with(&[("AEGIS_LOG", "trace")]);
    set(&daemon, "TOKEN", VALUE);
    start(&daemon, "box", &["TOKEN"]);
    // Its checksum, because what an exec prints is in the log.
    let sum = "$(printf %s \"$TOKEN\" | cksum)";
    assert_eq!(shown(&daemon, "box", sum), checksum());
    // The command itself has it, too.
    let command = "tr '\\0' '\\n' < /proc/$(pgrep -x sleep | head -n 1)/environ | grep -c ^TOKEN=";
    assert_eq!(daemon.ok(&["exec", "box", "--", "sh", "-c", command]), "1\n");
    let inside = "grep -rlsF \"$TOKEN\" /etc /root /var /run /tmp /workspace /proc/cmdline; \
        for file in /proc/[0-9]*/cmdline; do \
            case $(tr '\\0' ' ' < $file) in *\"$TOKEN\"*) echo $file;; esac; \
        done; echo over";
    assert_eq!(daemon.aegis(&["exec", "box", "--", "sh", "-c", inside]).out(), "over\n");
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
    assert_eq!(shown(&daemon, "box", sum), checksum());

    let mut files = Vec::new();
    all_files(daemon.root(), &mut files);
    assert!(files.iter().any(|file| file.ends_with("secrets.json")) && files.len() > 6, "{files:?}");
    let base64 = "czNjcjN0LWMwcnJlY3QtaDByc2UtYmF0dGVyeQ";
    let hex: String = VALUE.bytes().map(|byte| format!("{byte:02x}")).collect();
    for file in files {
        for word in [VALUE, base64, &hex] {
            assert!(!has(&file, word), "{}", file.display());
        }
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains(VALUE), "{line}");
    }
    let told = ["instance", "info", "box", "--output", "json"].map(str::to_owned);
    let told = daemon.ok(&told.iter().map(String::as_str).collect::<Vec<_>>());
    let info: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(info["secret_keys"], json!(["TOKEN"]));
    assert!(!told.contains(VALUE));
    for quiet in [&["secret", "list", "--output", "json"][..], &["logs", "box"], &["events", "box"]] {
        assert!(!daemon.ok(quiet).contains(VALUE));
    }
}

#[test]
fn only_what_is_asked_for_is_given_and_a_new_value_counts_from_the_next_boot_or_exec() {
    let daemon = Daemon::start();
    set(&daemon, "A", "1");
    set(&daemon, "B", "2");
    start(&daemon, "none", &[]);
    start(&daemon, "one", &["A"]);
    start(&daemon, "all", &["*"]);
    assert_eq!(shown(&daemon, "none", "[$A$B]"), "[]");
    assert_eq!(shown(&daemon, "one", "[$A$B]"), "[1]");
    assert_eq!(shown(&daemon, "all", "[$A$B]"), "[12]");
    set(&daemon, "A", "one");
    set(&daemon, "C", "three");
    assert_eq!(shown(&daemon, "one", "$A"), "one");
    assert_eq!(shown(&daemon, "all", "$A$B$C"), "one2three");
    let over = daemon.ok(&["run", "--secret", "A", "--env", "A=flag", "--", "sh", "-c", "echo $A"]);
    assert_eq!(over, "flag\n");
    assert_eq!(daemon.ok(&["secret", "rekey"]), "Secrets sealed with a new key: 3\n");
    daemon.crash();
    daemon.up();
    assert_eq!(shown(&daemon, "all", "$A$B$C"), "one2three");
}

#[test]
fn a_secret_that_is_missing_or_refused_is_told_before_anything_is_made() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let run = daemon.aegis(&["run", "--workdir", "/tmp", "--secret", "NOPE", "--", "true"]);
    assert!(
        run.code == 125 && run.err().contains("no secret NOPE") && run.err().contains("hint:"),
        "{}",
        run.err()
    );
    assert_eq!(daemon.ok(&["instance", "list"]), "No instances\n");
    for (key, words) in [("LD_PRELOAD", "loaded"), ("PATH", "loaded"), ("A-B", "no name")] {
        let done = daemon.aegis_with_input(&["secret", "set", key, "-"], b"x".to_vec());
        assert!(done.code == 1 && done.err().contains(words), "{}", done.err());
    }
    assert_eq!(daemon.ok(&["secret", "list"]), "No secrets\n");
    // One that goes while an instance names it.
    set(&daemon, "A", "1");
    let start =
        ["instance", "start", "--name", "box", "--workdir", "/tmp", "--secret", "A", "--", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    assert_eq!(daemon.ok(&["secret", "delete", "A"]), "Secret A deleted\n");
    let gone = daemon.aegis(&["secret", "delete", "A"]);
    assert!(gone.code == 1 && gone.err().contains("no secret A"), "{}", gone.err());
    assert!(daemon.aegis(&["exec", "box", "--", "true"]).err().contains("no secret A"));
    let again = daemon.aegis(&["instance", "restart", "box"]);
    assert!(again.code == 1 && again.err().contains("no secret A"), "{}", again.err());
    assert_eq!(daemon.info("box").unwrap()["stop_reason"]["code"], "secret_missing");
    set(&daemon, "A", "2");
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
}

#[test]
fn a_value_is_taken_from_where_it_is_said_to_be() {
    let daemon = Daemon::start_with(&[
        ("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest")),
        ("FROM_ENV", "from the environment"),
    ]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "two\nlines\n").unwrap();
    let told = daemon.aegis(&["secret", "set", "ARGUMENT", "-dash"]);
    assert!(told.code == 0 && told.err().contains("list of processes") && told.err().contains("hint:"));
    let from_file = ["secret", "set", "FILE", "--from-file", file.path().to_str().unwrap()];
    assert_eq!(daemon.ok(&from_file), "Secret FILE set\n");
    assert_eq!(daemon.ok(&["secret", "set", "FROM_ENV", "--from-env"]), "Secret FROM_ENV set\n");
    assert_eq!(daemon.aegis(&["secret", "set", "ABSENT", "--from-env"]).code, 1);
    assert_eq!(daemon.aegis_with_input(&["secret", "set", "INPUT"], b"typed".to_vec()).code, 0);
    assert_eq!(daemon.ok(&["secret", "list"]), "Secrets:\n  ARGUMENT\n  FILE\n  FROM_ENV\n  INPUT\n");
    let show = "printf '%s|%s|%s|%s' \"$ARGUMENT\" \"$FILE\" \"$FROM_ENV\" \"$INPUT\"";
    let shown = daemon.ok(&["run", "--workdir", "/tmp", "--secret", "*", "--", "sh", "-c", show]);
    assert_eq!(shown, "-dash|two\nlines|from the environment|typed");
}

#[test]
fn a_daemon_with_a_lost_key_says_so_and_destroys_nothing() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    set(&daemon, "A", "1");
    assert_eq!(daemon.aegis(&["down"]).code, 0);
    let (key, aside) = (daemon.root().join("data/master.key"), daemon.root().join("aside"));
    std::fs::rename(&key, &aside).unwrap();
    let up = daemon.aegis(&["up"]);
    assert!(up.code == 1 && up.err().contains("master.key"), "{}", up.err());
    std::fs::rename(&aside, &key).unwrap();
    daemon.up();
    assert_eq!(daemon.ok(&["secret", "list"]), "Secrets:\n  A\n");
}

/// A session's bus with a keyring that is unlocked, in a home of its own.
struct Session {
    child: std::process::Child,
    address: String,
    home: tempfile::TempDir,
}

impl Session {
    fn start() -> Session {
        use std::io::BufRead;
        use std::os::unix::process::CommandExt;
        let home = tempfile::tempdir().unwrap();
        let script = "printf password | gnome-keyring-daemon --unlock --components=secrets >/dev/null; \
            echo $DBUS_SESSION_BUS_ADDRESS; exec sleep 1000";
        let mut child = std::process::Command::new("dbus-run-session")
            .args(["--", "sh", "-c", script])
            .env("HOME", home.path())
            .env("XDG_RUNTIME_DIR", home.path())
            .env_remove("XDG_DATA_HOME")
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut address = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Session { child, address: address.trim().to_owned(), home }
    }

    /// What the keyring has written.
    fn entries(&self) -> Vec<u8> {
        std::fs::read(self.home.path().join(".local/share/keyrings/login.keyring")).unwrap_or_default()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // With the bus the keyring goes too.
        let group = rustix::process::Pid::from_child(&self.child);
        let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _gone = self.child.wait();
    }
}

#[test]
fn the_keyring_of_a_session_keeps_what_opens_the_master_key() {
    let session = Session::start();
    let in_session = [("DBUS_SESSION_BUS_ADDRESS", session.address.as_str())];
    let daemon = Daemon::start_with(&in_session);
    assert_eq!(daemon.aegis(&["secret", "set", "TOKEN", "hunter2"]).code, 0);
    let key = daemon.root().join("data/master.key");
    let first = std::fs::read(&key).unwrap();
    assert!(String::from_utf8_lossy(&first).contains("keyring_entry"), "the key is wrapped");
    assert!(!session.entries().is_empty());
    let show = ["run", "--secret", "TOKEN", "--", "sh", "-c", "echo $TOKEN"];
    assert_eq!(daemon.ok(&show), "hunter2\n");
    assert_eq!(daemon.ok(&["secret", "rekey"]), "Secrets sealed with a new key: 1\n");
    assert_ne!(std::fs::read(&key).unwrap(), first);
    // Another daemon of the session has it too.
    assert_eq!(daemon.aegis(&["down"]).code, 0);
    daemon.up();
    assert_eq!(daemon.ok(&show), "hunter2\n");
    // One outside of it does everything but that.
    assert_eq!(daemon.aegis(&["down"]).code, 0);
    let up = daemon.command(&["up"]).env_remove("DBUS_SESSION_BUS_ADDRESS").output().unwrap();
    assert!(up.status.success());
    assert_eq!(daemon.ok(&["secret", "list"]), "Secrets:\n  TOKEN\n");
    assert_eq!(daemon.ok(&["run", "--", "echo", "works"]), "works\n");
    let locked = daemon.aegis(&show);
    assert!(locked.code != 0 && locked.err().contains("keyring"), "{}", locked.err());
}
