//! What is reached by somebody who has taken over a process that handles a guest's input: nothing.
//!
//! Each process is taken over for real: a debugger stops it, and its own thread makes the system calls. The table in
//! `docs/security.md` is made from what they return.

#![cfg(target_arch = "x86_64")]

mod attempts;
mod process;

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aegis_tests::{DEADLINE, Daemon, eventually};
use attempts::{HERE, Try, attempt, keeping_from_others, kernel, number, open, programs};
use nix::libc;
use process::{Argument, Outcome, Taken};

/// What is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Monitor,
    FileServer,
    Gateway,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Monitor, Kind::FileServer, Kind::Gateway];

    fn name(self) -> &'static str {
        match self {
            Kind::Monitor => "monitor",
            Kind::FileServer => "file server",
            Kind::Gateway => "gateway",
        }
    }

    fn is(self, words: &[String]) -> bool {
        let program = Path::new(&words[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            Kind::Monitor => {
                let of_others = ["firecracker of ", "aegis-krun-worker of "];
                program.starts_with("qemu-system-") || of_others.iter().any(|name| words[0].starts_with(name))
            }
            Kind::FileServer => words.get(1).is_some_and(|word| word == "serve-files"),
            Kind::Gateway => program == "aegis-gateway",
        }
    }
}

/// The process of this kind that serves an instance.
fn find(kind: Kind, id: &str) -> i32 {
    let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into()).collect();
        (kind.is(&words) && words.iter().any(|word| word.contains(id))).then_some(pid)
    });
    found.unwrap_or_else(|| panic!("no {} of {id}", kind.name()))
}

/// A place on the host with what a guest is after.
struct Host {
    daemon: Daemon,
    user: tempfile::TempDir,
    shared: tempfile::TempDir,
    victim: String,
    id: String,
}

impl Host {
    fn start() -> Host {
        let daemon = Daemon::start();
        let [user, shared] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::fs::create_dir(user.path().join(".ssh")).unwrap();
        std::fs::write(user.path().join(".ssh/id_ed25519"), "KEY").unwrap();
        std::fs::write(user.path().join(".bashrc"), "").unwrap();
        let of = |name: &str| daemon.info(name).unwrap()["id"].as_str().unwrap().to_owned();
        let set = daemon.aegis_with_input(&["secret", "set", "KEY", "-"], b"value".to_vec());
        assert_eq!(set.code, 0, "{}", set.err());
        let _victim = daemon.instance("victim", &["sleep", "1000"]);
        std::fs::create_dir(shared.path().join("work")).unwrap();
        std::fs::create_dir(shared.path().join("read-only")).unwrap();
        std::fs::write(shared.path().join("read-only/file"), "").unwrap();
        let workspace = shared.path().join("work");
        // Deeper than the workspace, so that it is the second directory that the file server serves.
        let read_only = format!("{}:/srv/deep/read-only:ro", shared.path().join("read-only").display());
        let start = ["instance", "start", "--name", "taken", "--workspace", workspace.to_str().unwrap()];
        let _out = daemon.ok(&[&start[..], &["--mount", &read_only, "--", "sleep", "1000"]].concat());
        let (victim, id) = (of("victim"), of("taken"));
        Host { daemon, user, shared, victim, id }
    }

    /// Has another process take the place of one that its filter has ended, or one thread of it.
    fn renew(&self, kind: Kind, pid: i32) {
        assert_eq!(kind, Kind::Monitor, "only a monitor's own filter ends threads");
        process::end(pid);
        eventually("the machine is gone", DEADLINE, || self.daemon.state("taken") == "stopped");
        let _out = self.daemon.ok(&["instance", "start", "--name", "taken"]);
    }

    fn run_dir(&self, id: &str) -> PathBuf {
        self.daemon.root().join("run").join(id)
    }

