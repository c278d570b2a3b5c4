//! What is edited on the host is seen in the guest at once, and raises the events there that it raised on the host.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use aegis_tests::{Daemon, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::files::workspaces::{server, start};

/// Prints what happens in directories, and in those that come up in them, but for who reads what.
const WATCHER: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
names = {2: "MODIFY", 4: "ATTRIB", 8: "CLOSE_WRITE", 64: "MOVED_FROM", 128: "MOVED_TO", 256: "CREATE",
         512: "DELETE", 1024: "DELETE_SELF", 2048: "MOVE_SELF", 16384: "OVERFLOW"}
fd, paths = libc.inotify_init1(0), {}
def watch(path):
    paths[libc.inotify_add_watch(fd, path.encode(), sum(names) & ~16384)] = path
for path in sys.argv[1:]:
    watch(path)
print("ready", flush=True)
while True:
    data, at = os.read(fd, 65536), 0
    while at < len(data):
        wd, mask, _, length = struct.unpack_from("iIII", data, at)
        name = data[at + 16:at + 16 + length].rstrip(b"\0").decode()
        at += 16 + length
        what = [text for bit, text in names.items() if mask & bit]
        path = os.path.join(paths.get(wd, ""), name) if name else paths.get(wd, "")
        for text in what:
            print(text, path, flush=True)
        if mask & 0x40000100 == 0x40000100:
            watch(path)
            for there in os.listdir(path):
                print("CREATE", os.path.join(path, there), flush=True)
"#;

/// How long an event may take, on a host with other things to do.
const SOON: Duration = Duration::from_secs(10);
/// How long a guest is given to hear nothing.
const QUIET: &str = "sleep 1.5";

struct Guest<'d> {
    daemon: &'d Daemon,
    handle: &'d str,
    /// How much of what the watcher has said has been read.
    read: Cell<usize>,
}

impl<'d> Guest<'d> {
    fn new(daemon: &'d Daemon, handle: &'d str) -> Guest<'d> {
        Guest { daemon, handle, read: Cell::new(0) }
    }

    fn sh(&self, script: &str) -> String {
        self.daemon.ok(&["exec", self.handle, "--", "sh", "-c", script])
    }

    /// Watches directories or files of the workspace from now on.
    fn watch(&self, what: &str) {
        let put = ["exec", "-i", self.handle, "--", "sh", "-c", "cat > /tmp/watcher"];
        assert_eq!(self.daemon.aegis_with_input(&put, WATCHER.into()).code, 0);
        self.sh(&format!("nohup python3 /tmp/watcher {what} </dev/null >/tmp/events 2>&1 &"));
        self.read.set(0);
        eventually("the guest watches", SOON, || self.sh("cat /tmp/events").starts_with("ready\n"));
    }

    /// What has been heard since the last call; the same twice in a row is told once.
    fn heard(&self) -> Vec<String> {
        let text = self.sh(&format!("tail -c +{} /tmp/events", self.read.get() + 1));
        let text = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        self.read.set(self.read.get() + text.len() + usize::from(!text.is_empty()));
        let mut all: Vec<String> = text.lines().filter(|line| *line != "ready").map(str::to_owned).collect();
        all.dedup();
        all
    }

    /// Hears exactly this.
    fn hears(&self, expected: &[&str]) {
        let mut heard = Vec::new();
        let mut all = || {
            heard.extend(self.heard());
            heard.dedup();
            heard.len() >= expected.len() || heard.last().map(String::as_str) == expected.last().copied()
        };
        let begun = std::time::Instant::now();
        while !all() && begun.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(heard, expected);
    }
}

fn workspace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), "old\n").unwrap();
    dir
}

fn guest<'d>(daemon: &'d Daemon, handle: &'d str, dir: &Path, suffix: &str) -> Guest<'d> {
    let path = dir.canonicalize().unwrap();
    start(daemon, handle, &format!("{}{suffix}", path.display()), &[]);
    Guest::new(daemon, handle)
}

