//! Streams are bytes: no line limit, no encoding, no loss, back-pressure instead.

use std::io::Read;

use aegis_tests::{DEADLINE, Daemon, eventually, read_exactly, read_until};
use sha2::{Digest, Sha256};

fn noise(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn an_endless_output_ends_with_its_reader() {
    let daemon = Daemon::start();
    let mut child = daemon.spawn(&["run", "--", "cat", "/dev/urandom"]);
    let count = 100_000_000;
    let mut stdout = child.stdout.take().unwrap();
    let mut left = count;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let most = left.min(buffer.len());
        let read = stdout.read(&mut buffer[..most]).unwrap();
        assert_ne!(read, 0, "ended after {} bytes", count - left);
        left -= read;
    }
    drop(stdout);
    let done = aegis_tests::wait(child, None);
    assert_eq!(done.code, 141, "as if killed by SIGPIPE: {}", done.err());
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
}

#[test]
fn what_goes_in_through_exec_arrives_whole() {
    let daemon = Daemon::start();
    let id = daemon.instance("box", &["sleep", "1000"]);
    let bytes = noise(50_000_000);
    let expected: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let done = daemon.aegis_with_input(&["exec", "-i", &id, "--", "sha256sum"], bytes);
    assert_eq!(done.out(), format!("{expected}  -\n"), "{}", done.err());
}

#[test]
fn long_lines_and_bytes_that_are_no_text_pass_unaltered_both_ways_and_through_the_log() {
    let daemon = Daemon::start();
    let line = daemon.aegis(&["run", "--", "python3", "-c", "print('x' * 10_000_000)"]);
    assert_eq!(line.stdout.len(), 10_000_001);
    assert!(line.stdout[..10_000_000].iter().all(|byte| *byte == b'x'));
    let bytes = noise(3_000_000);
    let echoed = daemon.aegis_with_input(&["run", "-i", "--", "cat"], bytes.clone());
    assert!(echoed.stdout == bytes, "{} of {} bytes: {}", echoed.stdout.len(), bytes.len(), echoed.err());
    let id = daemon.instance("box", &["sh", "-c", "printf '\\377\\0\\n'; sleep 1000"]);
    aegis_tests::eventually("the log has it", aegis_tests::DEADLINE, || {
        daemon.aegis(&["logs", &id]).stdout.windows(3).any(|window| window == [0xFF, 0, b'\n'])
    });
}

#[test]
fn a_slow_reader_holds_the_command_up_and_loses_nothing() {
    let daemon = Daemon::start();
    let script = "import sys\nfor i in range(2000000): sys.stdout.write('%08d\\n' % i)";
    let mut child = daemon.spawn(&["run", "--", "python3", "-c", script]);
    let mut stdout = child.stdout.take().unwrap();
    let begin = read_exactly(&mut stdout, 9);
    assert_eq!(begin, b"00000000\n");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 9 * 1_999_999);
    assert!(
        rest.chunks(9).enumerate().all(|(number, line)| line == format!("{:08}\n", number + 1).as_bytes())
    );
    assert_eq!(aegis_tests::wait(child, None).code, 0);
}