    /// Files of others, and the daemon's.
    fn files(&self) -> Vec<Try> {
        let (root, user) = (self.daemon.root(), self.user.path());
        let disk = root.join(format!("data/disks/{}.ext4", self.victim));
        let other_memory = PathBuf::from(format!("/proc/{}/mem", find(Kind::Monitor, &self.victim)));
        vec![
            open("read ~/.ssh", &user.join(".ssh/id_ed25519"), libc::O_RDONLY),
            open("write ~/.bashrc", &user.join(".bashrc"), libc::O_WRONLY),
            open(
                "make a file in the home of the user",
                &user.join(".profile"),
                libc::O_WRONLY | libc::O_CREAT,
            ),
            open("list the home of the user", user, libc::O_RDONLY | libc::O_DIRECTORY),
            open("read another instance's disk", &disk, libc::O_RDONLY),
            open("write another instance's disk", &disk, libc::O_WRONLY),
            open("read the registry", &root.join("data/aegis.db"), libc::O_RDONLY),
            open("read the key of the secrets", &root.join("data/master.key"), libc::O_RDONLY),
            open("read another machine's memory", &other_memory, libc::O_RDONLY),
            open("read /etc/passwd", Path::new("/etc/passwd"), libc::O_RDONLY),
            open("read the host's kernel messages", Path::new("/dev/kmsg"), libc::O_RDONLY),
            attempt(
                "remove another instance's disk",
                libc::SYS_unlinkat,
                [HERE.into(), disk.to_str().unwrap().into(), 0.into()],
            ),
            attempt(
                "open a file by its handle",
                libc::SYS_open_by_handle_at,
                [HERE.into(), [8u8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0].as_slice().into(), 0.into()],
            ),
        ]
    }

    /// Up and out from a directory that it has open.
    fn above(&self, kind: Kind) -> Vec<Try> {
        // The first directory that a file server serves.
        let from: Argument = if kind == Kind::FileServer { 10.into() } else { HERE.into() };
        let bashrc = self.user.path().join(".bashrc");
        let path: Argument = format!("{}{}", "../".repeat(20), bashrc.display()).as_str().into();
        let call = |what: &str, number: i64, more: [i64; 2]| {
            attempt(what, number, [from.clone(), path.clone(), more[0].into(), more[1].into()])
        };
        vec![
            call("read a file above what it has open", libc::SYS_openat, [0, 0]),
            call("refer to a file above what it has open", libc::SYS_openat, [libc::O_PATH.into(), 0]),
            call("change the mode of a file above what it has open", libc::SYS_fchmodat, [0o777, 0]),
            attempt(
                "make a program that runs as its owner",
                libc::SYS_openat,
                [
                    from.clone(),
                    "program".into(),
                    i64::from(libc::O_CREAT | libc::O_WRONLY).into(),
                    0o4755.into(),
                ],
            ),
            attempt(
                "make a directory whose files belong to its group",
                libc::SYS_mkdirat,
                [from.clone(), "directory".into(), 0o2755.into()],
            ),
            call("change the times of a file above what it has open", libc::SYS_utimensat, [0, 0]),
            attempt(
                "change the mode of a file in a read-only directory",
                libc::SYS_fchmodat,
                [if kind == Kind::FileServer { 11.into() } else { HERE.into() }, "file".into(), 0o777.into()],
            ),
            attempt(
                "make a device by a rename",
                libc::SYS_renameat2,
                [
                    from.clone(),
                    "directory".into(),
                    from.clone(),
                    "renamed".into(),
                    i64::from(libc::RENAME_WHITEOUT).into(),
                ],
            ),
        ]
    }