#[test]
fn edits_on_the_host_raise_the_events_in_the_guest_that_they_raise_there() {
    let (daemon, dir) = (Daemon::start(), workspace());
    let d = dir.path().join("d");
    let box_ = guest(&daemon, "box", dir.path(), "");
    box_.watch("d");
    fs::write(d.join("f"), "new\n").unwrap();
    box_.hears(&["MODIFY d/f", "CLOSE_WRITE d/f"]);
    fs::write(d.join("g"), "made\n").unwrap();
    box_.hears(&["CREATE d/g", "MODIFY d/g", "CLOSE_WRITE d/g"]);
    fs::set_permissions(d.join("g"), PermissionsExt::from_mode(0o640)).unwrap();
    box_.hears(&["ATTRIB d/g"]);
    fs::rename(d.join("g"), d.join("h")).unwrap();
    box_.hears(&["MOVED_FROM d/g", "MOVED_TO d/h"]);
    assert_eq!(box_.sh("cat d/h; stat -c %a d/h; ls d"), "made\n640\nf\nh\n");
    // As editors save: another file in its place.
    fs::rename(d.join("h"), d.join("f")).unwrap();
    box_.hears(&["MOVED_FROM d/h", "MOVED_TO d/f"]);
    assert_eq!(box_.sh("cat d/f; ls d"), "made\nf\n");
    // A directory with something in it, which may be there before the guest watches it.
    fs::create_dir(d.join("sub")).unwrap();
    fs::write(d.join("sub/x"), "").unwrap();
    let mut heard = Vec::new();
    eventually("what is in a new directory is heard of", SOON, || {
        heard.extend(box_.heard());
        heard.contains(&"CREATE d/sub/x".to_owned())
    });
    assert_eq!(heard.first().map(String::as_str), Some("CREATE d/sub"));
    eventually("the watcher is there", SOON, || {
        let _all = box_.heard();
        fs::write(d.join("sub/y"), "").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        box_.heard().contains(&"CLOSE_WRITE d/sub/y".to_owned())
    });
    symlink("f", d.join("sub/link")).unwrap();
    box_.hears(&["CREATE d/sub/link"]);
    fs::rename(d.join("sub/x"), d.join("x")).unwrap();
    box_.hears(&["MOVED_FROM d/sub/x", "MOVED_TO d/x"]);
    fs::remove_file(d.join("x")).unwrap();
    box_.hears(&["DELETE d/x"]);
    for name in ["sub/y", "sub/link"] {
        fs::remove_file(d.join(name)).unwrap();
    }
    box_.hears(&["DELETE d/sub/y", "DELETE d/sub/link"]);
    fs::remove_dir(d.join("sub")).unwrap();
    box_.hears(&["DELETE_SELF d/sub", "DELETE d/sub"]);
    // A name that the guest never asked for, and something that comes from elsewhere.
    fs::write(dir.path().join("elsewhere"), "x").unwrap();
    box_.sh(QUIET);
    fs::rename(dir.path().join("elsewhere"), d.join("elsewhere")).unwrap();
    box_.hears(&["MOVED_TO d/elsewhere"]);
    fs::remove_file(d.join("elsewhere")).unwrap();
    box_.hears(&["DELETE d/elsewhere"]);
}

#[test]
fn a_file_that_is_watched_itself_is_heard_of_until_it_is_replaced() {
    let (daemon, dir) = (Daemon::start(), workspace());
    let box_ = guest(&daemon, "box", dir.path(), "");
    box_.watch("d/f");
    fs::write(dir.path().join("d/f"), "new\n").unwrap();
    box_.hears(&["MODIFY d/f", "CLOSE_WRITE d/f"]);
    fs::write(dir.path().join("d/g"), "newer\n").unwrap();
    fs::rename(dir.path().join("d/g"), dir.path().join("d/f")).unwrap();
    box_.hears(&["ATTRIB d/f", "DELETE_SELF d/f"]);
    assert_eq!(box_.sh("cat d/f"), "newer\n");
}

#[test]
fn what_is_edited_on_the_host_is_what_the_guest_reads_next() {
    let (daemon, dir) = (Daemon::start(), workspace());
    let box_ = guest(&daemon, "box", dir.path(), "");
    let (f, g) = (dir.path().join("d/f"), dir.path().join("d/g"));
    for round in 100..115 {
        // Of the same size, and cached; one that was not there, and is known not to be; one that was.
        assert!(box_.sh("cat d/f; cat d/g 2>/dev/null; stat d/g >/dev/null 2>&1; true").len() >= 4);
        fs::write(&f, format!("{round}\n")).unwrap();
        if round % 2 == 0 {
            fs::write(&g, "here\n").unwrap()
        } else {
            fs::remove_file(&g).unwrap()
        }
        std::thread::sleep(Duration::from_millis(100));
        let there = if round % 2 == 0 { "here\n" } else { "" };
        assert_eq!(box_.sh("cat d/f; cat d/g 2>/dev/null; true"), format!("{round}\n{there}"));
    }
}

