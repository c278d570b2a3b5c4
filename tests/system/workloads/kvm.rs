//! Hardware virtualisation: everything that is quicker with it is as right. It runs in an outer machine whose processor QEMU
//! emulates, so that any x86_64 host has a genuine `/dev/kvm` for it (tests/nested/run).

use std::path::Path;
use std::process::Command;

/// What a user does in a day, with the daemon's home in memory. What it prints is looked at below.
const DAY: &str = r#"
set -eu
for part in kernel base-rootfs; do ln -s "$ASSETS/$part" "$AEGIS_HOME/$part"; done
trap 'find "$AEGIS_HOME" -name "*.log" -exec tail -n 20 {} + || true' ERR
set -E
# Nobody but root may use /dev/kvm here, so the monitor cannot become another user; and now it has no namespace of users either.
echo 0 >/proc/sys/user/max_user_namespaces
aegis up
aegis doctor | grep '^ok  confinement'
aegis run -- echo confined without users
aegis down
echo 1000 >/proc/sys/user/max_user_namespaces
aegis up
aegis doctor | grep '^ok  accelerator'
aegis run -- dmesg | grep -o 'Hypervisor detected: KVM'
aegis run --cpus 2 -- nproc
aegis instance start --name box -- sh -c 'echo $$ > /first; exec sleep infinity'
aegis exec box -- sh -c 'echo in memory > /dev/shm/kept'
aegis instance pause box
echo "paused: $(aegis exec box -- cat /dev/shm/kept)"
aegis instance hibernate box
echo "hibernated: $(aegis exec box -- cat /dev/shm/kept)"
aegis fork box
echo "forked: $(aegis exec box-1 -- cat /dev/shm/kept) as $(aegis exec box-1 -- hostname)"
aegis snapshot create box before >/dev/null
aegis exec box -- rm /dev/shm/kept
aegis snapshot restore before >/dev/null
echo "restored: $(aegis exec box -- cat /dev/shm/kept)"
kill -9 "$(cat "$AEGIS_HOME/data/aegisd.pid")"
aegis up
echo "adopted: $(aegis exec box -- cat /dev/shm/kept)"
aegis down
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn on_genuine_kvm_machines_start_sleep_wake_fork_and_outlive_their_daemon() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bin = aegis_tests::bin().canonicalize().unwrap();
    let assets = std::env::var_os("AEGIS_ASSETS")
        .unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".aegis").into());
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let assets = format!("ASSETS={}", Path::new(&assets).canonicalize().unwrap().display());
    let run = Command::new(here.join("nested/run"))
        .args(["--timeout", "600", "--env", &path, "--env", &assets, "bash", "-c", DAY])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{}: {out}\n{err}", run.status);
    for promise in [
        "namespaces (without user)",
        "\nconfined without users",
        "ok  accelerator  kvm: /dev/kvm works",
        "Hypervisor detected: KVM",
        "\n2\n",
        "paused: in memory",
        "hibernated: in memory",
        "forked: in memory as box-1",
        "restored: in memory",
        "adopted: in memory",
    ] {
        assert!(out.contains(promise), "no {promise:?}: {out}\n{err}");
    }
}