#[test]
fn many_execs_at_once_keep_their_streams_apart() {
    let daemon = Daemon::start();
    let id = daemon.instance("box", &["sleep", "1000"]);
    let children: Vec<_> = (0..12)
        .map(|number| {
            let script =
                format!("for i in $(seq 200); do echo {number}; echo e{number} >&2; done; exit {number}");
            daemon.spawn(&["exec", &id, "--", "sh", "-c", &script])
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let done = aegis_tests::wait(child, None);
        assert_eq!(done.out(), format!("{number}\n").repeat(200));
        assert_eq!(done.err(), format!("e{number}\n").repeat(200));
        assert_eq!(done.code, i32::try_from(number).unwrap());
    }
}

#[test]
fn a_child_that_keeps_the_pipe_does_not_keep_exec() {
    let daemon = Daemon::start();
    let id = daemon.instance("box", &["sleep", "1000"]);
    let done = daemon.aegis(&["exec", &id, "--", "sh", "-c", "sleep 1000 & echo started"]);
    assert_eq!((done.code, done.out().as_str()), (0, "started\n"));
}

#[test]
fn what_an_exec_leaves_in_the_background_goes_on_whatever_it_says() {
    let daemon = Daemon::start();
    let id = daemon.instance("box", &["sleep", "1000"]);
    let shell = |script: &str| daemon.ok(&["exec", &id, "--", "sh", "-c", script]);
    // Servers, as agents start them: each writes a line for each request.
    let serve = |port: u16| format!("python3 -m http.server {port}");
    for (port, start) in [
        (8001, format!("{} &", serve(8001))),
        (8002, format!("nohup {} &", serve(8002))),
        (8003, format!("setsid {} & disown 2>/dev/null; true", serve(8003))),
        (8004, format!("({} &)", serve(8004))),
    ] {
        let _out = shell(&start);
        let fetch = format!(
            "for i in 1 2 3 4 5 6 7 8 9; do curl -s -o /dev/null 127.0.0.1:{port} && break; sleep 1; done; \
             curl -s -o /dev/null 127.0.0.1:{port}/nothing; curl -s -o /dev/null -w %{{http_code}} 127.0.0.1:{port}"
        );
        assert_eq!(shell(&fetch), "200", "{start}");
    }
    // One that says more than any pipe holds, and one of an exec whose client takes standard input along.
    let _out = shell("(head -c 5000000 /dev/zero; echo done > /tmp/flood) &");
    let _out = daemon.aegis_with_input(
        &[
            "exec",
            "-i",
            &id,
            "--",
            "sh",
            "-c",
            "cat > /dev/null; (sleep 1; echo a; echo b >&2; echo done > /tmp/later) &",
        ],
        b"input".to_vec(),
    );
    eventually("both have said all", DEADLINE, || {
        shell("cat /tmp/flood /tmp/later 2>/dev/null; true") == "done\ndone\n"
    });
}

#[test]
fn floods_out_of_exec_arrive_whole() {
    let daemon = Daemon::start();
    // Fresh machines: a guest kernel was seen to crash over the first flood.
    for _ in 0..if aegis_tests::short() { 1 } else { 4 } {
        let _id = daemon.instance("box", &["sleep", "1000"]);
        let mut child = daemon.spawn(&["exec", "box", "--", "head", "-c", "200M", "/dev/zero"]);
        let mut stdout = child.stdout.take().unwrap();
        let total = std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
        let done = aegis_tests::wait(child, None);
        assert_eq!((done.code, total), (0, 200 << 20), "{}", done.err());
        assert!(daemon.ok(&["instance", "delete", "box"]).contains("deleted"));
    }
}

#[test]
fn what_is_detached_goes_on_by_itself_and_keeps_nobody_awake() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    let server = ["exec", "-d", "box", "--", "sh", "-c", "echo begun; exec python3 -m http.server 8123"];
    let name = daemon.ok(&server);
    assert!(name.starts_with("exec-") && name.lines().count() == 1, "{name}");
    let get =
        "curl -sS --retry 20 --retry-connrefused --retry-delay 1 -o /dev/null 127.0.0.1:8123 && echo served";
    assert_eq!(daemon.shell("box", get), "served");
    assert!(daemon.ok(&["logs", "box"]).contains("begun"));
    eventually("its output is logged", DEADLINE, || daemon.ok(&["logs", "box"]).contains("GET / HTTP"));
    assert_eq!(daemon.info("box").unwrap()["kept_awake_by"], serde_json::json!([]));
    // Also without the daemon that started it, and with nobody who takes its output.
    daemon.crash();
    daemon.up();
    for _ in 0..3 {
        assert_eq!(daemon.shell("box", get), "served");
    }
    let timed = ["exec", "-d", "--timeout", "1s", "box", "--", "sleep", "777"];
    assert_eq!(daemon.aegis(&timed).code, 0);
    let sleeps = "grep -lx 'sleep' /proc/[0-9]*/comm 2>/dev/null | while read f; do tr '\\0' ' ' < ${f%comm}cmdline; done | grep -c 777; true";
    eventually("its time is over", DEADLINE, || daemon.shell("box", sleeps) == "0");
    let none = daemon.aegis(&["exec", "-d", "box", "--", "nosuchcmd"]);
    assert_eq!(none.code, 127, "{}", none.err());
    assert_eq!(daemon.aegis(&["exec", "-d", "-i", "box", "--", "cat"]).code, 2);
}

#[test]
fn what_a_killed_client_leaves_behind_goes_on_and_its_command_does_not() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    let counts = |file: &str| {
        format!(
            "n=0; while :; do n=$((n + 1)); echo line; echo line >&2; echo $n > /tmp/{file}; sleep 0.1; done"
        )
    };
    let left = format!(
        "nohup sh -c '{}' & setsid sh -c '{}' & echo ready; echo $$ > /tmp/own; sleep 1000; echo never > /tmp/never",
        counts("nohup"),
        counts("setsid")
    );
    // Nobody reads what this one says, whatever it is told.
    let endless = "trap '' HUP; echo $$ > /tmp/endless; echo ready; while :; do echo more; done";
    for script in [left.as_str(), endless] {
        let mut child = daemon.spawn(&["exec", "box", "--", "bash", "-c", script]);
        let _begun = read_until(child.stdout.as_mut().unwrap(), "ready");
        eventually("it runs", DEADLINE, || {
            daemon.aegis(&["exec", "box", "--", "test", "-s", "/tmp/own"]).code == 0
        });
        child.kill().unwrap();
        let _killed = child.wait().unwrap();
    }
    for own in ["own", "endless"] {
        let gone = format!("! kill -0 $(cat /tmp/{own})");
        eventually(own, DEADLINE, || daemon.aegis(&["exec", "box", "--", "sh", "-c", &gone]).code == 0);
    }
    for file in ["nohup", "setsid"] {
        let count = || daemon.shell("box", &format!("cat /tmp/{file}")).parse::<u64>().unwrap_or(0);
        let before = count();
        // Longer than a pipe that is closed after a while would stay open.
        eventually(file, DEADLINE, || count() > before + 100);
    }
    assert_eq!(daemon.shell("box", "ls /tmp/never 2>/dev/null; true"), "");
}
