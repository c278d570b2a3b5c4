//! Images as roots.

use std::process::Command;

use crate::bench::Bench;

/// Makes an archive as `docker save` does, of three layers with files that are no small ones, and prints their digests.
const ARCHIVE: &str = r#"
set -eu
mkdir -p a/bin a/etc b/etc c/srv
cp "$(command -v busybox)" a/bin/busybox
ln -s busybox a/bin/sh
ln -s busybox a/bin/sha256sum
echo hidden >a/etc/data
head -c 300000 /dev/urandom >b/etc/data
head -c 300000 /dev/urandom >c/srv/data
for layer in a b c; do tar -C $layer --owner=0 --group=0 -cf $layer.tar .; done
ids=$(sha256sum a.tar b.tar c.tar | sed 's/\([0-9a-f]*\).*/"sha256:\1"/' | paste -sd,)
architecture=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
echo "{\"architecture\":\"$architecture\",\"os\":\"linux\",\"config\":{\"Cmd\":[\"/bin/sh\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[$ids]}}" >config.json
echo '[{"Config":"config.json","RepoTags":["layers:three"],"Layers":["a.tar","b.tar","c.tar"]}]' >manifest.json
tar -cf image.tar manifest.json config.json a.tar b.tar c.tar
(cd b && sha256sum etc/data) | sed 's,etc,/etc,'
(cd c && sha256sum srv/data) | sed 's,srv,/srv,'
"#;

pub(super) fn layers(bench: &Bench) {
    let dir = tempfile::tempdir().expect("make a directory");
    let made = Command::new("sh").args(["-c", ARCHIVE]).current_dir(dir.path()).output().expect("run sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let expected = String::from_utf8_lossy(&made.stdout).trim_end().to_owned();
    let archive = dir.path().join("image.tar").to_string_lossy().into_owned();
    bench.ok(&["image", "load", "--input", &archive]);
    // The first start may leave a template, from which the second comes.
    for _ in 0..2 {
        let said = bench.ok(&[
            "run",
            "--image",
            "layers:three",
            "--workdir",
            "/",
            "--",
            "/bin/sh",
            "-c",
            "sha256sum /etc/data /srv/data",
        ]);
        assert_eq!(said, expected);
    }
    bench.ok(&["image", "remove", "layers:three"]);
}
