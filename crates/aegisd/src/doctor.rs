//! Whether this machine has what it takes. Needs no running daemon.

use std::fmt::Write;
use std::path::PathBuf;

use aegis_api::status::Finding;
use aegis_jail::{Layer, Support};
use aegis_machines::disk_space::DiskReport;
use aegis_machines::disk_space::DiskSettings;
use aegis_machines::host_memory::host_memory_mib;
use aegis_store::disk::DiskMaker;
use aegis_store::free_space::Level;
use aegis_store::home::{DaemonLiveness, Home, HomeError, daemon_alive};
use aegis_vmm::backends::{BackendChoice, Backends, HostFacts};
use aegis_vmm::{Architecture, Capabilities, Vmm};

use crate::ca_certificates;
use crate::environment::Environment;
use aegis_http::system::disk_info;

/// Memory below which not even one default instance is comfortable, MiB.
const LEAST_MEMORY_MIB: u64 = 1024;
/// Free disk below which instances soon see I/O errors, MiB.
const LEAST_DISK_MIB: u64 = 1024;

/// Looks at everything, in the order in which it is needed.
#[must_use]
pub fn examine(environment: &Environment) -> Vec<Finding> {
    let home = &environment.home;
    let guest = environment.guest;
    let mut findings = vec![architecture(guest)];
    findings.extend(backends(environment));
    findings.extend(assets(home, guest));
    findings.extend([
        confinement(environment),
        gateway(),
        filesystem_tools(home),
        certificates(environment),
        memory(),
        disk(home, environment.instances.machines.disk),
        names(environment),
        daemon(home),
    ]);
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

fn architecture(guest: Architecture) -> Finding {
    let whose = if guest.is_foreign() { "AEGIS_GUEST_ARCH; foreign to this host" } else { "this host's own" };
    finding("guest", Ok(format!("{guest}: {whose}")))
}

/// Each backend that there is, which of them makes machines, and on what those run.
fn backends(environment: &Environment) -> Vec<Finding> {
    let facts = environment.host_facts();
    let chosen = Backends::choose(environment.backend, &facts);
    let mut findings = match &chosen {
        Ok(chosen) => monitors(chosen, &facts),
        // One that is wanted and of no use is told of beside those that are there.
        Err(_) => {
            Backends::choose(BackendChoice::Auto, &facts).map_or(Vec::new(), |any| monitors(&any, &facts))
        }
    };
    match chosen {
        Ok(chosen) => {
            let detail = format!("{}, because {}", chosen.name(), chosen.reason());
            findings.push(finding("backend", Ok(detail)));
            findings.push(accelerator(&chosen.capabilities(), facts.guest));
        }
        Err(why) => findings.push(finding("backend", Err((why, CHOOSE)))),
    }
    findings
}

/// What to do where the backend that is wanted is of no use.
const CHOOSE: &str = "choose another: aegis up --backend auto, or in config.toml: [machines] backend";

fn monitors(backends: &Backends, facts: &HostFacts) -> Vec<Finding> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let surveyed = match runtime {
        Ok(runtime) => runtime.block_on(backends.survey(facts)),
        Err(error) => return vec![finding("backend", Err((error.to_string(), CHOOSE)))],
    };
    let install = format!("install it: apt-get install {}", facts.guest.package());
    let found = surveyed.into_iter().map(|(name, probed)| {
        let chosen = name == backends.name();
        let described = probed.map(|probe| format!("{} ({})", probe.version, probe.executable.display()));
        match described {
            Err(why) if !chosen => finding(name, Ok(format!("of no use here, and not needed: {why}"))),
            described => finding(name, described.map_err(|error| (error, install.as_str()))),
        }
    });
    found.collect()
}

fn accelerator(capabilities: &Capabilities, guest: Architecture) -> Finding {
    let detail = format!("{}: {}", capabilities.accelerator, capabilities.accelerator_reason);
    let mut found = finding("accelerator", Ok(detail));
    if capabilities.accelerator == "tcg" {
        let faster =
            if guest.is_foreign() { "on a host of their own architecture" } else { "where /dev/kvm works" };
        found.remedy = Some(format!("works; instances are several times faster {faster}"));
    }
    found
}

