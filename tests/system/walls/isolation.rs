//! What the guest sees of the host: nothing.

use std::time::Duration;

use aegis_tests::{Daemon, eventually};

#[test]
fn from_inside_there_is_no_host() {
    let daemon = Daemon::start();
    let secret = daemon.root().join("host-secret");
    std::fs::write(&secret, "hidden").unwrap();
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let script = format!(
        "ls {home} {secret} 2>&1 | grep -v 'No such file'; \
         ls /sys/class/net; \
         cat /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -E '[a]egisd|[q]emu-system'; \
         ip -br link | cut -d' ' -f1; ip route; \
         find / -xdev -name '[a]egisd.sock' 2>/dev/null; \
         hostname | grep -Fx '{name}'; \
         cat /proc/cmdline | grep -o 'secret'; \
         timeout 5 curl -s -m 2 http://10.0.2.2/ || echo unreachable; \
         test -e /dev/vsock && timeout 2 python3 -c 'import socket; s=socket.socket(40,1); s.connect((2,1024))' 2>/dev/null && echo vsock; true",
        home = daemon.root().display(),
        secret = secret.display(),
    );
    let done = daemon.aegis(&["run", "--name", "guest", "--", "sh", "-c", &script]);
    assert_eq!(
        done.out(),
        "eth0\nlo\nlo\neth0\ndefault via 10.63.0.1 dev eth0 \n10.63.0.0/30 dev eth0 proto kernel scope link src 10.63.0.2 \nunreachable\n",
        "{}",
        done.err()
    );
}

#[test]
fn the_kernel_is_the_guests_own() {
    let daemon = Daemon::start();
    let guest = daemon.ok(&["run", "--", "uname", "-r"]);
    assert!(guest.trim().ends_with("-aegis"), "{guest}");
    let pids = daemon.ok(&["run", "--", "sh", "-c", "ls -d /proc/[0-9]* | wc -l"]);
    let count: u32 = pids.trim().parse().unwrap();
    assert!(count < 100, "{count} processes are more than a guest of its own has");
}

/// Holds the harness still, so that it answers nothing more, and says nonsense on its ports.
const TAKE_HARNESS: &str = "
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PIDFD_OPEN, PIDFD_GETFD = 16, 434, 438
assert libc.ptrace(PTRACE_ATTACH, 1, None, None) == 0, os.strerror(ctypes.get_errno())
pidfd = libc.syscall(PIDFD_OPEN, 1, 0)
for fd in os.listdir('/proc/1/fd'):
    if os.readlink('/proc/1/fd/' + fd).startswith('/dev/vport'):
        os.write(libc.syscall(PIDFD_GETFD, pidfd, int(fd), 0), b'nonsense' * 1000)
print('taken', flush=True)
time.sleep(1000)
";

#[test]
fn an_instance_whose_guest_breaks_the_protocol_and_falls_silent_does_not_run_for_ever() {
    let daemon = Daemon::start();
    let _id = daemon.instance("mute", &["python3", "-c", TAKE_HARNESS]);
    eventually("the instance is stopped", Duration::from_secs(180), || daemon.state("mute") == "stopped");
    let shown = daemon.info("mute").unwrap();
    assert_eq!(shown["stop_reason"]["code"], "guest_unreachable", "{shown}");
    // It is as good as any other that was stopped.
    assert_eq!(daemon.ok(&["run", "--", "echo", "well"]), "well\n");
    assert!(daemon.ok(&["instance", "delete", "mute"]).contains("deleted"));
}

#[test]
fn a_guest_that_babbles_on_its_ports_harms_only_itself() {
    let daemon = Daemon::start();
    let _bystander = daemon.instance("bystander", &["sleep", "1000"]);
    let _id = daemon.instance("liar", &["sleep", "1000"]);
    // The ports are open in the harness, which the guest's root can imitate through /proc/1/fd.
    let script = "for fd in /proc/1/fd/*; do case $(readlink $fd) in /dev/vport*) head -c 300000 /dev/urandom > $(readlink $fd) ;; esac; done 2>/dev/null; true";
    let _hurt = daemon.aegis(&["exec", "--timeout", "20s", "liar", "--", "sh", "-c", script]);
    assert_eq!(daemon.ok(&["exec", "bystander", "--", "echo", "well"]), "well\n");
    assert!(daemon.ok(&["instance", "delete", "liar"]).contains("deleted"));
}
