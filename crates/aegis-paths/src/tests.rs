#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Dir, Identity, Unopened, open_unchanged, resolve};

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn errno(error: &std::io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

fn scene() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("root/sub/deep")).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    fs::write(dir.path().join("root/sub/file"), "file").unwrap();
    symlink("../outside", dir.path().join("root/up")).unwrap();
    symlink(dir.path().join("outside"), dir.path().join("root/absolute")).unwrap();
    symlink("sub", dir.path().join("root/within")).unwrap();
    symlink("/proc/self/root", dir.path().join("root/magic")).unwrap();
    symlink("nowhere", dir.path().join("root/dangling")).unwrap();
    dir
}

#[test]
fn nothing_below_a_directory_leads_out_of_it() {
    let scene = scene();
    let root = Dir::open_root(&scene.path().join("root")).unwrap();
    let mut text = String::new();
    root.file_beneath(path("sub/file")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "file");
    for through in ["up/secret", "absolute/secret", "within/file", "magic/etc/passwd", "up", "dangling"] {
        let error = root.file_beneath(path(through)).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::LOOP), "{through}");
        let walked =
            crate::lookup::walk(&root, path(through), OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty());
        assert_eq!(walked.unwrap_err(), Errno::LOOP, "{through}");
    }
    for out in ["..", "../outside/secret", "sub/../../outside/secret", "/etc/passwd"] {
        let error = root.open_beneath(path(out), OFlags::RDONLY, Mode::empty()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{out}");
        assert_eq!(root.mkdir_beneath(path(out), Mode::RWXU).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn nothing_is_made_through_a_link() {
    let scene = scene();
    let root = Dir::open_root(&scene.path().join("root")).unwrap();
    let mode = Mode::RUSR | Mode::WUSR;
    for through in ["up/new", "absolute/new", "within/new"] {
        assert_eq!(errno(&root.create_beneath(path(through), mode).unwrap_err()), Some(Errno::LOOP));
        assert_eq!(errno(&root.mkdir_beneath(path(through), Mode::RWXU).unwrap_err()), Some(Errno::LOOP));
        assert_eq!(errno(&root.unlink_beneath(path(through)).unwrap_err()), Some(Errno::LOOP));
    }
    // Links as the last name: never made through, and taken away themselves.
    assert_eq!(errno(&root.create_beneath(path("dangling"), mode).unwrap_err()), Some(Errno::EXIST));
    assert_eq!(errno(&root.mkdir_beneath(path("up"), Mode::RWXU).unwrap_err()), Some(Errno::LOOP));
    root.unlink_beneath(path("dangling")).unwrap();
    root.create_beneath(path("dangling"), mode).unwrap().write_all(b"x").unwrap();
    assert_eq!(fs::read_dir(scene.path().join("outside")).unwrap().count(), 1);
    root.mkdir_beneath(path("sub/new"), Mode::RWXU).unwrap();
    root.mkdir_beneath(path("sub/new"), Mode::RWXU).unwrap();
}

#[test]
fn what_would_wait_is_not_opened() {
    let scene = scene();
    let root = Dir::open_root(&scene.path().join("root")).unwrap();
    rustix::fs::mkfifoat(&root, "pipe", Mode::RUSR | Mode::WUSR).unwrap();
    assert_eq!(root.file_beneath(path("pipe")).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(root.file_beneath(path("sub")).unwrap_err().kind(), ErrorKind::InvalidInput);
    root.open_beneath(path("pipe"), OFlags::RDONLY, Mode::empty()).unwrap();
}

#[test]
fn a_directory_exchanged_for_a_link_meanwhile_does_not_lead_out() {
    let scene = scene();
    let inside = scene.path().join("root");
    let root = Dir::open_root(&inside).unwrap();
    fs::write(inside.join("sub/secret"), "inside").unwrap();
    symlink("../outside", inside.join("link")).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let dir = fs::File::open(&inside).unwrap();
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(&dir, "sub", &dir, "link", rustix::fs::RenameFlags::EXCHANGE)
                    .unwrap();
            }
        });
        for _ in 0..5_000 {
            if let Ok(mut file) = root.file_beneath(path("sub/secret")) {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, "inside");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_the_user_typed_may_be_a_link() {
    let scene = scene();
    let root = Dir::open_root(&scene.path().join("root/within")).unwrap();
    root.file_beneath(path("file")).unwrap();
    root.open_beneath(path(""), OFlags::RDONLY, Mode::empty()).unwrap();
}

#[test]
fn a_directory_is_known_again() {
    let scene = scene();
    let (found, identity) = resolve(&scene.path().join("root/within/deep")).unwrap();
    assert_eq!(found, fs::canonicalize(scene.path()).unwrap().join("root/sub/deep"));
    let opened = open_unchanged(&found, &identity).unwrap();
    assert_eq!(Identity::of(&opened).unwrap(), identity);
    let stored: Identity = serde_json::from_str(&serde_json::to_string(&identity).unwrap()).unwrap();
    assert_eq!(stored, identity);
    let (slash, root) = resolve(path("/")).unwrap();
    open_unchanged(&slash, &root).unwrap();
}

#[test]
fn a_directory_that_is_another_one_is_not_opened() {
    let scene = scene();
    let base = fs::canonicalize(scene.path()).unwrap();
    let (found, identity) = resolve(&base.join("root/sub/deep")).unwrap();
    let changed = |what: &str| {
        assert!(matches!(open_unchanged(&found, &identity), Err(Unopened::Changed)), "{what}");
    };
    // Kept, so that nothing gets its number.
    fs::rename(&found, base.join("aside")).unwrap();
    fs::create_dir(&found).unwrap();
    changed("another directory");
    fs::remove_dir(&found).unwrap();
    symlink(base.join("aside"), &found).unwrap();
    changed("a link to the very same");
    fs::remove_file(&found).unwrap();
    fs::write(&found, "").unwrap();
    changed("a file");
    fs::remove_file(&found).unwrap();
    assert!(matches!(open_unchanged(&found, &identity), Err(Unopened::Io(_))));
    fs::rename(base.join("aside"), &found).unwrap();
    open_unchanged(&found, &identity).unwrap();
    // A link further up.
    fs::rename(base.join("root/sub"), base.join("root/moved")).unwrap();
    symlink("moved", base.join("root/sub")).unwrap();
    changed("a link on the way");
    assert!(open_unchanged(path("relative"), &identity).is_err());
    assert!(open_unchanged(&base.join("root/../root/moved/deep"), &identity).is_err());
}

#[test]
fn a_number_given_again_is_not_the_same_directory() {
    let known = Identity { dev: 1, ino: 2, birth: Some(3) };
    assert!(known.is(&Identity { dev: 7, ..known }));
    assert!(!known.is(&Identity { birth: Some(4), ..known }));
    assert!(!known.is(&Identity { ino: 9, ..known }));
    assert!(!known.is(&Identity { dev: 7, birth: None, ..known }));
    assert!(known.is(&Identity { birth: None, ..known }));
}
