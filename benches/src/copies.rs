//! Copies: a tree of 200 MB in and out, beside what `tar` takes through `aegis exec`.

use std::path::Path;
use std::process::Command;

use crate::daemon::Daemon;
use crate::report::Report;
use crate::timed;

/// Files of the tree, half of them small.
const FILES: usize = 2000;
const BIG: usize = 196 << 10;
const SMALL: usize = 4 << 10;

fn tree(at: &Path) {
    for number in 0..FILES {
        let dir = at.join(format!("d{}", number % 40));
        std::fs::create_dir_all(&dir).expect("make a directory");
        let len = if number % 2 == 0 { BIG } else { SMALL };
        let contents: Vec<u8> = (0..len).map(|i| (i * 31 + number).to_le_bytes()[0]).collect();
        std::fs::write(dir.join(number.to_string()), contents).expect("write");
    }
}

/// Runs a line of shell with the daemon's home.
fn shell(daemon: &Daemon, line: &str) {
    let status = Command::new("sh").args(["-c", line]).env("AEGIS_HOME", daemon.root()).status().expect("sh");
    assert!(status.success(), "{line}");
}

/// Measures copies.
pub(crate) fn measure(report: &mut Report, rounds: usize) {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().expect("make a directory"));
    let id = daemon.instance("box");
    tree(&dir.path().join("tree"));
    let at = dir.path().display();
    let (mut ours, mut others) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let clear = |what: &str| {
        daemon.aegis(&["exec", &id, "--", "rm", "-rf", what]);
        std::fs::remove_dir_all(dir.path().join("back")).unwrap_or_default();
    };
    // What one has written must not be written to the disk while the other is measured.
    let settle = || rustix::fs::sync();
    for _ in 0..rounds.div_ceil(3) {
        settle();
        let tar_in = format!("tar -C {at} -cf - tree | bin/aegis exec -i {id} -- tar -C /srv -xf -");
        others[0].push(timed(|| shell(&daemon, &tar_in)));
        clear("/srv/tree");
        settle();
        ours[0].push(timed(|| shell(&daemon, &format!("bin/aegis cp {at}/tree {id}:/srv"))));
        let tar_out = format!(
            "mkdir {at}/back; bin/aegis exec {id} -- tar -C /srv -cf - tree | tar -C {at}/back -xf -"
        );
        settle();
        others[1].push(timed(|| shell(&daemon, &tar_out)));
        std::fs::remove_dir_all(dir.path().join("back")).expect("remove the copy");
        settle();
        ours[1].push(timed(|| shell(&daemon, &format!("bin/aegis cp {id}:/srv/tree {at}/back"))));
        clear("/srv/tree");
    }
    let [in_ours, out_ours] = ours;
    let [in_others, out_others] = others;
    report.ratio(
        "cp of a tree of 200 MB into a guest",
        "ms",
        in_ours,
        "tar through aegis exec",
        in_others,
        1.0,
    );
    report.ratio(
        "cp of a tree of 200 MB out of a guest",
        "ms",
        out_ours,
        "tar through aegis exec",
        out_others,
        1.0,
    );
}
