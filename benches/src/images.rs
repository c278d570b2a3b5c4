//! Images: pulled and made ready, beside what `skopeo` and `umoci` take for the same; and booted, beside the base.

use std::path::Path;
use std::process::Command;

use crate::daemon::Daemon;
use crate::report::{Figure, Report};
use crate::timed;
use aegis_tests::registry::{Layout, Protection, Registry, tool};

/// Makes an image of Debian, with a part on top that makes it about 200 MB.
fn debian(dir: &Path) -> Layout {
    let layout = Layout::new();
    let root = dir.join("root");
    let at = root.to_str().expect("a path in UTF-8");
    let packages = "--include=python3-minimal,perl,git,gcc";
    tool("mmdebstrap", &["--variant=minbase", "--quiet", packages, "bookworm", at]);
    tool("umoci", &["new", "--image", &format!("{}:1", layout.path())]);
    tool("umoci", &["insert", "--image", &format!("{}:1", layout.path()), at, "/"]);
    layout
}

/// Measures images.
pub(crate) fn measure(report: &mut Report, rounds: usize) {
    let dir = tempfile::tempdir().expect("make a directory");
    let registry = Registry::start(Protection::None);
    registry.push(&debian(dir.path()), "1", "debian:1", &[]);
    let image = registry.reference("debian:1");
    let daemon = Daemon::start_configured(&registry.config());
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for round in 0..rounds.div_ceil(3) {
        others.push(timed(|| {
            let layout = dir.path().join(format!("layout{round}"));
            let layout = layout.to_str().expect("a path in UTF-8");
            let (from, to) = (format!("docker://{image}"), format!("oci:{layout}:1"));
            tool("skopeo", &["copy", "--quiet", "--src-tls-verify=false", &from, &to]);
            let bundle = dir.path().join(format!("bundle{round}"));
            let bundle = bundle.to_str().expect("a path in UTF-8");
            tool("umoci", &["unpack", "--image", &format!("{layout}:1"), bundle]);
        }));
        ours.push(timed(|| drop(daemon.aegis(&["image", "pull", &image]))));
        if round + 1 < rounds.div_ceil(3) {
            daemon.aegis(&["image", "remove", &image]);
        }
    }
    let what = "pull and prepare a Debian image of 200 MB";
    report.ratio(what, "ms", ours, "skopeo copy + umoci unpack", others, 0.5);

    let (mut ours, mut base) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        base.push(timed(|| drop(daemon.aegis(&["run", "--", "true"]))));
        ours.push(timed(|| drop(daemon.aegis(&["run", "--image", &image, "--", "true"]))));
    }
    report.ratio("run --image … -- true", "ms", ours, "run -- true", base, 1.1);
    let before = disk_kib(daemon.root());
    let start = ["instance", "start", "--name", "second", "--image", &image, "--", "sleep", "1000"];
    daemon.aegis(&start);
    let taken = (disk_kib(daemon.root()) - before) / 1024.0;
    report.add(Figure::at_most("disk that one more instance of an image takes", "MiB", vec![taken], 2.0));
}

/// What a directory takes on disk.
fn disk_kib(dir: &Path) -> f64 {
    let output = Command::new("du").args(["-sk", "--"]).arg(dir).output().expect("du");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}
