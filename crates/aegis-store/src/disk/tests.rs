use std::os::unix::fs::MetadataExt;

use super::*;

const MIB: u64 = 1024 * 1024;

fn maker() -> (tempfile::TempDir, DiskMaker) {
    let dir = tempfile::tempdir().unwrap();
    let maker = DiskMaker::new(dir.path()).unwrap();
    (dir, maker)
}

fn fsck(disk: &Path) {
    let fsck = ["/sbin/e2fsck", "/usr/sbin/e2fsck"].into_iter().find(|p| Path::new(p).exists()).unwrap();
    let output = Command::new(fsck).arg("-fn").arg(disk).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

fn partials(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(PARTIAL))
        .count()
}

#[test]
fn disks_are_sound_and_sparse() {
    let (dir, maker) = maker();
    for size in [MIN_DISK_BYTES, 1024 * MIB, 10 * 1024 * MIB] {
        let disk = dir.path().join(format!("{size}.ext4"));
        maker.create(&disk, size).unwrap();
        let template = dir.path().join(format!("ext4-{size}-v2.img"));
        assert_eq!(fs::metadata(&disk).unwrap().len(), size);
        assert!(allocated(&disk) < 400 * 1024, "{} bytes of {size}", allocated(&disk));
        assert!(allocated(&template) < 400 * 1024);
        fsck(&disk);
    }
    assert_eq!(partials(dir.path()), 0);
}

#[test]
fn nothing_is_left_for_the_guest_to_initialise() {
    let (dir, maker) = maker();
    let disk = dir.path().join("d.ext4");
    maker.create(&disk, 1024 * MIB).unwrap();
    let output = Command::new(maker.mkfs.with_file_name("dumpe2fs")).arg(&disk).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let groups = text.lines().filter(|line| line.starts_with("Group ") && line.contains("(Blocks")).count();
    let zeroed = text.lines().filter(|line| line.contains("ITABLE_ZEROED")).count();
    assert_eq!((groups, zeroed), (8, 8), "{text}");
}

#[test]
fn a_new_disk_has_what_its_guest_would_make_on_it() {
    let (dir, maker) = maker();
    let disk = dir.path().join("d.ext4");
    maker.create(&disk, MIN_DISK_BYTES).unwrap();
    let ask = |question: &str| {
        let mut command = Command::new(maker.mkfs.with_file_name("debugfs"));
        let output = command.args(["-R", question]).arg(&disk).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (path, mode) in [("root", "0755"), ("work", "0755"), ("written", "0755"), ("stores/docker", "0711")] {
        let text = ask(&format!("stat {path}"));
        assert!(text.contains("Type: directory") && text.contains(&format!("Mode:  {mode}")), "{text}");
        assert!(text.contains("User:     0   Group:     0"), "{text}");
    }
    let first = ask("stat reserve/0");
    assert!(first.contains("Size: 65536") && first.contains("Blockcount: 128"), "{first}");
    assert!(ask("stat reserve/7").contains("Type: regular"));
}

#[test]
fn an_old_mkfs_makes_equally_sparse_disks() {
    let (dir, mut maker) = maker();
    // A file of the repository: one just written could not be run while another test forks.
    maker.mkfs = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/disk/old-mkfs.sh");
    let disk = dir.path().join("d.ext4");
    maker.create(&disk, 1024 * MIB).unwrap();
    assert!(allocated(&disk) < 400 * 1024, "{}", allocated(&disk));
    fsck(&disk);
}

#[test]
fn a_disk_is_never_replaced() {
    let (dir, maker) = maker();
    let disk = dir.path().join("d.ext4");
    fs::write(&disk, "data").unwrap();
    assert!(matches!(maker.create(&disk, MIN_DISK_BYTES), Err(DiskError::Exists { .. })));
    assert_eq!(fs::read(&disk).unwrap(), b"data");
}

#[test]
fn concurrent_creates_share_one_template() {
    let (dir, maker) = maker();
    let disks: Vec<PathBuf> = (0..8).map(|n| dir.path().join(format!("{n}.ext4"))).collect();
    std::thread::scope(|scope| {
        for disk in &disks {
            scope.spawn(|| maker.create(disk, 128 * MIB).unwrap());
        }
    });
    disks.iter().for_each(|disk| fsck(disk));
    assert_eq!(partials(dir.path()), 0);
}

#[test]
fn of_concurrent_creates_of_one_disk_one_wins() {
    let (dir, maker) = maker();
    let disk = dir.path().join("d.ext4");
    let won = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..4).map(|_| scope.spawn(|| maker.create(&disk, MIN_DISK_BYTES))).collect();
        tries.into_iter().map(|t| t.join().unwrap()).filter(Result::is_ok).count()
    });
    assert_eq!(won, 1);
    fsck(&disk);
    assert_eq!(partials(dir.path()), 0);
}

