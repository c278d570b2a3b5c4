use std::os::unix::fs::symlink;

use super::*;

fn home() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path().join("h"), dir.path().join("default"));
    (dir, home)
}

fn put(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "x").unwrap();
}

#[test]
fn create_is_private_and_repeatable() {
    let (_dir, home) = home();
    home.create().unwrap();
    let all =
        [home.logs(), home.disks(), home.workspaces(), home.run(), home.cache(), home.images(), home.data()];
    for path in all.iter().chain([&home.root]) {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    home.create().unwrap();
    for path in all.iter().chain([&home.root]) {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o700, "{path:?}");
    }
}

#[test]
fn what_belongs_to_another_user_is_no_home_nor_part_of_one() {
    // Not even root takes somebody else's; only root can make one for a test.
    if !rustix::process::geteuid().is_root() {
        let foreign = Home::new("/", "/");
        assert!(matches!(foreign.create(), Err(HomeError::Foreign { uid: 0, .. })));
        return;
    }
    let (dir, home) = home();
    home.create().unwrap();
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::chown(&other, Some(65_534), None).unwrap();
    fs::remove_dir(home.images()).unwrap();
    symlink(&other, home.images()).unwrap();
    assert!(matches!(home.create(), Err(HomeError::Foreign { uid: 65_534, .. })));
    fs::remove_file(home.images()).unwrap();
    std::os::unix::fs::chown(&home.root, Some(65_534), None).unwrap();
    assert!(matches!(home.create(), Err(HomeError::Foreign { uid: 65_534, .. })));
}

#[test]
fn nothing_is_reached_over_links_of_others_and_nothing_of_theirs_is_booted() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (dir, home) = home();
    let foreign = |result: Result<PathBuf, HomeError>| {
        matches!(result, Err(HomeError::ForeignPart { uid: 65_534, .. }))
    };
    let of_other = |path: &Path| std::os::unix::fs::lchown(path, Some(65_534), None).unwrap();
    home.create().unwrap();
    let link = dir.path().join("link");
    symlink(&home.root, &link).unwrap();
    Home::new(&link, &link).create().unwrap();
    of_other(&link);
    for root in [link.clone(), link.join("below")] {
        assert!(foreign(Home::new(&root, &root).create().map(|()| root.clone())), "{root:?}");
    }
    assert!(!home.root.join("below").exists());
    put(&home.root.join("kernel/vmlinux"));
    put(&home.root.join("base-rootfs/real"));
    symlink("real", home.root.join("base-rootfs/current")).unwrap();
    assert!(home.kernel().is_ok() && home.base_rootfs().is_ok());
    for part in ["kernel/vmlinux", "base-rootfs"] {
        of_other(&home.root.join(part));
    }
    assert!(foreign(home.kernel()) && foreign(home.base_rootfs()));
    fs::remove_file(home.root.join("kernel/vmlinux")).unwrap();
    put(&home.root.join("kernel/vmlinux"));
    assert!(home.kernel().is_ok());
    of_other(&home.root.join("kernel"));
    assert!(foreign(home.kernel()));
    fs::write(home.root.join("config.toml"), "").unwrap();
    assert!(check_trusted(&home.root.join("config.toml")).is_ok());
    of_other(&home.root.join("config.toml"));
    assert!(check_trusted(&home.root.join("config.toml")).is_err());
}

#[test]
fn create_names_what_is_in_the_way() {
    let (dir, home) = home();
    fs::write(dir.path().join("h"), "a file").unwrap();
    let error = home.create().unwrap_err();
    assert!(matches!(&error, HomeError::Create { path, .. } if *path == home.root), "{error}");
}

#[test]
fn assets_come_from_the_home_first_then_from_the_default() {
    let (dir, home) = home();
    let error = home.kernel().unwrap_err().to_string();
    assert!(error.contains("h/kernel/vmlinux") && error.contains("default/kernel/vmlinux"), "{error}");
    put(&dir.path().join("default/kernel/vmlinux"));
    assert_eq!(home.kernel().unwrap(), dir.path().join("default/kernel/vmlinux"));
    put(&dir.path().join("h/kernel/vmlinux"));
    assert_eq!(home.kernel().unwrap(), dir.path().join("h/kernel/vmlinux"));
}

#[test]
fn assets_of_a_foreign_guest_come_from_a_directory_of_its_own() {
    let (dir, home) = home();
    let home = home.with_assets_below("z80");
    put(&dir.path().join("h/kernel/vmlinux"));
    put(&dir.path().join("default/kernel/vmlinux"));
    let error = home.kernel().unwrap_err().to_string();
    assert!(
        error.contains("h/z80/kernel/vmlinux") && error.contains("default/z80/kernel/vmlinux"),
        "{error}"
    );
    put(&dir.path().join("default/z80/kernel/vmlinux"));
    assert_eq!(home.kernel().unwrap(), dir.path().join("default/z80/kernel/vmlinux"));
}