    /// Processes of others.
    fn processes(&self) -> Vec<Try> {
        let other = find(Kind::Monitor, &self.victim);
        let daemon = self.daemon.pid();
        let room = [0u8; 32];
        vec![
            attempt("signal another machine", libc::SYS_kill, [number(other), number(0)]),
            attempt("signal the daemon", libc::SYS_kill, [number(daemon), number(0)]),
            attempt(
                "signal a thread of another machine",
                libc::SYS_tgkill,
                [number(other), number(other), number(0)],
            ),
            attempt(
                "trace another machine",
                libc::SYS_ptrace,
                [16.into(), number(other), 0.into(), 0.into()],
            ),
            attempt(
                "read another machine's memory by its process",
                libc::SYS_process_vm_readv,
                [number(other), room.as_slice().into(), 0.into(), room.as_slice().into(), 0.into(), 0.into()],
            ),
            attempt("get hold of another process", libc::SYS_pidfd_open, [number(other), 0.into()]),
            attempt(
                "take a descriptor of another process",
                libc::SYS_pidfd_getfd,
                [3.into(), 0.into(), 0.into()],
            ),
            attempt(
                "lift the limits of another process",
                libc::SYS_prlimit64,
                [number(daemon), 4.into(), 0.into(), 0.into()],
            ),
        ]
    }

    /// Sockets: what can be connected to, by an address in the form of the kernel.
    fn sockets(&self) -> Vec<(String, i32, Vec<u8>, bool)> {
        let unix = |path: &Path| {
            let mut address = u16::try_from(libc::AF_UNIX).unwrap().to_ne_bytes().to_vec();
            address.extend(path.to_str().unwrap().as_bytes());
            address.push(0);
            address
        };
        let run = self.run_dir(&self.victim);
        let mut abstract_one = u16::try_from(libc::AF_UNIX).unwrap().to_ne_bytes().to_vec();
        abstract_one.extend(b"\0some-desktop-bus");
        let mut loopback = u16::try_from(libc::AF_INET).unwrap().to_ne_bytes().to_vec();
        loopback.extend([0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        vec![
            (
                "connect to aegisd.sock".into(),
                libc::AF_UNIX,
                unix(&self.daemon.root().join("aegisd.sock")),
                false,
            ),
            (
                "connect to another machine's monitor".into(),
                libc::AF_UNIX,
                unix(&run.join("qmp.sock")),
                false,
            ),
            ("connect to another guest".into(), libc::AF_UNIX, unix(&run.join("control.sock")), false),
            ("connect to an abstract socket".into(), libc::AF_UNIX, abstract_one, false),
            ("connect by TCP".into(), libc::AF_INET, loopback, true),
        ]
    }
}

/// A port of the host for itself, of those that are free.
fn bind(taken: &mut Taken) -> Outcome {
    let kind = i64::from(libc::SOCK_STREAM);
    let socket = match taken.call(libc::SYS_socket, &[number(libc::AF_INET), kind.into(), 0.into()]) {
        Outcome::Done(socket) => socket,
        refused => return refused,
    };
    let mut any_port = [0u8; 16];
    any_port[..2].copy_from_slice(&u16::try_from(libc::AF_INET).unwrap().to_ne_bytes());
    let bound = taken.call(libc::SYS_bind, &[socket.into(), any_port.as_slice().into(), 16.into()]);
    let _closed = taken.call(libc::SYS_close, &[socket.into()]);
    bound
}

/// What somebody who has taken this process over gets, a line each: what was tried, and what came of it.
fn break_out(host: &Host, kind: Kind) -> Vec<(String, Outcome, bool)> {
    let mut pid = find(kind, &host.id);
    let mut taken = Taken::over(pid);
    let mut all = Vec::new();
    for (what, family, address, of_gateways) in host.sockets() {
        let stream = i64::from(libc::SOCK_STREAM);
        let mut outcome = taken.call(libc::SYS_socket, &[number(family), stream.into(), 0.into()]);
        if let Outcome::Done(socket) = outcome {
            let len = i64::try_from(address.len()).unwrap();
            outcome = taken.call(libc::SYS_connect, &[socket.into(), address.as_slice().into(), len.into()]);
            let _closed = taken.call(libc::SYS_close, &[socket.into()]);
        }
        all.push((what, outcome, of_gateways));
    }
    all.push(("listen on a TCP port of the host".into(), bind(&mut taken), false));
    let tries = host
        .files()
        .into_iter()
        .chain(host.above(kind))
        .chain(keeping_from_others(if kind == Kind::FileServer { 11 } else { 0 }))
        .chain(host.processes())
        .chain(kernel())
        .chain(programs());
    for Try { what, number, arguments, of_gateways } in tries {
        let outcome = taken.call(number, &arguments);
        if outcome == Outcome::Killed {
            drop(taken);
            host.renew(kind, pid);
            pid = find(kind, &host.id);
            taken = Taken::over(pid);
        }
        all.push((what, outcome, of_gateways));
    }
    all
}

/// Whether an outcome is what a wall gives: a refusal, or a root in which what is there for everybody else is not. That a
/// call makes no sense is none.
fn is_refused(outcome: Outcome) -> bool {
    word(outcome) != POSSIBLE
}

const POSSIBLE: &str = "possible";

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Killed => "refused, and ended",
        Outcome::Failed(libc::EPERM | libc::EACCES | libc::EROFS | libc::ENOSYS) => "refused",
        Outcome::Failed(libc::ENOENT) => "not there",
        Outcome::Failed(_) | Outcome::Done(_) => POSSIBLE,
    }
}

