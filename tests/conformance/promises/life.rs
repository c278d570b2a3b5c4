//! Commands, their streams, machines and their disks.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use crate::bench::{Bench, eventually};

pub(super) fn run_prints(bench: &Bench) {
    assert_eq!(bench.ok(&["run", "--", "echo", "hello"]), "hello");
}

pub(super) fn run_ends_as_the_command(bench: &Bench) {
    for (script, code) in [("exit 42", 42), ("kill -9 $$", 137)] {
        let output = bench.run(&["run", "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(code), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What a command prints that is given this input.
fn with_input(bench: &Bench, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child =
        bench.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run aegis");
    let mut stdin = child.stdin.take().expect("its input");
    let input = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&input).expect("write its input"));
    let output = child.wait_with_output().expect("wait for it");
    writing.join().expect("write its input");
    assert!(output.status.success(), "aegis {arguments:?}: {}", output.status);
    output.stdout
}

pub(super) fn run_passes_input(bench: &Bench) {
    assert_eq!(with_input(bench, &["run", "-i", "--", "cat"], b"from here"), b"from here");
}

pub(super) fn outputs_stay_apart(bench: &Bench) {
    let output = bench.run(&["run", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("err"));
}

pub(super) fn not_found(bench: &Bench) {
    assert_eq!(bench.run(&["run", "--", "no-such-program"]).status.code(), Some(127));
    assert_eq!(bench.run(&["run", "--", "false"]).status.code(), Some(1));
}

pub(super) fn run_timeout(bench: &Bench) {
    let output = bench.run(&["run", "--timeout", "2s", "--", "sleep", "600"]);
    assert_eq!(output.status.code(), Some(124), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(super) fn nothing_stays(bench: &Bench) {
    bench.ok(&["run", "--", "true"]);
    eventually("the run's disk is gone", || {
        let disks = fs::read_dir(bench.home().join("data/disks")).expect("read the disks");
        // What is kept ready belongs to no run.
        disks.flatten().all(|disk| {
            let name = disk.file_name().to_string_lossy().into_owned();
            name.starts_with("inst-spare") || name.starts_with("inst-template")
        })
    });
}

pub(super) fn own_kernel(bench: &Bench) {
    assert!(bench.ok(&["run", "--", "uname", "-r"]).ends_with("-aegis"));
}

pub(super) fn processors(bench: &Bench) {
    assert_eq!(bench.ok(&["run", "--cpus", "2", "--", "nproc"]), "2");
}

pub(super) fn memory(bench: &Bench) {
    let total = |size: &str| -> u64 {
        let line = bench.ok(&["run", "--memory", size, "--", "grep", "MemTotal", "/proc/meminfo"]);
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    };
    let (small, large) = (total("256m"), total("512m"));
    assert!((180_000..=262_144).contains(&small), "{small}");
    assert!((400_000..=524_288).contains(&large), "{large}");
}

pub(super) fn modules(bench: &Bench) {
    let script = "ip link add w type dummy && ip -o link show w && ls /lib/modules";
    let said = bench.ok(&["run", "--", "sh", "-c", script]);
    assert!(said.contains("w: ") && said.contains("-aegis"), "{said}");
}

/// By how many seconds a clock that is read by this is wrong.
pub(super) fn clock_error(read: impl FnOnce() -> String) -> u64 {
    let now =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let before = now();
    let theirs: u64 = read().trim().parse().expect("a number");
    let after = now();
    if theirs < before { before - theirs } else { theirs.saturating_sub(after) }
}

pub(super) fn clock(bench: &Bench) {
    assert!(clock_error(|| bench.ok(&["run", "--", "date", "+%s"])) <= 1);
}

pub(super) fn randomness(bench: &Bench) {
    let draw = || {
        bench.ok(&[
            "run",
            "--",
            "sh",
            "-c",
            "head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id",
        ])
    };
    assert_ne!(draw(), draw());
}

pub(super) fn goes_on(bench: &Bench) {
    bench.ok(&[
        "instance",
        "start",
        "--name",
        "box",
        "--",
        "sh",
        "-c",
        "i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done",
    ]);
    eventually("it ticks", || bench.ok(&["logs", "box"]).contains("tick 3"));
}

pub(super) fn exec_beside(bench: &Bench) {
    bench.start_box(&["--env", "ONE=1"]);
    assert_eq!(bench.in_box("echo $ONE; exit 0"), "1");
    assert_eq!(bench.run(&["exec", "box", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(bench.ok(&["exec", "--env", "TWO=2", "box", "--", "sh", "-c", "echo $ONE$TWO"]), "12");
}

pub(super) fn terminal(bench: &Bench) {
    bench.start_box(&[]);
    let said = String::from_utf8_lossy(&with_input(
        bench,
        &["exec", "-i", "-t", "box", "--", "sh", "-c", "test -t 0 && tty"],
        b"",
    ))
    .into_owned();
    assert!(said.contains("/dev/pts/"), "{said}");
}

pub(super) fn much_output(bench: &Bench) {
    bench.start_box(&[]);
    let output = bench.run(&["exec", "box", "--", "head", "-c", "20000000", "/dev/zero"]);
    assert_eq!(output.stdout.len(), 20_000_000);
}

pub(super) fn much_input(bench: &Bench) {
    bench.start_box(&[]);
    let said = with_input(bench, &["exec", "-i", "box", "--", "wc", "-c"], &vec![b'x'; 5_000_000]);
    assert_eq!(String::from_utf8_lossy(&said).trim(), "5000000");
}

pub(super) fn logs(bench: &Bench) {
    bench.ok(&[
        "instance",
        "start",
        "--name",
        "box",
        "--",
        "sh",
        "-c",
        "echo one; echo two >&2; sleep infinity",
    ]);
    eventually("both lines are there", || {
        let said = bench.run(&["logs", "box"]);
        let has = |text: &[u8], line: &str| String::from_utf8_lossy(text).contains(line);
        has(&said.stdout, "one") && has(&said.stderr, "two")
    });
}

pub(super) fn many_at_a_time(bench: &Bench) {
    bench.start_box(&[]);
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                assert_eq!(bench.in_box(&format!("sleep 0.3; echo {number}")), number.to_string());
            });
        }
    });
}

pub(super) fn pause(bench: &Bench) {
    bench.ok(&[
        "instance",
        "start",
        "--name",
        "box",
        "--",
        "sh",
        "-c",
        "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done",
    ]);
    eventually("it ticks", || bench.ok(&["logs", "box"]).contains("tick"));
    bench.ok(&["instance", "pause", "box"]);
    assert_eq!(bench.info("box")["state"], "paused");
    let before = bench.ok(&["logs", "box"]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(bench.ok(&["logs", "box"]), before, "it stands still");
    bench.ok(&["instance", "resume", "box"]);
    eventually("it ticks on", || bench.ok(&["logs", "box"]).len() > before.len());
}

pub(super) fn exec_wakes(bench: &Bench) {
    bench.start_box(&[]);
    bench.ok(&["instance", "pause", "box"]);
    assert_eq!(bench.in_box("echo awake"), "awake");
    assert_eq!(bench.info("box")["state"], "running");
}

pub(super) fn clock_after_pause(bench: &Bench) {
    bench.start_box(&[]);
    bench.ok(&["instance", "pause", "box"]);
    std::thread::sleep(Duration::from_secs(4));
    assert!(clock_error(|| bench.in_box("date +%s")) <= 1);
}

pub(super) fn stop_in_good_order(bench: &Bench) {
    let script = "trap 'echo good bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    bench.ok(&["instance", "start", "--name", "box", "--", "sh", "-c", script]);
    eventually("it is ready", || bench.ok(&["logs", "box"]).contains("ready"));
    bench.ok(&["instance", "stop", "box"]);
    assert!(bench.ok(&["logs", "box"]).contains("good bye"));
    assert_eq!(bench.info("box")["state"], "stopped");
}

pub(super) fn disk_stays(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo kept > /kept; mkdir /d; chown 1000:1000 /d; chmod 700 /d");
    bench.ok(&["instance", "restart", "box"]);
    assert_eq!(bench.in_box("cat /kept; stat -c '%u %a' /d"), "kept\n1000 700");
}

pub(super) fn power_cut(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo durable > /durable; sync");
    let pid = rustix::process::Pid::from_raw(bench.monitor("box")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill the monitor");
    bench.reaches("box", "stopped");
    bench.ok(&["instance", "restart", "box"]);
    assert_eq!(bench.in_box("cat /durable"), "durable");
}

pub(super) fn disk_grows(bench: &Bench) {
    bench.start_box(&["--disk", "256m"]);
    bench.ok(&["instance", "stop", "box"]);
    bench.ok(&["instance", "start", "--name", "box", "--disk", "512m"]);
    let mib: u64 = bench.in_box("df -m / | tail -n 1 | awk '{print $2}'").parse().expect("a number");
    assert!((400..=512).contains(&mib), "{mib}");
}

pub(super) fn full_disk(bench: &Bench) {
    bench.start_box(&["--disk", "64m"]);
    let said = bench.in_box(
        "head -c 200000000 /dev/zero > /big 2>&1 || echo no room; rm -f /big; echo well > /well; cat /well",
    );
    assert!(said.contains("no room") && said.ends_with("well"), "{said}");
}

pub(super) fn copies(bench: &Bench) {
    bench.start_box(&[]);
    let dir = tempfile::tempdir().expect("make a directory");
    fs::create_dir_all(dir.path().join("tree/sub")).expect("make a tree");
    fs::write(dir.path().join("tree/sub/file"), vec![b'x'; 300_000]).expect("write a file");
    std::os::unix::fs::symlink("file", dir.path().join("tree/sub/link")).expect("make a link");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    bench.ok(&["cp", &path("tree"), "box:/root/tree"]);
    assert_eq!(bench.in_box("wc -c < /root/tree/sub/file; readlink /root/tree/sub/link"), "300000\nfile");
    bench.ok(&["cp", "box:/root/tree", &path("back")]);
    assert_eq!(fs::metadata(path("back/sub/file")).expect("it came back").size(), 300_000);
}

pub(super) fn workspace(bench: &Bench) {
    let dir = tempfile::tempdir().expect("make a directory");
    fs::write(dir.path().join("theirs"), "from the host").expect("write a file");
    bench.start_box(&["--workspace", &dir.path().to_string_lossy()]);
    assert_eq!(bench.in_box("cat /workspace/theirs; echo from the guest > /workspace/ours"), "from the host");
    assert_eq!(fs::read_to_string(dir.path().join("ours")).expect("it is there"), "from the guest\n");
    bench.ok(&["instance", "restart", "box"]);
    assert_eq!(bench.in_box("cat /workspace/ours"), "from the guest");
}

pub(super) fn read_only_workspace(bench: &Bench) {
    let dir = tempfile::tempdir().expect("make a directory");
    fs::write(dir.path().join("theirs"), "from the host").expect("write a file");
    bench.start_box(&["--workspace", &format!("{}:ro", dir.path().display())]);
    assert!(bench.in_box("echo x > /workspace/theirs 2>&1 || echo refused").contains("refused"));
    assert_eq!(fs::read_to_string(dir.path().join("theirs")).expect("it is there"), "from the host");
}