#[test]
fn base_rootfs_is_the_real_file() {
    let (dir, home) = home();
    let real = dir.path().join("default/base-rootfs/base-abc.erofs");
    put(&real);
    symlink("base-abc.erofs", dir.path().join("default/base-rootfs/current")).unwrap();
    assert_eq!(home.base_rootfs().unwrap(), fs::canonicalize(&real).unwrap());
    assert_eq!(home.rootfs_named("base-abc.erofs").unwrap(), real);
    fs::remove_file(&real).unwrap();
    assert!(matches!(home.base_rootfs(), Err(HomeError::AssetMissing { .. })));
}

#[test]
fn modules_are_the_real_file_and_none_where_the_link_is_missing() {
    let (dir, home) = home();
    assert!(home.modules().is_err());
    let real = dir.path().join("default/kernel/modules-abc.erofs");
    put(&real);
    symlink("modules-abc.erofs", dir.path().join("default/kernel/modules")).unwrap();
    assert_eq!(home.modules().unwrap(), fs::canonicalize(&real).unwrap());
    assert_eq!(home.modules_named("modules-abc.erofs").unwrap(), real);
    assert!(home.modules_named("../kernel/modules-abc.erofs").is_err());
}

#[test]
fn rootfs_names_are_one_component() {
    let (_dir, home) = home();
    for name in ["", ".", "..", "a/b", "/a", "a/", "./a"] {
        assert!(matches!(home.rootfs_named(name), Err(HomeError::InvalidName { .. })), "{name:?}");
    }
}

#[test]
fn run_dir_is_below_the_home_or_short() {
    let (dir, home) = home();
    home.create().unwrap();
    let id = "inst-01hzy3k6v0000000000000000a";
    let near = home.run_dir(id).unwrap();
    assert_eq!(near, home.run().join(id));
    assert_eq!(fs::metadata(&near).unwrap().mode() & 0o7777, 0o700);

    let far = Home::new(dir.path().join("long".repeat(30)), dir.path());
    far.create().unwrap();
    let short = far.run_dir(id).unwrap();
    assert!(short.starts_with("/tmp") && short.join("control.sock").as_os_str().len() < 100, "{short:?}");
    assert!(short.is_dir());
    assert_eq!(far.run_dir(id).unwrap(), short);
    far.remove_run_dir(id).unwrap();
    far.remove_run_dir(id).unwrap();
    assert!(!short.exists());
    assert!(!far.short_run().exists());
    assert!(matches!(far.run_dir("../x"), Err(HomeError::InvalidName { .. })));
}

#[test]
fn a_planted_link_is_refused_as_run_dir() {
    let (dir, _) = home();
    let far = Home::new(dir.path().join("planted".repeat(20)), dir.path());
    symlink(dir.path(), far.short_run()).unwrap();
    let result = far.run_dir("inst-0");
    fs::remove_file(far.short_run()).unwrap();
    assert!(matches!(result, Err(HomeError::UnsafeRunDir { .. })), "{result:?}");
}

#[test]
fn one_daemon_per_home() {
    let (_dir, home) = home();
    assert_eq!(daemon_alive(&home).unwrap(), DaemonLiveness::NotRunning);
    assert!(!home.root.exists());
    home.create().unwrap();
    let me = Some(std::process::id());
    let lock = DaemonLock::acquire(&home).unwrap();
    assert_eq!(daemon_alive(&home).unwrap(), DaemonLiveness::Running { pid: me });
    assert!(matches!(DaemonLock::acquire(&home), Err(LockError::Held { pid, .. }) if pid == me));
    drop(lock);
    assert!(!home.pid_file().exists());
    assert_eq!(daemon_alive(&home).unwrap(), DaemonLiveness::NotRunning);
    DaemonLock::acquire(&home).unwrap();
}

#[test]
fn a_stale_pid_file_is_no_sign_of_life() {
    let (_dir, home) = home();
    home.create().unwrap();
    fs::write(home.pid_file(), "1\n").unwrap();
    assert_eq!(daemon_alive(&home).unwrap(), DaemonLiveness::NotRunning);
    DaemonLock::acquire(&home).unwrap();
}

#[test]
fn a_probe_does_not_keep_a_daemon_from_starting() {
    let (_dir, home) = home();
    home.create().unwrap();
    let probe = fs::File::create(home.lock_file()).unwrap();
    probe.lock_shared().unwrap();
    let release = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(10));
        drop(probe);
    });
    let lock = DaemonLock::acquire(&home);
    release.join().unwrap();
    assert!(lock.is_ok(), "{lock:?}");
}