/// The table of the document: a line for each try.
fn table(outcomes: &[Vec<(String, Outcome, bool)>]) -> String {
    let mut text = String::from("| tried from inside | QEMU | file server | gateway |\n|---|---|---|---|\n");
    for (index, (what, ..)) in outcomes[0].iter().enumerate() {
        let words: Vec<&str> = outcomes.iter().map(|kind| word(kind[index].1)).collect();
        writeln!(text, "| {what} | {} |", words.join(" | ")).unwrap();
    }
    text
}

#[test]
fn whoever_takes_a_helper_over_gets_no_further() {
    let host = Host::start();
    let outcomes = Kind::ALL.map(|kind| break_out(&host, kind));
    for (kind, outcomes) in Kind::ALL.into_iter().zip(&outcomes) {
        for (what, outcome, of_gateways) in outcomes {
            let allowed = *of_gateways && kind == Kind::Gateway;
            assert!(allowed || is_refused(*outcome), "{}: {what}: {outcome:?}", kind.name());
        }
    }
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let text = std::fs::read_to_string(&document).unwrap();
    let expected = table(&outcomes);
    assert!(text.contains(&expected), "{} does not have this table:\n{expected}", document.display());
    // Nothing of it has hurt anybody else.
    assert_eq!(host.daemon.ok(&["exec", "victim", "--", "echo", "well"]), "well\n");
}

/// The same of a monitor that is not QEMU (`AEGIS_BACKEND`); tests/conformance/run does this where there is a KVM.
#[test]
#[ignore = "tests/conformance/run"]
fn whoever_takes_another_backends_monitor_over_gets_no_further() {
    let host = Host::start();
    let outcomes = break_out(&host, Kind::Monitor);
    // A file without a name is all that Firecracker's memory can be; there is nothing that could execute it.
    let needed = ["a file without a name to execute"];
    let mut possible = outcomes.iter().filter(|(_, outcome, _)| !is_refused(*outcome));
    assert!(possible.all(|(what, ..)| needed.contains(&what.as_str())), "{outcomes:?}");
    assert!(outcomes.len() > 50, "{}", outcomes.len());
    assert_eq!(host.daemon.ok(&["exec", "victim", "--", "echo", "well"]), "well\n");
}

#[test]
fn a_helper_that_is_taken_over_writes_no_file_beyond_its_bound() {
    let host = Host::start();
    let pid = find(Kind::Monitor, &host.id);
    let disk = std::fs::metadata(host.daemon.root().join(format!("data/disks/{}.ext4", host.id))).unwrap();
    let beyond = i64::try_from(disk.len()).unwrap() + (1 << 20);
    // Its disk, and what it says.
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().filter_map(|entry| {
        let status = std::fs::metadata(entry.path()).ok()?;
        let name = std::fs::read_link(entry.path()).ok()?;
        let is_log = name.to_string_lossy().contains("aegis-monitor-log");
        (status.ino() == disk.ino() || is_log).then(|| entry.file_name().to_str()?.parse::<i64>().ok())?
    });
    let descriptors: Vec<i64> = descriptors.collect();
    assert!(descriptors.len() >= 3, "{descriptors:?}");
    let mut taken = Taken::over(pid);
    for descriptor in descriptors {
        let written = taken
            .call(libc::SYS_pwrite64, &[descriptor.into(), b"x".as_slice().into(), 1.into(), beyond.into()]);
        assert!(
            matches!(written, Outcome::Failed(libc::EFBIG | libc::EPERM) | Outcome::Killed),
            "{written:?}"
        );
    }
}