#[test]
fn a_torn_template_is_made_again() {
    let (dir, maker) = maker();
    let template = dir.path().join(format!("ext4-{MIN_DISK_BYTES}-v2.img"));
    fs::write(&template, "torn").unwrap();
    fs::write(with_suffix(&template, ""), "torn").unwrap();
    let disk = dir.path().join("d.ext4");
    maker.create(&disk, MIN_DISK_BYTES).unwrap();
    fsck(&disk);
}

#[test]
fn failures_leave_nothing_and_say_why() {
    let (dir, mut maker) = maker();
    let disk = dir.path().join("d.ext4");
    for size in [0, MIN_DISK_BYTES - 4096, MIN_DISK_BYTES + 1] {
        assert!(matches!(maker.create(&disk, size), Err(DiskError::InvalidSize { .. })));
    }
    maker.mkfs = PathBuf::from("/bin/false");
    assert!(matches!(maker.create(&disk, MIN_DISK_BYTES), Err(DiskError::MkfsFailed { .. })));
    maker.mkfs = dir.path().join("none");
    assert!(matches!(maker.create(&disk, MIN_DISK_BYTES), Err(DiskError::MkfsRun { .. })));
    let missing = DiskError::MkfsMissing { searched: vec![PathBuf::from("/sbin")] };
    assert!(missing.to_string().contains("install e2fsprogs"));
    assert!(!disk.exists());
    assert_eq!(partials(dir.path()), 0);
}

#[test]
fn copies_keep_data_and_holes() {
    let dir = tempfile::tempdir().unwrap();
    let size = 3 * MIB + 4096;
    let source =
        File::options().read(true).write(true).create_new(true).open(dir.path().join("source")).unwrap();
    source.set_len(size).unwrap();
    for (offset, bytes) in [(0, &b"start"[..]), (MIB + 5000, &[7; 9000]), (size - 3, &b"end"[..])] {
        source.write_all_at(bytes, offset).unwrap();
    }
    source.write_all_at(&[0; 65536], 2 * MIB).unwrap();
    let target = Partial::create(dir.path().join("target")).unwrap();
    copy_sparse(&source, &target.file, size).unwrap();
    let copy = fs::read(&target.path).unwrap();
    assert!(copy == fs::read(dir.path().join("source")).unwrap());
    assert!(allocated(&target.path) < 64 * 1024);
}

/// `cargo test --release -p aegis-store -- --ignored --nocapture measure`
#[test]
#[ignore = "a measurement"]
fn measure_disks() {
    let (dir, maker) = maker();
    for gib in [1, 10, 100] {
        let mut last = std::time::Duration::ZERO;
        for n in 0..20 {
            let begun = std::time::Instant::now();
            let disk = dir.path().join(format!("{gib}-{n}.ext4"));
            maker.create(&disk, gib * 1024 * MIB).unwrap();
            let took = begun.elapsed();
            if n == 0 {
                let kib = allocated(&disk) / 1024;
                println!("{gib} GiB: first {took:?}, {kib} KiB allocated");
            }
            last += took;
        }
        let begun = std::time::Instant::now();
        File::open(dir.path().join(format!("{gib}-19.ext4"))).unwrap().sync_data().unwrap();
        println!("{gib} GiB: mean {:?}, sync of one {:?}", last / 20, begun.elapsed());
    }
}
