//! Kits: what their manifests say is what instances are, written without touching anything of Aegis.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aegis_tests::{Daemon, eventually, is_alive};

const LONG: Duration = Duration::from_secs(20);

/// Writes a kit into a daemon's home, and returns its directory.
fn write(daemon: &Daemon, name: &str, manifest: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = daemon.root().join("kits").join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("kit.toml"), format!("name = \"{name}\"\nversion = \"1.0\"\n{manifest}"))
        .unwrap();
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    dir
}

fn start(daemon: &Daemon, name: &str, more: &[&str]) -> String {
    let begin = ["instance", "start", "--name", name, "--memory", "160"];
    let out = daemon.ok(&[&begin[..], more].concat());
    out.lines().find_map(|line| line.strip_prefix("Instance started: ")).unwrap().to_owned()
}

/// A kit with a bit of everything.
fn everything(daemon: &Daemon) -> PathBuf {
    write(
        daemon,
        "all",
        r#"
description = "A bit of everything"
command = ["sh", "-c", "echo $A $B $C; sleep 1000"]
workdir = "/srv"
user = "1000:1000"
ports = ["9/tcp", "80"]
http_port = 80
workspace = "template"
files = [{ from = "tool", to = "/usr/local/bin/tool" }, { from = "tree", to = "/opt/deep/er" }]
[env]
A = "kit"
B = "kit"
[limits]
memory = "192m"
disk = "2g"
[idle]
pause = "5m"
[network]
default = "none"
[hooks]
validate_config = ["sh", "-c", "test -x /usr/local/bin/tool && id -u > /workspace/validated"]
render_env = ["sh", "-c", "echo B=rendered; echo C=rendered"]
"#,
        &[("tool", "#!/bin/sh\necho tool\n"), ("tree/a/b", "leaf"), ("template/first/file", "template")],
    )
}

#[test]
fn what_a_manifest_says_is_what_an_instance_is() {
    let daemon = Daemon::start();
    everything(&daemon);
    let out = daemon.ok(&["instance", "start", "--name", "box", "--kit", "all"]);
    assert!(out.contains(":80 → ") && out.contains(":9 → "), "{out}");
    let info = daemon.info("box").unwrap();
    assert_eq!((info["memory_mb"].as_u64(), info["disk_mb"].as_u64()), (Some(192), Some(2048)));
    assert_eq!((info["workdir"].as_str(), info["user"].as_str()), (Some("/srv"), Some("1000:1000")));
    assert_eq!((info["kit"].as_str(), info["endpoints"][0]["guest_port"].as_u64()), (Some("all"), Some(80)));
    eventually("the command has its environment", LONG, || {
        daemon.ok(&["logs", "box"]).contains("kit rendered rendered")
    });
    let look = "tool; cat /opt/deep/er/a/b /workspace/first/file /workspace/validated; stat -c %u /opt/deep/er/a/b /workspace/first/file";
    assert_eq!(daemon.ok(&["exec", "box", "--", "sh", "-c", look]), "tool\nleaftemplate1000\n0\n1000\n");
    // The first workspace is one: it is not put back.
    assert_eq!(daemon.ok(&["exec", "box", "--", "rm", "-r", "/workspace/first"]), "");
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
    assert_eq!(daemon.ok(&["exec", "box", "--", "ls", "/workspace"]), "validated\n");
    let shown = daemon.ok(&["kit", "info", "all"]);
    assert!(shown.contains("Used by:     box") && shown.contains("Ports:       9/tcp 80"), "{shown}");
}