/// Who a process is (`proc_pid_status(5)`), and whether its namespaces are those of this one: users, mounts, network, processes.
fn identity(pid: i32) -> (u32, [bool; 4]) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()?.parse().ok());
    let namespace = |pid: &str, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let pid = pid.to_string();
    (uid.unwrap(), ["user", "mnt", "net", "pid"].map(|name| namespace(&pid, name) == namespace("self", name)))
}

#[test]
fn helpers_have_namespaces_of_their_own_and_under_root_users_of_their_own() {
    let host = Host::start();
    let own = identity(std::process::id().cast_signed()).0;
    let of = |kind, id: &str| identity(find(kind, id));
    let machines = [of(Kind::Monitor, &host.id), of(Kind::Monitor, &host.victim)];
    let gateway = of(Kind::Gateway, &host.id);
    if own == 0 {
        assert!(machines.iter().all(|(uid, _)| *uid >= 1_900_000_000), "{machines:?}");
        assert_ne!(machines[0].0, machines[1].0);
        assert_eq!(gateway.0, machines[0].0);
    } else {
        assert!(machines.iter().chain([&gateway]).all(|(uid, _)| *uid == own), "{machines:?} {gateway:?}");
    }
    // Root's have no use for a namespace of users: they are nobody that anything belongs to.
    let with_users = own != 0;
    assert_eq!(machines[0].1, [!with_users, false, false, false]);
    assert_eq!(gateway.1, [!with_users, false, true, false]);
    assert_eq!(of(Kind::FileServer, &host.id).1, [!with_users, false, false, false]);
    if with_users {
        let number = |text: &str| text.trim().parse::<u64>().unwrap();
        let pid = find(Kind::FileServer, &host.id).to_string();
        let bound = [
            "--user",
            "--preserve-credentials",
            "--target",
            &pid,
            "cat",
            "/proc/sys/user/max_inotify_watches",
        ];
        let bound = number(&aegis_tests::registry::tool("nsenter", &bound));
        let all = number(&std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap());
        assert_eq!(bound, all / 4, "one server's share of what may be watched");
    }
}

#[test]
fn a_call_of_a_helper_is_refused_by_the_daemon_itself() {
    let host = Host::start();
    // As if the wall around it had fallen: a connection of ours, given to nobody else, made by a helper's program.
    let copy = host.shared.path().join("aegis-gateway");
    std::fs::copy("/usr/bin/python3", &copy).unwrap();
    let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                  try: s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\nexcept OSError: pass\nprint(s.recv(4096).decode())";
    let socket = host.daemon.root().join("aegisd.sock");
    let said = |program: &Path| {
        let mut command = std::process::Command::new(program);
        command.env("PYTHONHOME", "/usr").args(["-c", script, socket.to_str().unwrap()]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(said(Path::new("/usr/bin/python3")).starts_with("HTTP/1.1 200"));
    let refused = said(&copy);
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("caller_refused"), "{refused}");
    // Nor one that is gone before anybody can look at it.
    let fleeting = "import socket,sys,os\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                    s.sendall(b'DELETE /v1/instances/victim HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\nos._exit(0)";
    for _ in 0..20 {
        let mut command = std::process::Command::new(&copy);
        let _ended =
            command.env("PYTHONHOME", "/usr").args(["-c", fleeting, socket.to_str().unwrap()]).status();
    }
    assert_eq!(host.daemon.ok(&["exec", "victim", "--", "echo", "well"]), "well\n");
}