fn assets(home: &Home, guest: Architecture) -> [Finding; 3] {
    let check = |name: &str, found: Result<PathBuf, HomeError>, target: &str| {
        // One target prepares all that a foreign guest boots from.
        let remedy = format!("prepare it: make {}", if guest.is_foreign() { guest.name() } else { target });
        let found = found.map(|path| path.display().to_string());
        finding(name, found.map_err(|error| (error.to_string(), remedy.as_str())))
    };
    [
        check("kernel", home.kernel(), "kernel"),
        check("initramfs", home.initramfs(), "harness"),
        check("base-rootfs", home.base_rootfs(), "base-rootfs"),
    ]
}

/// What holds a machine's processes when a guest has taken one over. Less than all of it is no reason not to work, unless
/// the configuration says so.
fn confinement(environment: &Environment) -> Finding {
    let cgroup = aegis_jail::controllers(environment.cgroup.as_deref());
    let support = Support { cgroup, ..Support::of_host() };
    let mut found = finding("confinement", Ok(support.to_string()));
    let remedy = support.missing(&Layer::ALL).first().map(|layer| match layer {
        Layer::Seccomp => "boot a kernel that filters system calls (CONFIG_SECCOMP_FILTER)",
        Layer::Landlock => "boot a kernel of 6.12 or later with landlock in its lsm= list",
        Layer::Namespaces => {
            "allow this user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns"
        }
        Layer::Cgroup => {
            "delegate it a control group: start it as a service with Delegate=yes, or name one in config.toml: \
             [confinement] cgroup"
        }
    });
    found.remedy = remedy.map(str::to_owned);
    found
}

fn gateway() -> Finding {
    let found = match std::env::current_exe().map(|program| program.with_file_name(crate::programs::GATEWAY))
    {
        Ok(program) if program.is_file() => Ok(program.display().to_string()),
        Ok(program) => Err(format!("there is no {}", program.display())),
        Err(error) => Err(error.to_string()),
    };
    finding("gateway", found.map_err(|error| (error, "build it: make aegisd")))
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

/// Authorities of the host's own are no fault, and the usual cause of TLS errors in instances.
fn certificates(environment: &Environment) -> Finding {
    let Some(names) = ca_certificates::of_host() else {
        return finding("certificates", Ok("none of this host's own in the usual places".to_owned()));
    };
    if environment.network.trust_host_cas {
        let detail = format!("instances trust those of this host: {names} ([network] trust_host_cas)");
        return finding("certificates", Ok(detail));
    }
    let mut found = finding(
        "certificates",
        Ok(format!("this host has authorities of its own: {names}; instances do not trust them")),
    );
    let remedy = "if programs in instances report certificate errors: --trust-host-cas, or for all of them in config.toml: \
                  [network] trust_host_cas = true";
    found.remedy = Some(remedy.to_owned());
    found
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

fn disk(home: &Home, settings: DiskSettings) -> Finding {
    // The home may not exist yet; its file system does.
    let report = match DiskReport::at_rest(home, settings) {
        Ok(report) => report,
        Err(error) => return finding("disk", Err((error.to_string(), "is AEGIS_HOME yours?"))),
    };
    let detail = format!("{}; at {}", disk_info(&report).sentence(), home.root.display());
    let enough = report.level == Level::Ample && report.room.free_bytes >> 20 >= LEAST_DISK_MIB;
    let mut found =
        finding("disk", if enough { Ok(detail) } else { Err((detail, "free some, or move AEGIS_HOME")) });
    if enough && report.promised > report.room.free_bytes {
        found.remedy = Some("works; instances that fill the host's disk are paused before it is full".into());
    }
    found
}

/// Whether the name router's port is to be had, or is had by this home's daemon.
fn names(environment: &Environment) -> Finding {
    let Some(address) = environment.names else {
        return finding("names", Ok("instances are not reached by name: [router] listen".to_owned()));
    };
    let of_daemon = match daemon_alive(&environment.home) {
        Ok(DaemonLiveness::Running { pid: Some(pid) }) => Some(format!("(pid {pid})")),
        _ => None,
    };
    let Err(error) = std::net::TcpListener::bind(address) else {
        return finding("names", Ok(format!("{address} is free for the name router")));
    };
    let holder = aegis_router::port_owner(address.port());
    match (holder, of_daemon) {
        (Some(holder), Some(daemon)) if holder.ends_with(&daemon) => {
            finding("names", Ok(format!("the name router listens on {address}")))
        }
        (holder, _) => {
            let holder = holder.unwrap_or_else(|| error.to_string());
            let detail = format!("no routing by name: {address} is not to be had: {holder}");
            let mut found = finding("names", Ok(detail));
            found.remedy =
                Some("works without; choose another port in config.toml: [router] listen".to_owned());
            found
        }
    }
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
