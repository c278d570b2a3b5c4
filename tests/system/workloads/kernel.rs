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

/// What Docker, Kubernetes and firewalls ask for by name, with tables of their own or by way of `nft`.
const FIREWALLS: &str = "
for module in nft_compat nft_reject nft_limit nft_log nft_ct nft_masq nft_nat nft_chain_nat xt_MASQUERADE xt_comment \
    xt_conntrack xt_addrtype xt_nat xt_mark xt_multiport xt_REDIRECT xt_set ipt_REJECT ip6t_REJECT iptable_nat ip6table_nat \
    br_netfilter ip_set ip_set_hash_ip nf_conntrack_netlink ip_vs binfmt_misc vsock_loopback; do
    check $module modprobe $module
done
check bridge-calls cat /proc/sys/net/bridge/bridge-nf-call-iptables
check binfmt sh -c 'mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && cd /tmp && echo :test:M::AEGIS::/bin/cat: \
    > /proc/sys/fs/binfmt_misc/register && echo AEGIS-executed > own && chmod 755 own && ./own | grep AEGIS-executed'
";

/// Address translation as `nft` and `iptables` (by way of `nft_compat`) set it up, without either: neither is in the guest.
/// A connection to a port where nobody listens arrives at another. Then a stream in a socket of virtual machines.
const NAT: &str = r#"
import os, socket, struct
def attr(kind, value):
    if isinstance(value, list): kind, value = kind | 0x8000, b"".join(value)
    if isinstance(value, str): value = value.encode() + b"\0"
    if isinstance(value, int): value = struct.pack(">I", value)
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
def message(kind, attrs=(), flags=0x405, family=2, subsystem=10):
    body = struct.pack(">BBH", family, 0, 0 if attrs else 10) + b"".join(attrs)
    kind = kind if kind in (16, 17) else subsystem << 8 | kind
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
def expression(name, *attrs): return attr(1, [attr(1, name), attr(2, list(attrs))])
def bytes_(value): return [attr(1, value)]
def chain(name, hook, priority):
    hook = [attr(1, hook), attr(2, struct.pack(">i", priority))]
    return message(3, [attr(1, "nat"), attr(3, name), attr(4, hook), attr(7, "nat")])
def rule(name, *expressions):
    return message(6, [attr(1, "nat"), attr(2, name), attr(4, list(expressions))], 0xc05)
def port(number): return bytes_(struct.pack(">H", number))
redirect = [
    expression("meta", attr(1, 1), attr(2, 16)), expression("cmp", attr(1, 1), attr(2, 0), attr(3, bytes_(b"\6"))),
    expression("payload", attr(1, 1), attr(2, 2), attr(3, 2), attr(4, 2)),
    expression("cmp", attr(1, 1), attr(2, 0), attr(3, port(7777))),
    expression("immediate", attr(1, 1), attr(2, port(8888))), expression("redir", attr(1, 1)),
]
compat = [
    expression("match", attr(1, "addrtype"), attr(2, 1), attr(3, struct.pack("=HHI", 4, 0, 0))),
    expression("match", attr(1, "comment"), attr(2, 0), attr(3, b"of a test".ljust(256, b"\0"))),
    expression("match", attr(1, "conntrack"), attr(2, 3), attr(3, bytes(160) + struct.pack("=HHHH", 1, 0, 8, 0))),
    expression("target", attr(1, "MASQUERADE"), attr(2, 0), attr(3, struct.pack("=I", 1).ljust(24, b"\0"))),
]
def send(*messages):
    netfilter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    netfilter.settimeout(20)
    netfilter.send(message(16, (), 1) + b"".join(messages) + message(17, (), 1))
    for _ in messages:
        answer = netfilter.recv(1 << 16)
        while answer:
            length, kind, _, _, _, error = struct.unpack("=IHHIIi", answer[:20])
            if kind == 2 and error: raise OSError(-error, os.strerror(-error))
            answer = answer[length + 3 & ~3:]
send(message(0, [attr(1, "nat")]), chain("out", 3, -100), chain("after", 4, 100), rule("out", *redirect))
server = socket.create_server(("127.0.0.1", 8888))
client = socket.create_connection(("127.0.0.1", 7777), 20)
client.send(b"translated\n")
print(server.accept()[0].recv(100).decode(), end="")
for one in compat[:3]: send(rule("after", one))
send(rule("after", *compat))
print("rules of iptables")
os.system("modprobe vsock_loopback")
server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
server.bind((socket.VMADDR_CID_ANY, 1234)); server.listen()
client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
client.connect((1, 1234)); client.send(b"of the same machine\n")
print(server.accept()[0].recv(100).decode(), end="")
"#;

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
    # As Debian's script that starts Docker tries, and then has bounds of neither version.
    mkdir /tmp/first && mount -t cgroup -o cpu cgroup /tmp/first 2>/dev/null && echo control groups of the first version
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
fn firewalls_and_translation_of_addresses_find_what_they_ask_for() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    // Found when it is asked for, before it was loaded by name.
    let exec = ["exec", "--timeout", "100s", "box", "--", "python3", "-c", NAT];
    assert_eq!(daemon.ok(&exec), "translated\nrules of iptables\nof the same machine\n");
    assert_eq!(shell(&daemon, FIREWALLS), "");
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

#[test]
fn a_machine_keeps_the_modules_that_it_was_started_with() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    assert_eq!(shell(&daemon, "check before ip link add name xa type dummy"), "");
    assert_eq!(daemon.aegis(&["instance", "hibernate", "box"]).code, 0);
    // As when the kernel is built anew, but these are none.
    let kernel = daemon.root().join("kernel");
    std::fs::create_dir_all(&kernel).unwrap();
    std::fs::write(kernel.join("modules-other.erofs"), vec![0; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("modules-other.erofs", kernel.join("modules")).unwrap();
    assert_eq!(shell(&daemon, "check woken ip link add name xb type wireguard"), "");
    let forked = daemon.aegis(&["fork", "box", "--name", "copy"]);
    assert_eq!(forked.code, 0, "{}", forked.err());
    let script =
        "ip link add name xc type vxlan id 1 dstport 4789 dev lo && ip -br link | grep -c '^x[abc] '";
    assert_eq!(daemon.ok(&["exec", "copy-1", "--", "sh", "-c", script]), "3\n");
    // One that boots now does without.
    let _id = daemon.instance("new", &["sleep", "1000"]);
    assert_ne!(
        daemon.aegis(&["exec", "new", "--", "ip", "link", "add", "name", "xa", "type", "dummy"]).code,
        0
    );
}