#[test]
fn a_full_disk_keeps_no_instance_of_a_kit_from_starting() {
    let daemon = Daemon::start();
    let _id = start(&daemon, "notes", &["--kit", "http-service", "--disk", "100m"]);
    let greet = "curl -sSf http://127.0.0.1/";
    eventually("it serves", LONG, || daemon.aegis(&["exec", "notes", "--", "sh", "-c", greet]).code == 0);
    // Each inode, and then each block.
    let fill = "mkdir /root/inodes; cd /root/inodes; \
        python3 -c 'import itertools\nfor n in itertools.count(): open(str(n), \"w\").close()' 2>/dev/null; \
        cat /dev/zero 2>/dev/null > 0; cat /dev/zero 2>/dev/null > 1; df --output=avail,iavail / | tail -n1 | xargs";
    let full = daemon.shell("notes", fill);
    assert_eq!(full, "0 0");
    for _ in 0..2 {
        let restarted = daemon.aegis(&["instance", "restart", "notes"]);
        assert_eq!(restarted.code, 0, "{}", restarted.err());
    }
    eventually("it serves again", LONG, || {
        daemon.aegis(&["exec", "notes", "--", "sh", "-c", greet]).code == 0
    });
    let logged = daemon.ok(&["logs", "notes"]);
    let said =
        "[system] files of the kit are as they were: /opt/http-service/server.py: No space left on device";
    assert!(logged.contains(said), "{logged}");
}

#[test]
fn what_the_user_says_wins() {
    let daemon = Daemon::start();
    everything(&daemon);
    let settings = ["--kit", "all", "--env", "B=own", "--user", "root", "--workspace", "w", "--expose", "81"];
    start(&daemon, "box", &[&settings[..], &["--", "sh", "-c", "echo own $A $B $C; sleep 1000"]].concat());
    let info = daemon.info("box").unwrap();
    assert_eq!((info["memory_mb"].as_u64(), info["endpoints"].as_array().unwrap().len()), (Some(160), 1));
    eventually("the command has its environment", LONG, || {
        daemon.ok(&["logs", "box"]).contains("own kit own rendered")
    });
    // A named workspace that was empty got the kit's; one that is not stays as it is.
    let file = daemon.root().join("data/workspaces/w/first/file");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "template");
    std::fs::write(&file, "mine").unwrap();
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
    assert_eq!(daemon.ok(&["exec", "box", "--", "cat", "/workspace/first/file"]), "mine");
    assert_eq!(daemon.ok(&["run", "--kit", "all", "--", "sh", "-c", "tool; echo $C"]), "tool\nrendered\n");
}

