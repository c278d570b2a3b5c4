//! Commands on a terminal: what they pass through, and what they show only there.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use aegis_tests::{Daemon, read_until, wait};

/// Runs a shell script with a terminal of its own, on which nobody types.
fn on_a_terminal(daemon: &Daemon, script: &str) -> Child {
    scripted(daemon, script).stdin(Stdio::null()).spawn().unwrap()
}

/// Runs a shell script with a terminal of its own, and somebody who types.
fn typing(daemon: &Daemon, script: &str) -> (Child, ChildStdin) {
    let mut child = scripted(daemon, script).stdin(Stdio::piped()).spawn().unwrap();
    let keys = child.stdin.take().unwrap();
    (child, keys)
}

fn scripted(daemon: &Daemon, script: &str) -> Command {
    let mut command = Command::new("script");
    command
        .args(["-qec", script, "/dev/null"])
        .env("AEGIS_HOME", daemon.root())
        .env("AEGIS", aegis_tests::bin().join("aegis"))
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_terminal_is_a_terminal() {
    let daemon = Daemon::start();
    let script = "stty rows 33 cols 77; \
        $AEGIS run -i -t -- sh -c 'test -t 0 && test -t 1 && stty size && echo term=$TERM'";
    let done = wait(on_a_terminal(&daemon, script), None);
    assert!(done.out().contains("33 77\r\nterm=xterm"), "{:?} {:?}", done.out(), done.err());
    assert_eq!(done.code, 0);
}

#[test]
fn a_terminal_through_exec_follows_its_size() {
    let daemon = Daemon::start();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    let go = daemon.root().join("go");
    let inside = "trap 'stty size; exit 9' WINCH; stty size; echo ready; while :; do sleep 0.1; done";
    let script = format!(
        "stty rows 33 cols 77; (while ! test -e {}; do sleep 0.1; done; stty rows 44 cols 99 </dev/tty) & \
         $AEGIS exec -i -t box -- sh -c \"{inside}\"",
        go.display()
    );
    let mut child = on_a_terminal(&daemon, &script);
    let begun = read_until(child.stdout.as_mut().unwrap(), "ready");
    assert!(begun.contains("33 77"), "{begun:?}");
    std::fs::write(&go, "").unwrap();
    let done = wait(child, None);
    assert!(done.out().contains("44 99"), "{:?} {:?}", done.out(), done.err());
    assert_eq!(done.code, 9);
}

#[test]
fn a_pull_shows_a_bar_for_each_layer_on_a_terminal_and_nothing_in_a_pipe() {
    use aegis_tests::misbehaving_registry::{Misbehaviour, Proxy};
    use aegis_tests::registry::{Layout, Protection, Registry};
    let (registry, layout) = (Registry::start(Protection::None), Layout::new());
    layout.busybox("1");
    registry.push(&layout, "1", "box:1", &[]);
    let proxy = Proxy::start(&registry, Misbehaviour::Slow);
    let daemon = Daemon::start_configured(&proxy.config(), &[]);
    let image = format!("{}/box:1", proxy.name);
    let done = wait(on_a_terminal(&daemon, &format!("$AEGIS image pull {image}")), None);
    assert!(done.out().contains("downloading") && done.out().contains("ready: sha256:"), "{:?}", done.out());
    assert_eq!(daemon.aegis(&["image", "remove", &image]).code, 0);
    let piped = daemon.aegis(&["image", "pull", &image]);
    assert_eq!((piped.code, piped.err()), (0, String::new()));
}

#[test]
fn a_secret_is_asked_for_and_not_shown() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let (mut child, mut keys) = typing(&daemon, "$AEGIS secret set TOKEN");
    let _asked = read_until(child.stdout.as_mut().unwrap(), "Value of TOKEN: ");
    keys.write_all(b"never-shown\n").unwrap();
    let done = wait(child, None);
    assert!(
        done.out().contains("Secret TOKEN set") && !done.out().contains("never-shown"),
        "{:?}",
        done.out()
    );
    let show = ["run", "--workdir", "/tmp", "--secret", "TOKEN", "--", "sh", "-c", "echo $TOKEN"];
    assert_eq!(daemon.ok(&show), "never-shown\n");
}

