//! What programs of an instance ask of its kernel: modules that are loaded when somebody first needs them, settings, and
//! devices.

use aegis_tests::Daemon;

/// Says `NAME: fails` for each check that does, and nothing for others.
const PRELUDE: &str = "check() { name=$1; shift; \"$@\" >/tmp/said 2>&1 || { echo \"$name: fails\"; head -c 300 /tmp/said; }; }\n";

fn shell(daemon: &Daemon, script: &str) -> String {
    daemon.ok(&["exec", "--timeout", "100s", "box", "--", "sh", "-c", &format!("{PRELUDE}{script}")])
}

const LINKS: &str = "
for kind in dummy wireguard bridge ifb nlmon vcan; do check $kind ip link add test-$kind type $kind; done
check veth ip link add one type veth peer name two
check vxlan ip link add test-vxlan type vxlan id 7 dstport 4789 dev eth0
check macvlan ip link add test-macvlan link eth0 type macvlan
check ipvlan ip link add test-ipvlan link one type ipvlan
check vlan ip link add test-vlan link one type vlan id 7
check rule ip rule add fwmark 1 table 100
check netem tc qdisc add dev one root netem delay 10ms loss 1%
check tbf tc qdisc add dev two root tbf rate 1mbit burst 32kbit latency 400ms
check time-namespace unshare --time true
";

const SOCKETS: &str = r#"
import os, socket, ctypes
def check(name, work):
    try: work()
    except OSError as error: print(f"{name}: {error}")
def hash():
    s = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET); s.bind(("hash", "sha512")); s.accept()
def cipher():
    s = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET); s.bind(("skcipher", "xts(aes)"))
check("af_alg", hash)
check("xts", cipher)
check("sctp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132))
check("mptcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))
check("can", lambda: socket.socket(socket.AF_CAN, socket.SOCK_RAW, 1))
check("diag", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4))
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if libc.syscall(*args) < 0 and ctypes.get_errno() == 38: print(f"{name}: is not there")
call("landlock", 444, None, 0, 1)
call("keyctl", 250, 0, -3, 1)
call("userfaultfd", 323, 1)
call("fanotify", 300, 0, 0)
call("kcmp", 312, 1, 1, 0, 0, 0)
"#;

const FILES: &str = "
for kind in xfs btrfs vfat squashfs iso9660 udf exfat nfs4 nfsd cifs autofs hfsplus; do
    modprobe $kind 2>/dev/null || modprobe fs-$kind || echo \"$kind: fails\"
done
for device in nbd zram dm-crypt raid1 null_blk; do check $device modprobe $device; done
check configs modprobe configs
check config sh -c 'zcat /proc/config.gz | grep -q CONFIG_LANDLOCK= || zcat /proc/config.gz | grep -q CONFIG_SECURITY_LANDLOCK=y'
check zram-size sh -c 'echo 16M > /sys/block/zram0/disksize'
check swap sh -c 'mkswap /dev/zram0 && swapon /dev/zram0'
";

const USER: &str = r#"
import os, socket, struct, fcntl
os.setgid(1000); os.setuid(1000)
os.close(os.open("/dev/fuse", os.O_RDWR))
os.close(os.open("/dev/net/tun", os.O_RDWR))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
socket.socket().bind(("127.0.0.1", 80))
print("as a user")
"#;

const SETTINGS: &str = "
    [ $(cat /proc/sys/fs/inotify/max_user_watches) -ge 500000 ] || echo watches
    [ $(cat /proc/sys/vm/max_map_count) -ge 262144 ] || echo maps
    [ \"$(findmnt -no PROPAGATION /)\" = shared ] || echo propagation
    for file in cpu.max io.max pids.max; do
        echo +cpu +io +memory > /sys/fs/cgroup/cgroup.subtree_control
        mkdir -p /sys/fs/cgroup/test; [ -e /sys/fs/cgroup/test/$file ] || echo $file
    done
    grep -q rchar /proc/self/io || echo io
    ls -l /proc/sys/kernel/modprobe >/dev/null && cat /proc/sys/kernel/modprobe
";

#[test]
fn what_programs_ask_of_the_kernel_is_found_when_they_ask() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    assert_eq!(shell(&daemon, LINKS), "");
    assert_eq!(daemon.ok(&["exec", "box", "--", "python3", "-c", SOCKETS]), "");
    assert_eq!(shell(&daemon, FILES), "");
    assert_eq!(shell(&daemon, SETTINGS), "/sbin/modprobe\n");
    assert_eq!(daemon.ok(&["exec", "box", "--", "python3", "-c", USER]), "as a user\n");
    // Docker's own check looks there, and whoever loads modules by name.
    let release = "/lib/modules/$(uname -r)";
    let look = format!(
        "ls {release}/modules.dep {release}/config >/dev/null; touch {release}/x 2>&1 | grep -o Read-only"
    );
    assert_eq!(shell(&daemon, &look), "Read-only\n");
    assert_eq!(shell(&daemon, "ls /usr/lib/modules | wc -l"), "1\n");
}

#[test]
fn modules_are_found_in_a_fork_after_hibernation_and_in_an_image_without_anything() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    assert_eq!(shell(&daemon, "check before ip link add name xa type dummy"), "");
    assert_eq!(daemon.aegis(&["instance", "hibernate", "box"]).code, 0);
    assert_eq!(
        shell(&daemon, "check woken ip link add name xb type wireguard; ip -br link show xa | wc -l"),
        "1\n"
    );
    let forked = daemon.aegis(&["fork", "box", "--name", "copy"]);
    assert_eq!(forked.code, 0, "{}", forked.err());
    let script =
        "ip link add name xc type vxlan id 1 dstport 4789 dev lo && ip -br link | grep -c '^x[abc] '";
    assert_eq!(daemon.ok(&["exec", "copy-1", "--", "sh", "-c", script]), "3\n");
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
    assert_eq!(shell(&daemon, "check restarted ip link add name xa type ifb"), "");
    // The kernel's helper is the harness's, whatever the instance has at that path.
    let own = "rm -f /sbin/modprobe /usr/sbin/modprobe; printf '#!/bin/sh\\ntouch /called\\n' > /sbin/modprobe; \
               chmod 755 /sbin/modprobe; ip link add name xd type geneve id 1 remote 10.9.9.9 && ls /called 2>&1 | grep -c 'No such'";
    assert_eq!(shell(&daemon, own), "1\n");
}
