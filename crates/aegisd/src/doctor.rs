//! Whether this machine has what it takes. Needs no running daemon.

use std::fmt::Write;

use aegis_api::status::Finding;
use aegis_instances::manager::host_memory_mib;
use aegis_store::disk::DiskMaker;
use aegis_store::home::{DaemonLiveness, Home, daemon_alive};
use aegis_vmm::Vmm;
use aegis_vmm::qemu::Qemu;

use crate::environment::Environment;

/// Memory below which not even one default instance is comfortable, MiB.
const LEAST_MEMORY_MIB: u64 = 1024;
/// Free disk below which instances soon see I/O errors, MiB.
const LEAST_DISK_MIB: u64 = 1024;

/// Looks at everything, in the order in which it is needed.
#[must_use]
pub fn examine(environment: &Environment) -> Vec<Finding> {
    let home = &environment.home;
    let qemu = Qemu::new(environment.accelerator.as_deref());
    let mut findings = vec![monitor(&qemu), accelerator(&qemu)];
    findings.extend(assets(home));
    findings.extend([filesystem_tools(home), memory(), disk(home), daemon(home)]);
    findings
}

fn finding(name: &str, result: Result<String, (String, &str)>) -> Finding {
    match result {
        Ok(detail) => Finding { name: name.to_owned(), ok: true, detail, remedy: None },
        Err((detail, remedy)) => {
            Finding { name: name.to_owned(), ok: false, detail, remedy: Some(remedy.to_owned()) }
        }
    }
}

fn monitor(qemu: &Qemu) -> Finding {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let probed = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(qemu.probe()).map_err(|error| error.to_string()));
    finding(
        "qemu",
        probed
            .map(|probe| format!("{} ({})", probe.version, probe.executable.display()))
            .map_err(|error| (error, "install it: apt-get install qemu-system-x86 (or qemu-system-arm)")),
    )
}

fn accelerator(qemu: &Qemu) -> Finding {
    let capabilities = qemu.capabilities();
    let detail = format!("{}: {}", capabilities.accelerator, capabilities.accelerator_reason);
    let mut found = finding("accelerator", Ok(detail));
    if capabilities.accelerator == "tcg" {
        found.remedy = Some("works; instances are several times faster where /dev/kvm works".to_owned());
    }
    found
}

fn assets(home: &Home) -> [Finding; 3] {
    let check = |name: &str,
                 found: Result<std::path::PathBuf, aegis_store::home::HomeError>,
                 remedy: &'static str| {
        finding(
            name,
            found.map(|path| path.display().to_string()).map_err(|error| (error.to_string(), remedy)),
        )
    };
    [
        check("kernel", home.kernel(), "prepare it: make kernel"),
        check("initramfs", home.initramfs(), "prepare it: make harness"),
        check("base-rootfs", home.base_rootfs(), "prepare it: make base-rootfs"),
    ]
}

fn filesystem_tools(home: &Home) -> Finding {
    let tools = DiskMaker::new(home.cache());
    finding(
        "e2fsprogs",
        tools
            .map(|tools| tools.mkfs.display().to_string())
            .map_err(|error| (error.to_string(), "install it: apt-get install e2fsprogs")),
    )
}

fn memory() -> Finding {
    let total = host_memory_mib();
    finding(
        "memory",
        if total >= LEAST_MEMORY_MIB {
            Ok(format!("{total} MiB"))
        } else {
            Err((format!("{total} MiB"), "give instances less, with --memory, or the host more"))
        },
    )
}

fn disk(home: &Home) -> Finding {
    // The home may not exist yet; its file system does.
    let existing = home.root.ancestors().find(|path| path.exists());
    let free = existing.and_then(|path| rustix::fs::statvfs(path).ok());
    let free_mib = free.map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize) >> 20);
    let detail = format!("{free_mib} MiB free at {}", home.root.display());
    finding(
        "disk",
        if free_mib >= LEAST_DISK_MIB { Ok(detail) } else { Err((detail, "free some, or move AEGIS_HOME")) },
    )
}

fn daemon(home: &Home) -> Finding {
    let remedy = "start it: aegis up";
    let found = match daemon_alive(home) {
        Ok(DaemonLiveness::Running { pid: Some(pid) }) => Ok(format!("running (pid {pid})")),
        Ok(DaemonLiveness::Running { pid: None }) => Ok("running".to_owned()),
        Ok(DaemonLiveness::NotRunning) => Ok("not running".to_owned()),
        Err(error) => Err((error.to_string(), "is AEGIS_HOME yours?")),
    };
    let mut found = finding("daemon", found);
    if found.detail == "not running" {
        found.remedy = Some(remedy.to_owned());
    }
    found
}

/// The findings for people.
#[must_use]
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = if finding.ok { "ok" } else { "!!" };
        // Writing to a string cannot fail.
        let _written = writeln!(text, "{mark}  {:<12} {}", finding.name, finding.detail);
        if let Some(remedy) = &finding.remedy {
            let _written = writeln!(text, "    {:<12} {remedy}", "");
        }
    }
    text
}
