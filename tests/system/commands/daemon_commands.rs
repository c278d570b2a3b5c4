//! The exact words and codes of the commands about the daemon, and errors of use.

use aegis_tests::Daemon;

#[test]
fn up_down_and_status_say_exactly_this() {
    let daemon = Daemon::none();
    let say = |arguments: &[&str]| {
        let done = daemon.aegis(arguments);
        (done.code, done.out())
    };
    assert_eq!(say(&["status"]), (0, "aegisd: not running\n".to_owned()));
    assert_eq!(say(&["down"]).0, 0);
    let (code, text) = say(&["up"]);
    assert_eq!((code, text), (0, format!("aegisd started (pid {})\n", daemon.pid())));
    assert_eq!(say(&["up"]).0, 0);
    let (code, text) = say(&["status"]);
    assert_eq!(code, 0);
    assert!(text.starts_with("aegisd: running\nbackend: qemu\n"), "{text}");
    let pid = daemon.pid();
    assert_eq!(say(&["down"]), (0, format!("aegisd stopping (pid {pid})\naegisd stopped\n")));
    assert_eq!(say(&["status"]), (0, "aegisd: not running\n".to_owned()));
}

#[test]
fn down_says_which_instances_it_waits_for() {
    if aegis_tests::short() {
        return;
    }
    let daemon = Daemon::start();
    let _stubborn = daemon.instance("stubborn", &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    let _pliant = daemon.instance("pliant", &["sleep", "1000"]);
    let done = daemon.aegis(&["down"]);
    assert_eq!(done.code, 0, "{}", done.err());
    let lines: Vec<String> = done.out().lines().map(str::to_owned).collect();
    assert!(lines[1].starts_with("waiting for: ") && lines[1].contains("stubborn"), "{lines:?}");
    assert_eq!(lines[2], "aegisd stopped");
}

#[test]
fn without_a_daemon_every_other_command_names_the_remedy() {
    let daemon = Daemon::none();
    for arguments in [
        &["instance", "list"][..],
        &["run", "--", "true"],
        &["exec", "x", "--", "true"],
        &["logs", "x"],
        &["instance", "start", "--", "true"],
        &["instance", "delete", "x"],
    ] {
        let done = daemon.aegis(arguments);
        assert_eq!(done.code, 1, "{arguments:?}");
        assert!(
            done.err().contains("aegisd is not running") && done.err().contains("aegis up"),
            "{}",
            done.err()
        );
    }
    assert_eq!(daemon.aegis(&["version"]).code, 0);
    let doctor = daemon.aegis(&["doctor", "--output", "json"]);
    let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let names: Vec<&str> =
        findings.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    let expected =
        ["qemu", "accelerator", "kernel", "base-rootfs", "gateway", "e2fsprogs", "memory", "disk", "daemon"];
    for name in expected {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[test]
fn a_second_daemon_on_the_same_home_refuses() {
    let daemon = Daemon::start();
    let second = std::process::Command::new(aegis_tests::bin().join("aegisd"))
        .env("AEGIS_HOME", daemon.root())
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains(&daemon.pid().to_string()));
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
}

#[test]
fn bad_input_is_named_and_changes_nothing() {
    let daemon = Daemon::start();
    for arguments in [
        &["run", "--no-such-flag", "--", "true"][..],
        &["instance", "lst"],
        &["run", "--env", "NOVALUE", "--", "true"],
        &["run", "--memory", "0", "--", "true"],
        &["run", "--"],
        &["run"],
        &["run", "--name", "../etc", "--", "true"],
        &["instance", "start", "--name", "inst-x", "--", "true"],
        &["instance", "list", "--running", "--stopped"],
        &["run", "--timeout", "soon", "--", "true"],
    ] {
        let done = daemon.aegis(arguments);
        assert_eq!(done.code, 2, "{arguments:?}: {}", done.err());
        assert!(!done.err().is_empty());
    }
    let suggestion = daemon.aegis(&["instance", "lst"]);
    assert!(suggestion.err().contains("list"), "{}", suggestion.err());
    let done = daemon.aegis(&["instance", "start", "--memory", "99999999", "--", "true"]);
    assert_eq!(done.code, 1);
    assert!(done.err().contains("more than the host"), "{}", done.err());
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
    assert_eq!(daemon.ok(&["instance", "list", "--output", "json"]).trim(), "[]");
}

#[test]
fn a_home_at_a_long_path_works() {
    let tail = "a-rather-long-directory-name/".repeat(6);
    let daemon = Daemon::start_below(&tail);
    assert!(daemon.root().as_os_str().len() > 150);
    assert_eq!(daemon.ok(&["run", "--", "echo", "deep"]), "deep\n");
}

#[test]
fn the_api_answers_in_its_own_words() {
    let daemon = Daemon::start();
    let ask = |arguments: &[&str]| -> (String, serde_json::Value) {
        let socket = daemon.root().join("aegisd.sock");
        let output = std::process::Command::new("curl")
            .args(["-s", "-w", "\n%{http_code}", "--unix-socket"])
            .arg(&socket)
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.to_owned(), serde_json::from_str(body).unwrap_or_default())
    };
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(daemon.root().join("aegisd.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (status, body) = ask(&["http://x/v1/instances/nobody"]);
    assert_eq!((status.as_str(), body["error"]["code"].as_str()), ("404", Some("not_found")));
    let (status, body) = ask(&["http://x/v1/instances", "-d", "{\"command\":[\"true\"],\"colour\":\"red\"}"]);
    assert_eq!((status.as_str(), body["error"]["code"].as_str()), ("400", Some("invalid_argument")));
    assert!(body["error"]["message"].as_str().unwrap().contains("colour"));
    let (status, body) = ask(&["http://x/v1/openapi.json"]);
    assert_eq!((status.as_str(), body["info"]["title"].as_str()), ("200", Some("Aegis")));
    let (status, body) = ask(&["-X", "POST", "http://x/v1/instances/prune"]);
    assert_eq!((status.as_str(), body["error"]["code"].as_str()), ("400", Some("invalid_argument")));
    let (status, body) = ask(&["-X", "POST", "http://x/v1/instances/box?older_than=1s"]);
    assert_eq!((status.as_str(), body["error"]["code"].as_str()), ("405", Some("invalid_argument")));
    let (status, _) = ask(&["http://x/v1/no/such/path"]);
    assert_eq!(status, "404");
}

#[test]
fn more_processors_than_the_host_has_are_refused_with_their_number() {
    let daemon = Daemon::start();
    let of_host = std::thread::available_parallelism().unwrap().get();
    for wanted in [of_host.max(2) + 1, 4096] {
        let refused = daemon.aegis(&["run", "--cpus", &wanted.to_string(), "--", "true"]);
        let words = format!(
            "{wanted} virtual processors; this host has {of_host} processors, and {} are possible",
            of_host.max(2)
        );
        assert!(refused.code != 0 && refused.err().contains(&words), "{}", refused.err());
    }
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
    let most = of_host.max(2).to_string();
    assert_eq!(daemon.ok(&["run", "--cpus", &most, "--", "nproc"]).trim(), most);
}