#[test]
fn what_the_guest_does_itself_raises_what_it_raises_anywhere() {
    let (daemon, dir) = (Daemon::start(), workspace());
    let box_ = guest(&daemon, "box", dir.path(), "");
    let script = "
        cd $1; echo a > a; echo b >> a; mv a b; ln b c; ln -s b l; chmod 600 c; touch -d @1000 b; truncate -s 9 b
        mkdir e; sleep 1; echo x > e/x; mv e/x x; rmdir e; cp x y; mv y b; rm c l
        python3 -c 'import mmap; f = open(\"b\", \"r+b\"); m = mmap.mmap(f.fileno(), 2); m[0:1] = b\"z\"; m.flush()'
        for i in $(seq 300); do echo $i > many; mv many n$i; done; rm n*; sleep 1.5";
    box_.sh("mkdir -p /workspace/d/own /srv/own");
    let done_in = |at: &str| {
        box_.sh(&format!("cd {at}; nohup python3 /tmp/watcher own </dev/null >/tmp/events 2>&1 &"));
        eventually("the guest watches", SOON, || box_.sh("cat /tmp/events").starts_with("ready\n"));
        box_.read.set(0);
        box_.sh(&format!("set -- {at}/own; {script}; pkill -f '[/]tmp/watcher'; true"));
        box_.heard()
    };
    let put = ["exec", "-i", "box", "--", "sh", "-c", "cat > /tmp/watcher"];
    assert_eq!(daemon.aegis_with_input(&put, WATCHER.into()).code, 0);
    let (here, elsewhere) = (done_in("/workspace/d"), done_in("/srv"));
    assert!(elsewhere.len() > 1000, "{elsewhere:?}");
    let differ = here.iter().zip(&elsewhere).position(|(one, other)| one != other);
    assert_eq!((here.len(), differ), (elsewhere.len(), None), "{here:?}\n{elsewhere:?}");
}

#[test]
fn whoever_answers_each_edit_with_one_of_their_own_comes_to_rest() {
    let (daemon, dir) = (Daemon::start(), workspace());
    let box_ = guest(&daemon, "box", dir.path(), "");
    box_.watch("d");
    // Writes an answer for each line about the file, as a compiler would.
    box_.sh("nohup sh -c 'tail -n 0 -F /tmp/events 2>/dev/null | grep --line-buffered \"CLOSE_WRITE d/f\" | while read -r line; do cp d/f d/out; echo $line >> /tmp/answered; done' </dev/null >/dev/null 2>&1 & sleep 1");
    for round in 0..3 {
        fs::write(dir.path().join("d/f"), format!("{round}\n")).unwrap();
        let out = || fs::read_to_string(dir.path().join("d/out")).unwrap_or_default() == format!("{round}\n");
        eventually("the answer", SOON, out);
    }
    box_.sh(QUIET);
    let answered = box_.sh("wc -l < /tmp/answered").trim().parse::<u32>().unwrap();
    assert!((3..=6).contains(&answered), "{answered}");
    let own = box_.heard().iter().filter(|line| line.ends_with("d/out")).count();
    assert!(own <= 3 * 6, "{own}");
}

#[test]
fn instances_that_share_a_directory_hear_of_each_other() {
    let (daemon, dir) = (Daemon::start(), workspace());
    let (one, other) = (guest(&daemon, "one", dir.path(), ""), guest(&daemon, "other", dir.path(), ":ro"));
    one.watch("d");
    other.watch("d");
    one.sh("echo x > d/new; mv d/new d/f; mkdir d/sub; rmdir d/sub");
    // What has been renamed when the other server looks was never there for it.
    let mut heard = Vec::new();
    eventually("the other hears of it", SOON, || {
        heard.extend(other.heard());
        heard.contains(&"MOVED_TO d/f".to_owned())
    });
    assert_eq!(other.sh("cat d/f"), "x\n");
    assert!(one.heard().iter().filter(|line| *line == "MOVED_TO d/f").count() == 1);
}

