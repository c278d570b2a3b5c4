//! Roots that are nothing like Debian's: with one program and nothing else, with links and files where others have
//! directories, and with something where the machine mounts.

use std::fs;

use aegis_tests::Daemon;

use super::tars::{Form, Item, archive, layout};

/// Loads an image of busybox at the root and these entries, and returns its name.
fn load(daemon: &Daemon, items: &[Item]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let busybox = Item::file("busybox", &fs::read("/bin/busybox").unwrap()).mode(0o755);
    layout(dir.path(), &[archive(Form::Gnu, &[items, &[busybox]].concat())]);
    let loaded = daemon.ok(&["image", "load", "--input", dir.path().to_str().unwrap()]);
    loaded.trim().strip_prefix("Loaded: ").unwrap().to_owned()
}

#[test]
fn one_program_is_image_enough() {
    let daemon = Daemon::start();
    let image = load(&daemon, &[]);
    let start = ["instance", "start", "--name", "box", "--image", &image, "--", "/busybox", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0, "{}", daemon.aegis(&start).err());
    let run = |script: &str| daemon.ok(&["exec", "box", "--", "/busybox", "sh", "-c", script]);
    assert_eq!(run("/busybox id -u; pwd; /busybox cat /etc/hostname"), "0\n/workspace\nbox\n");
    assert!(run("/busybox cat /etc/hosts").contains("localhost box"));
    for (user, number) in [
        ("root", "0\n"),
        ("0", "0\n"),
        ("root:root", "0\n"),
        ("1000:1000", "1000\n"),
        ("1000:", "1000\n"),
        (":1000", "0\n"),
    ] {
        assert_eq!(daemon.ok(&["exec", "--user", user, "box", "--", "/busybox", "id", "-u"]), number);
    }
    let unknown = daemon.aegis(&["exec", "--user", "ann", "box", "--", "/busybox", "true"]);
    assert!(unknown.err().contains("no user \"ann\""), "{}", unknown.err());
    let (dir, at) = (tempfile::tempdir().unwrap(), "box:/etc/hostname");
    assert_eq!(daemon.aegis(&["cp", at, dir.path().to_str().unwrap()]).code, 0);
    assert_eq!(fs::read_to_string(dir.path().join("hostname")).unwrap(), "box\n");
    let into = daemon.aegis(&["cp", dir.path().join("hostname").to_str().unwrap(), "box:/copied"]);
    assert_eq!(into.code, 0, "{}", into.err());
    assert_eq!(run("/busybox stat -c %u /copied"), "0\n");
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    assert_eq!(daemon.aegis(&start).code, 0);
    assert_eq!(run("/busybox ls /workspace /copied"), "/copied\n\n/workspace:\n");
    assert_eq!(daemon.ok(&["run", "--image", &image, "--", "/busybox", "echo", "hello"]), "hello\n");
    let absent = daemon.aegis(&["run", "--image", &image, "--", "bash"]);
    assert!(absent.code == 127 && absent.err().contains("not found"), "{}", absent.err());
}

#[test]
fn a_program_has_the_capabilities_that_its_image_gives_it() {
    let daemon = Daemon::start();
    // `struct vfs_ns_cap_data` of the second version, effective: CAP_NET_RAW, of linux/capability.h.
    let net_raw = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let busybox = fs::read("/bin/busybox").unwrap();
    let capable = Item::file("capable/busybox", &busybox).mode(0o755).xattr("security.capability", net_raw);
    let image = load(&daemon, &[Item::dir("capable/"), capable]);
    let effective = |program: &str| {
        let command = [
            "run",
            "--image",
            &image,
            "--user",
            "1000",
            "--",
            program,
            "grep",
            "CapEff",
            "/proc/self/status",
        ];
        daemon.ok(&command).split_whitespace().last().unwrap_or_default().to_owned()
    };
    assert_eq!(effective("/capable/busybox"), "0000000000002000");
    assert_eq!(effective("/busybox"), "0000000000000000");
}