#[test]
fn an_attached_terminal_keeps_its_instance_awake() {
    let daemon = Daemon::start();
    let script = "$AEGIS run -i -t --name desk --memory 160 --expose 80 --idle-pause 500ms -- \
        sh -c 'echo ready; sleep 4; echo over'";
    let mut child = on_a_terminal(&daemon, script);
    let _begun = read_until(child.stdout.as_mut().unwrap(), "ready");
    assert_eq!(daemon.info("desk").unwrap()["kept_awake_by"].to_string(), "[\"1 terminal\"]");
    let done = wait(child, None);
    assert!(done.code == 0 && done.out().contains("over"), "{:?} {:?}", done.out(), done.err());
    let paused = daemon.ok(&["events", "--output", "json"]).lines().any(|line| line.contains("\"paused\""));
    assert!(!paused, "it was paused under the hands of its user");
}

#[test]
fn prefixes_in_the_log_are_coloured_on_a_terminal_only() {
    let daemon = Daemon::start();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    assert_eq!(daemon.ok(&["exec", "box", "--", "echo", "hello"]), "hello\n");
    let plain = daemon.ok(&["logs", "box"]);
    assert!(plain.contains("[exec] hello\n") && plain.contains("[system] boot 1\n"), "{plain:?}");
    assert!(!plain.contains('\x1b'), "{plain:?}");
    let shown = wait(on_a_terminal(&daemon, "$AEGIS logs box"), None).out();
    assert!(shown.contains("\x1b[36m[exec]\x1b[0m hello"), "{shown:?}");
    assert!(shown.contains("\x1b[33m[system]\x1b[0m boot 1"), "{shown:?}");
}

#[test]
fn input_that_ends_within_a_line_ends_for_a_terminal_too() {
    let daemon = Daemon::start();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    for (input, said) in [("foo", "foo"), ("foo\n", "foo"), ("a\nb", "a\r\nb"), ("", "")] {
        let done = daemon.aegis_with_input(&["exec", "-i", "-t", "box", "--", "cat"], input.into());
        assert!(done.code == 0 && done.out().contains(said), "{input:?}: {:?} {:?}", done.out(), done.err());
    }
}

#[test]
fn input_that_ends_ends_whoever_reads_key_by_key_too() {
    let daemon = Daemon::start();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    // Shells and their like read lines while they start, and keys at their prompt.
    for (input, program, said) in [
        ("exit", "bash", "exit"),
        ("echo $((6 * 7))\n", "bash", "42"),
        ("echo $((6 * 7))\necho", "bash", "42"),
        ("print(6 * 7)\nx", "python3", "42"),
        ("print(6 * 7)\n", "python3", "42"),
    ] {
        for late in [false, true] {
            let mut child = daemon.command(&["exec", "-i", "-t", "box", "--", program]);
            let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
            let mut keys = child.stdin.take().unwrap();
            if late {
                let prompt = if program == "bash" { "# " } else { ">>> " };
                let _begun = read_until(child.stdout.as_mut().unwrap(), prompt);
            }
            keys.write_all(input.as_bytes()).unwrap();
            drop(keys);
            let done = wait(child, None);
            assert!(done.out().contains(said), "{input:?} {late}: {:?} {:?}", done.out(), done.err());
        }
    }
    // One that ends by a key is not hung up before it has seen it.
    let script = "import os, time, tty; tty.setraw(0); print('ready', flush=True); time.sleep(2); \
        key = os.read(0, 1); time.sleep(1); print(key); os._exit(3)";
    let mut child = daemon.command(&["exec", "-i", "-t", "box", "--", "python3", "-c", script]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    let _begun = read_until(child.stdout.as_mut().unwrap(), "ready");
    keys.write_all(b"q").unwrap();
    drop(keys);
    let done = wait(child, None);
    assert!(done.code == 3 && done.out().contains("b'q'"), "{:?} {:?}", done.out(), done.err());
    // The command of an instance has a terminal as well.
    let run = ["run", "-i", "-t", "--", "bash"];
    let done = daemon.aegis_with_input(&run, b"echo $((6 * 7)); exit".into());
    assert!(done.out().contains("exit"), "{:?} {:?}", done.out(), done.err());
}