#[test]
fn what_is_repeated_in_the_guest_changes_nothing_on_the_host() {
    let (daemon, dir) = (Daemon::start(), workspace());
    for (handle, suffix) in [("rw", ""), ("ro", ":ro")] {
        let box_ = guest(&daemon, handle, dir.path(), suffix);
        let f = dir.path().join("d/f");
        box_.watch("d");
        fs::write(&f, "kept\n").unwrap();
        fs::File::open(&f).unwrap().set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
        fs::set_permissions(&f, PermissionsExt::from_mode(0o640)).unwrap();
        let as_it_was = fs::metadata(&f).unwrap();
        // At once, and so in whichever order.
        let mut heard = Vec::new();
        eventually("all of it is heard of", SOON, || {
            heard.extend(box_.heard());
            ["MODIFY", "CLOSE_WRITE", "ATTRIB"].iter().all(|what| heard.contains(&format!("{what} d/f")))
        });
        // Removed and made again, in a hurry: the guest may repeat the end of what is there again.
        for round in 0..200 {
            fs::remove_file(dir.path().join("d/g")).unwrap_or_default();
            fs::write(dir.path().join("d/g"), round.to_string()).unwrap();
            fs::rename(dir.path().join("d/g"), dir.path().join("d/h")).unwrap();
            fs::write(dir.path().join("d/g"), round.to_string()).unwrap();
        }
        box_.sh(QUIET);
        let now = fs::metadata(&f).unwrap();
        let of =
            |meta: &fs::Metadata| (meta.ino(), meta.mtime(), meta.ctime_nsec(), meta.mode(), meta.size());
        assert_eq!(of(&now), of(&as_it_was));
        assert_eq!(box_.sh("cat d/g d/h; ls d"), "199199f\ng\nh\n");
        assert_eq!(fs::read_dir(dir.path().join("d")).unwrap().count(), 3);
        assert_eq!(box_.sh("stat -c '%Y %a' d/f"), "1000 640\n");
        assert_eq!(daemon.aegis(&["instance", "delete", handle]).code, 0);
    }
}

#[test]
fn a_burst_of_edits_loses_nothing_that_lasts() {
    let (daemon, dir) = (Daemon::start(), workspace());
    let box_ = guest(&daemon, "box", dir.path(), "");
    box_.watch("d");
    for round in 0..5000 {
        fs::write(dir.path().join("d/f"), format!("{round}\n")).unwrap();
    }
    let begun = std::time::Instant::now();
    eventually("the last state", SOON, || box_.sh("cat d/f") == "4999\n");
    for number in 0..5000 {
        fs::write(dir.path().join(format!("d/n{number}")), "x").unwrap();
    }
    // The guest is served meanwhile.
    assert_eq!(box_.sh("echo y > own; cat own"), "y\n");
    let mut heard = std::collections::HashSet::new();
    eventually("all of it is heard of", Duration::from_secs(200), || {
        heard.extend(box_.heard());
        (0..5000).all(|number| heard.contains(&format!("CREATE d/n{number}")))
    });
    assert!(begun.elapsed() < Duration::from_secs(200) && heard.contains("MODIFY d/f"));
    assert_eq!(box_.sh("ls d | wc -l"), "5001\n");
}

#[test]
fn it_goes_on_whatever_becomes_of_the_machine_and_of_its_server() {
    let (daemon, dir) = (Daemon::start(), workspace());
    let path = dir.path().canonicalize().unwrap();
    let id = start(&daemon, "box", path.to_str().unwrap(), &[]);
    let box_ = Guest::new(&daemon, "box");
    box_.watch("d");
    let edit = |text: &str| {
        fs::write(dir.path().join("d/f"), text).unwrap();
        box_.hears(&["MODIFY d/f", "CLOSE_WRITE d/f"]);
        assert_eq!(box_.sh("cat d/f"), text);
    };
    edit("first\n");
    // More than a pipe holds, while nobody reads it.
    assert_eq!(daemon.aegis(&["instance", "pause", "box"]).code, 0);
    for number in 0..3000 {
        fs::write(dir.path().join(format!("d/n{number}")), "x").unwrap();
    }
    let mut heard = std::collections::HashSet::new();
    eventually("what happened meanwhile is heard of", Duration::from_secs(200), || {
        heard.extend(box_.heard());
        heard.contains("CLOSE_WRITE d/n2999")
    });
    box_.sh(QUIET);
    let _rest = box_.heard();
    edit("after a pause\n");
    kill_process(Pid::from_raw(server(&id).unwrap()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(box_.sh("ls d | wc -l"), "3001\n");
    edit("after another server came\n");
    assert_eq!(daemon.aegis(&["instance", "hibernate", "box"]).code, 0);
    fs::write(dir.path().join("d/f"), "asleep\n").unwrap();
    assert_eq!(box_.sh("sleep 1; cat d/f"), "asleep\n");
    let _meanwhile = box_.heard();
    edit("after a sleep\n");
    daemon.crash();
    daemon.up();
    edit("after the daemon\n");
}