/// What every machine has, whatever its image has.
const CHECK: &str = "
    fail() { echo \"$1\"; }
    /busybox [ -r /proc/1/stat ] || fail proc
    /busybox [ -d /sys/fs/cgroup ] || fail sys
    /busybox [ -c /dev/null ] && /busybox [ -c /dev/ptmx ] || fail dev
    /busybox [ -S /run/aegis/api.sock ] || fail run
    for dir in /tmp /dev/shm; do
        /busybox touch $dir/file && /busybox [ \"$(/busybox stat -L -c %a $dir)\" = 1777 ] || fail $dir
    done
    /busybox [ \"$(/busybox hostname)\" ] || fail name
    /busybox touch /workspace/file || fail workspace
    cd /workspace || fail cd
    /busybox grep -q localhost /etc/hosts || fail hosts
    /busybox [ \"$(/busybox cat /etc/hostname)\" = \"$(/busybox hostname)\" ] || fail hostname";

#[test]
fn links_files_and_pipes_where_others_have_directories_and_files_do_not_matter() {
    let daemon = Daemon::start();
    let pipe = |path: &str| Item { kind: b'6', ..Item::file(path, b"") };
    let passwd = Item::file("etc/passwd", b"j\xf6rg:x:8:8:J\xf6rg:/:/bin/sh\nann:x:5:6::/home/ann:/bin/sh\n");
    let roots: [(&str, Vec<Item>); 5] = [
        (
            "links that lead nowhere",
            vec![
                Item::symlink("etc/hosts", "/nowhere/at/all"),
                Item::symlink("etc/hostname", "../../run/name/of/it"),
                Item::symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
                Item::symlink("tmp", "/var/tmp"),
                Item::symlink("run", "/var/volatile/run"),
                Item::symlink("proc", "/kernel/proc"),
                Item::symlink("workspace", "/srv/../srv/work"),
            ],
        ),
        (
            "absolute links to directories",
            vec![
                Item::dir("private/etc").mode(0o700),
                Item::symlink("etc", "/private/etc"),
                Item::dir("private/tmp").mode(0o700),
                Item::symlink("tmp", "/private/tmp"),
                Item::symlink("run", "/private/run"),
                Item::dir("private/run"),
                Item::symlink("dev", "/private/dev"),
                Item::symlink("sys", "/private/sys"),
                Item::dir("home/work"),
                Item::symlink("workspace", "/../home/work"),
            ],
        ),
        (
            "files",
            ["workspace", "tmp", "run", "proc", "sys", "dev", "etc"]
                .map(|path| Item::file(path, b"x"))
                .to_vec(),
        ),
        (
            "pipes, devices and circles",
            vec![
                pipe("etc/hosts"),
                Item::device(b'3', "etc/hostname", (1, 7)),
                pipe("etc/passwd"),
                pipe("etc/resolv.conf"),
                Item::symlink("tmp", "tmp"),
                Item::symlink("workspace", "run"),
                Item::symlink("run", "workspace"),
                pipe("dev"),
            ],
        ),
        (
            "directories",
            vec![
                Item::dir("etc/resolv.conf/in/the/way"),
                Item::dir("etc/hosts"),
                Item::dir("etc/hostname"),
                Item::dir("tmp").mode(0o555).owner(7, 7),
                passwd,
            ],
        ),
    ];
    for (what, items) in roots {
        let image = load(&daemon, &items);
        let run = daemon.aegis(&["run", "--image", &image, "--", "/busybox", "sh", "-c", CHECK]);
        assert_eq!((run.code, run.out().as_str()), (0, ""), "{what}: {}", run.err());
        if what == "directories" {
            let run = ["run", "--image", &image, "--user", "ann", "--", "/busybox", "id", "-u"];
            assert_eq!(daemon.ok(&run), "5\n", "its neighbour's name is in another encoding");
        }
    }
}

#[test]
fn directories_of_the_host_are_where_links_of_the_image_lead() {
    let daemon = Daemon::start();
    let links = [Item::symlink("data", "/srv/./../srv/data"), Item::symlink("workspace", "/home/own/work")];
    let (image, dir) = (load(&daemon, &links), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("given"), "of the host\n").unwrap();
    let (host, script) = (dir.path().to_str().unwrap(), "/busybox cat given /data/given /srv/data/given");
    let mount = format!("{host}:/data:ro");
    let run = [
        "run",
        "--image",
        &image,
        "--workspace",
        host,
        "--mount",
        &mount,
        "--",
        "/busybox",
        "sh",
        "-c",
        script,
    ];
    assert_eq!(daemon.ok(&run), "of the host\n".repeat(3));
}

#[test]
fn what_an_image_has_in_volatile_directories_is_there_at_each_start_and_nothing_else() {
    let daemon = Daemon::start();
    let items = [
        Item::dir("run/sshd").mode(0o710).owner(3, 4),
        Item::file("run/sshd/given", b"run"),
        Item::symlink("run/link", "/run/sshd"),
        Item::dir("tmp").mode(0o1777),
        Item::file("tmp/given", b"tmp").mode(0o640).owner(5, 6),
        Item::file("dev/shm/given", b"shm"),
        Item::dir("var/tmp").mode(0o1777),
    ];
    let image = load(&daemon, &items);
    let start = ["instance", "start", "--name", "box", "--image", &image, "--", "/busybox", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    let run = |script: &str| daemon.ok(&["exec", "box", "--", "/busybox", "sh", "-c", script]);
    let look = "/busybox cat /run/link/given /tmp/given /dev/shm/given; echo;
        /busybox stat -c '%a %u:%g' /run/sshd /tmp/given /tmp; /busybox ls /tmp /dev/shm /run/sshd";
    let expected =
        "runtmpshm\n710 3:4\n640 5:6\n1777 0:0\n/dev/shm:\ngiven\n\n/run/sshd:\ngiven\n\n/tmp:\ngiven\n";
    assert_eq!(run(look), expected);
    let _done = run("cd /; for dir in tmp run/sshd dev/shm var/tmp; do
        /busybox rm -f $dir/given; /busybox mkdir -p $dir/own/deep; echo own > $dir/own/deep/file; done");
    assert_eq!(run("/busybox ls /tmp /var/tmp"), "/tmp:\nown\n\n/var/tmp:\nown\n");
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
    assert_eq!(run(look), expected, "they are as the image has them again");
    assert_eq!(run("/busybox cat /var/tmp/own/deep/file"), "own\n", "what is not volatile stays");
    assert_eq!(run("/busybox grep -c ' /tmp ' /proc/mounts || :"), "0\n", "it is on the disk");
}

#[test]
fn volatile_directories_belong_to_whom_the_image_gives_them() {
    let daemon = Daemon::start();
    for (run, expected) in [
        (Item::dir("run").owner(1000, 1000), "755 1000:1000"),
        (Item::dir("run").mode(0o2775).owner(0, 1000), "2775 0:1000"),
        (Item::dir("run").mode(0o1777), "1777 0:0"),
    ] {
        // Everybody's in every image, as under other engines.
        let shm = Item::dir("dev/shm").mode(0o750).owner(0, 5);
        let image = load(&daemon, &[run, shm]);
        let script = "/busybox touch /run/nginx.pid /dev/shm/own && /busybox stat -c '%a %u:%g' /run /dev/shm; \
            /busybox [ -S /run/aegis/api.sock ]";
        let run = ["run", "--image", &image, "--user", "1000:1000", "--", "/busybox", "sh", "-c", script];
        assert_eq!(daemon.ok(&run), format!("{expected}\n1777 0:5\n"));
    }
}

#[test]
fn stores_of_containers_take_overlays_where_the_image_has_only_a_parent_for_them() {
    let daemon = Daemon::start();
    let image = load(&daemon, &[Item::dir("var/lib"), Item::dir("var/lib/containers/kept")]);
    let start = ["instance", "start", "--name", "box", "--image", &image, "--", "/busybox", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    let run = |script: &str| daemon.ok(&["exec", "box", "--", "/busybox", "sh", "-c", script]);
    let join = "cd /var/lib/docker && /busybox mkdir -p lower upper work joined && echo below > lower/file; \
        /busybox mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay joined && \
        echo above >> joined/file && /busybox cat joined/file";
    assert_eq!(run(join), "below\nabove\n");
    assert_eq!(
        run("/busybox stat -c %a /var/lib/docker /var/lib/containerd; /busybox ls /var/lib/containers"),
        "711\n711\nkept\n"
    );
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
    assert_eq!(run(join), "below\nabove\nabove\n", "what was above is there");
    let none = load(&daemon, &[]);
    assert_eq!(
        daemon.aegis(&["run", "--image", &none, "--", "/busybox", "ls", "/var/lib"]).code,
        1,
        "nothing is made for it"
    );
}

#[test]
fn there_is_as_much_room_for_temporary_files_as_on_the_disk() {
    let daemon = Daemon::start();
    let script = "head -c 300m /dev/zero > /tmp/large && stat -c %s /tmp/large && stat -c %a /tmp";
    let run = ["run", "--memory", "256", "--", "sh", "-c", script];
    assert_eq!(daemon.ok(&run), "314572800\n1777\n");
}