#[test]
fn a_kit_that_is_broken_is_listed_with_what_is_wrong() {
    let daemon = Daemon::start();
    write(&daemon, "typo", "comand = []", &[]);
    write(&daemon, "lost", "files = [{ from = \"absent\", to = \"/x\" }]", &[]);
    let good = write(&daemon, "good", "description = \"Does well\"", &[]);
    std::fs::write(daemon.root().join("kits/flat.json"), r#"{"name":"flat","ports":["much"]}"#).unwrap();
    let list = daemon.ok(&["kit", "list"]);
    for (name, words) in [("typo", "comand"), ("lost", "absent"), ("flat", "much"), ("good", "Does well")] {
        let line =
            list.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {list}"));
        assert!(
            line.contains(words) && line.contains(if name == "good" { " ok " } else { " broken " }),
            "{line}"
        );
    }
    let refused = daemon.aegis(&["run", "--kit", "typo", "--", "true"]);
    assert!(refused.code != 0 && refused.err().contains("comand"), "{}", refused.err());
    let absent = daemon.aegis(&["run", "--kit", "none", "--", "true"]);
    assert!(absent.code != 0 && absent.err().contains("aegis kit list"), "{}", absent.err());
    assert_eq!(daemon.ok(&["kit", "validate", good.to_str().unwrap()]), "Kit good is valid\n");
    let wrong = daemon.aegis(&["kit", "validate", daemon.root().join("kits/lost").to_str().unwrap()]);
    assert!(wrong.code == 1 && wrong.err().contains("absent"), "{}", wrong.err());
    // A kit that says no command leaves it to the user.
    let bare = daemon.aegis(&["run", "--kit", "good"]);
    assert!(bare.code != 0 && bare.err().contains("command is empty"), "{}", bare.err());
}

#[test]
fn secrets_are_asked_for_and_never_given_unasked() {
    let daemon = Daemon::start();
    let manifest = "command = [\"sh\", \"-c\", \"echo [$KEY] [$MORE]\"]\n[secrets]\nrequired = [\"KEY\"]\noptional = [\"MORE\"]";
    write(&daemon, "keyed", manifest, &[]);
    for key in ["KEY", "MORE"] {
        assert_eq!(daemon.aegis(&["secret", "set", key, "hunter2"]).code, 0);
    }
    let without = daemon.aegis(&["run", "--kit", "keyed"]);
    assert!(without.code != 0 && without.err().contains("needs the secret KEY"), "{}", without.err());
    assert_eq!(daemon.ok(&["run", "--kit", "keyed", "--secret", "KEY"]), "[hunter2] []\n");
    assert_eq!(daemon.ok(&["run", "--kit", "keyed", "--secret", "*"]), "[hunter2] [hunter2]\n");
}

#[test]
fn a_hook_that_fails_stops_the_start_with_its_words_and_runs_in_the_guest() {
    let daemon = Daemon::start();
    let hooks = "command = [\"true\"]\n[hooks]\nvalidate_config = [\"sh\", \"-c\", \"echo not like this >&2; exit 3\"]";
    write(&daemon, "strict", hooks, &[]);
    let refused = daemon.aegis(&["instance", "start", "--name", "box", "--kit", "strict"]);
    assert!(
        refused.code == 1 && refused.err().contains("validate_config: not like this"),
        "{}",
        refused.err()
    );
    assert!(daemon.ok(&["logs", "box"]).contains("not like this"));
    write(&daemon, "odd", "command = [\"true\"]\n[hooks]\nrender_env = [\"echo\", \"no pair\"]", &[]);
    let odd = daemon.aegis(&["run", "--kit", "odd"]);
    assert!(odd.code != 0 && odd.err().contains("no pair"), "{}", odd.err());
    let inside =
        "command = [\"true\"]\n[hooks]\nvalidate_config = [\"sh\", \"-c\", \"hostname >&2; exit 1\"]";
    write(&daemon, "inside", inside, &[]);
    let guest = daemon.aegis(&["instance", "start", "--name", "in-here", "--kit", "inside"]);
    assert!(guest.err().contains("validate_config: in-here"), "{}", guest.err());
}

#[test]
fn an_instance_outlives_its_kit() {
    let daemon = Daemon::start();
    let dir = everything(&daemon);
    start(&daemon, "box", &["--kit", "all"]);
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    std::fs::remove_dir_all(dir).unwrap();
    assert_ne!(daemon.ok(&["instance", "start", "--name", "box"]), "");
    assert_eq!(daemon.ok(&["exec", "box", "--", "tool"]), "tool\n");
    assert!(daemon.ok(&["logs", "box"]).contains("kit all is not installed any more"));
}

/// A kit whose daemon notes its process and environment.
fn with_daemon(daemon: &Daemon) -> PathBuf {
    let manifest = r#"
command = ["sleep", "1000"]
[secrets]
optional = ["GIVEN", "WITHHELD", "UNNAMED"]
[[instance_daemons]]
name = "gate"
command = ["./gate", "argument"]
secrets = ["GIVEN", "WITHHELD"]
"#;
    let script = "#!/bin/sh\ntouch env.$AEGIS_INSTANCE; env | sort > env.$AEGIS_INSTANCE\necho $1\necho $$ > pid.$AEGIS_INSTANCE\nwhile :; do sleep 0.2; done\n";
    write(daemon, "gated", manifest, &[("gate", script)])
}

fn pid(dir: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(dir.join("pid.box")).ok()?;
    text.trim().parse().ok().filter(|pid| is_alive(*pid))
}

#[test]
fn a_kits_daemon_lives_as_long_as_its_instance_is_enabled() {
    let daemon = Daemon::start();
    let dir = with_daemon(&daemon);
    for key in ["GIVEN", "WITHHELD", "UNNAMED"] {
        assert_eq!(daemon.aegis(&["secret", "set", key, "hunter2"]).code, 0);
    }
    let id = start(&daemon, "box", &["--kit", "gated", "--secret", "GIVEN", "--secret", "UNNAMED"]);
    eventually("the daemon runs", LONG, || pid(&dir).is_some());
    let first = pid(&dir).unwrap();
    let env = std::fs::read_to_string(dir.join("env.box")).unwrap();
    let keys: Vec<&str> = env.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
    let own: Vec<&str> =
        keys.into_iter().filter(|key| !["PWD", "SHLVL", "_", "OLDPWD"].contains(key)).collect();
    assert_eq!(own, ["AEGIS_INSTANCE", "AEGIS_SOCKET", "GIVEN", "PATH"]);
    assert!(env.contains(&format!("AEGIS_SOCKET={}", daemon.root().join("aegisd.sock").display())), "{env}");
    // Whatever state it is in.
    for verb in ["pause", "resume", "stop"] {
        assert_eq!(daemon.aegis(&["instance", verb, "box"]).code, 0);
        assert_eq!(pid(&dir), Some(first), "{verb}");
    }
    // Killed, it comes again.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    eventually("it is started again", LONG, || pid(&dir).is_some_and(|pid| pid != first));
    let second = pid(&dir).unwrap();
    let log = daemon.root().join("data/logs").join(&id).join("daemon-gate.log");
    assert_eq!(std::fs::read_to_string(log).unwrap(), "argument\nargument\n");
    // It ends with Aegis, however that ends, and begins with the next one.
    daemon.crash();
    eventually("it ends with aegisd", LONG, || !is_alive(second));
    daemon.up();
    eventually("it is started again", LONG, || pid(&dir).is_some());
    let third = pid(&dir).unwrap();
    assert_eq!(daemon.aegis(&["instance", "disable", "box"]).code, 0);
    eventually("it ends when the instance is disabled", LONG, || !is_alive(third));
    assert_ne!(daemon.ok(&["instance", "start", "--name", "box"]), "");
    eventually("it is started again", LONG, || pid(&dir).is_some());
    let last = pid(&dir).unwrap();
    assert_eq!(daemon.aegis(&["instance", "delete", "box"]).code, 0);
    eventually("it ends when the instance is deleted", LONG, || !is_alive(last));
    assert_eq!(daemon.files_of(&id), Vec::<PathBuf>::new());
}

/// Asks the port of an instance with one.
fn ask(daemon: &Daemon, name: &str, arguments: &[&str], path: &str) -> String {
    let port = daemon.info(name).unwrap()["endpoints"][0]["public_port"].as_u64().unwrap();
    let url = format!("http://127.0.0.1:{port}{path}");
    let output =
        std::process::Command::new("curl").args(["-s", "--max-time", "20"]).args(arguments).arg(url).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn the_example_kits_do_what_they_say() {
    let daemon = Daemon::start();
    // Found beside the programs.
    assert!(daemon.ok(&["kit", "info", "http-service"]).contains("keeps notes"));
    start(&daemon, "web", &["--kit", "http-service", "--env", "GREETING=hi"]);
    assert_eq!(ask(&daemon, "web", &[], "/"), "{\"greeting\": \"hi\", \"limit\": 1000}\n");
    assert_eq!(ask(&daemon, "web", &["-d", "second"], "/notes"), "[\"the first note\", \"second\"]\n");
    let silent = daemon.aegis(&["run", "--kit", "http-service", "--env", "GREETING="]);
    assert!(silent.code != 0 && silent.err().contains("GREETING is empty"), "{}", silent.err());
    start(&daemon, "repl", &["--kit", "python-repl"]);
    assert_eq!(ask(&daemon, "repl", &["-d", "x = 20"], "/"), "");
    assert_eq!(ask(&daemon, "repl", &["-d", "print('so'); x * 2 + 2"], "/"), "so\n42\n");
    assert!(ask(&daemon, "repl", &["-d", "1/0"], "/").contains("ZeroDivisionError"));
    assert_eq!(ask(&daemon, "repl", &["-X", "DELETE"], "/"), "");
    assert!(ask(&daemon, "repl", &["-d", "x"], "/").contains("NameError"));
}
