//! `aegis up`, `down`, `status`, `doctor`.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aegis_api::status::{Finding, Status};
use aegis_client::ClientError;
use aegis_client::daemon::{Liveness, liveness};

use crate::arguments::daemon::{Down, Up};
use crate::arguments::format::OutputFormat;
use crate::failure::{FAILED, Failure};
use crate::{Context, output};

/// How long a daemon may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// After this long, `down` says what it waits for.
const EXPECTED_STOP: Duration = Duration::from_secs(5);
/// How often to look again.
const LOOK: Duration = Duration::from_millis(20);

fn alive(context: &Context) -> Result<Liveness, Failure> {
    liveness(&context.home)
        .map_err(|error| Failure::new(format!("cannot look at {}: {error}", context.home.display())))
}

fn name(pid: Option<u32>) -> String {
    pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
}

/// The daemon's program: beside ours, else in `PATH`.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("aegisd")));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("aegisd"))
}

/// Starts the daemon.
///
/// # Errors
/// If it does not answer.
pub async fn up(context: &Context, arguments: &Up) -> Result<i32, Failure> {
    let wanted = arguments.backend.as_deref();
    let begun = Instant::now();
    // Whoever holds the home may be on its way in or out.
    while let Liveness::Alive(pid) = alive(context)? {
        if let Ok(status) = context.client().status().await {
            warn(&status);
            if let Some(wanted) = wanted.filter(|wanted| ![status.backend.as_str(), "auto"].contains(wanted))
            {
                let text = format!("aegisd is already running ({}), with {}", name(pid), status.backend);
                let hint = format!("restart it: aegis down --keep-instances && aegis up --backend {wanted}");
                return Err(Failure { hint: Some(hint), ..Failure::new(text) });
            }
            return output::line(format!("aegisd is already running ({})", name(pid)));
        }
        if begun.elapsed() > START_TIMEOUT {
            return Err(Failure::new(format!("aegisd ({}) runs and does not answer", name(pid))));
        }
        tokio::time::sleep(LOOK).await;
    }
    let log = context.home.join("data/aegisd.log");
    let mut child =
        spawn(&log, wanted).map_err(|error| Failure::new(format!("cannot start aegisd: {error}")))?;
    let begun = Instant::now();
    loop {
        if let Ok(status) = context.client().status().await {
            warn(&status);
            return output::line(format!("aegisd started (pid {})", status.pid));
        }
        if let Ok(Some(status)) = child.try_wait() {
            let text =
                format!("aegisd ended at once ({status}); its log ends with:\n{}", last_lines(&log, 5));
            return Err(Failure::new(text));
        }
        if begun.elapsed() > START_TIMEOUT {
            return Err(Failure::new(format!("aegisd does not answer; see {}", log.display())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn warn(status: &Status) {
    for warning in &status.warnings {
        output::say(&format!("warning: {warning}"));
    }
}

/// Refuses a home that is somebody else's, before anything is made there: the daemon would refuse it, too, but only then.
fn check_home(data: &Path) -> std::io::Result<()> {
    let foreign = match (aegis_paths::foreign_link(data)?, data.parent()) {
        (None, Some(home)) => aegis_paths::foreign_part(home)?,
        (link, _) => link,
    };
    let Some((path, uid)) = foreign else { return Ok(()) };
    let text = format!("{} belongs to another user (uid {uid})", path.display());
    Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, text))
}

fn spawn(log: &Path, backend: Option<&str>) -> std::io::Result<Child> {
    if let Some(data) = log.parent() {
        check_home(data)?;
        DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    }
    let log = match File::options().append(true).create(true).open(log) {
        // The daemon itself can make room, and does not need this for it.
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            File::options().write(true).open("/dev/null")?
        }
        opened => opened?,
    };
    let mut command = Command::new(program());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/").process_group(0);
    if let Some(backend) = backend {
        command.env("AEGIS_BACKEND", backend);
    }
    command.spawn()
}

fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(count))
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Stops the daemon.
///
/// # Errors
/// If it cannot be told to.
pub async fn down(context: &Context, arguments: &Down) -> Result<i32, Failure> {
    let Liveness::Alive(pid) = alive(context)? else { return output::line("aegisd is not running") };
    let stopping = match context.client().shutdown(arguments.keep_instances).await {
        Ok(reply) => reply.stopping,
        Err(ClientError::Api(error)) => return Err(error.into()),
        Err(error) if arguments.keep_instances => return Err(error.into()),
        Err(_) => {
            // It does not answer; a signal says the same.
            let target = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
            let target =
                target.ok_or_else(|| Failure::new("aegisd does not answer, and its pid is unknown"))?;
            rustix::process::kill_process(target, rustix::process::Signal::TERM)
                .map_err(|error| Failure::new(format!("cannot stop aegisd: {error}")))?;
            Vec::new()
        }
    };
    output::line(format!("aegisd stopping ({})", name(pid)))?;
    let begun = Instant::now();
    let mut told = false;
    while alive(context)? != Liveness::Dead {
        if begun.elapsed() > EXPECTED_STOP && !told {
            told = true;
            let names = if stopping.is_empty() { "its last clients".to_owned() } else { stopping.join(", ") };
            output::line(format!("waiting for: {names}"))?;
        }
        tokio::time::sleep(LOOK).await;
    }
    output::line("aegisd stopped")
}

/// Shows whether the daemon runs, and on what.
///
/// # Errors
/// If it runs and does not answer.
pub async fn status(context: &Context, format: OutputFormat) -> Result<i32, Failure> {
    if alive(context)? == Liveness::Dead {
        return match format {
            OutputFormat::Text => output::line("aegisd: not running"),
            OutputFormat::Json => output::line("{\"status\": \"not running\"}"),
        };
    }
    let status = context.client().status().await?;
    match format {
        OutputFormat::Text => output::line(describe(&status)),
        OutputFormat::Json => output::json(&status),
    }
}

fn describe(status: &Status) -> String {
    let Status { backend, version, pid, home, capabilities, instances, disk, warnings, .. } = status;
    let warnings: String = warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect();
    let (accelerator, reason) = (&capabilities.accelerator, &capabilities.accelerator_reason);
    let (live, total) = (instances.live, instances.total);
    format!(
        "aegisd: running\nbackend: {backend}\naccelerator: {accelerator} ({reason})\nversion: {version}\n\
         pid: {pid}\nhome: {home}\ninstances: {live} with a machine, {total} in all{}{warnings}",
        disk.as_ref().map(|disk| format!("\ndisk: {}", disk.sentence())).unwrap_or_default()
    )
}

/// Looks whether this machine has what Aegis needs. The daemon's program knows, and need not run for it.
///
/// # Errors
/// If the program cannot be run.
pub fn doctor(context: &Context, format: OutputFormat) -> Result<i32, Failure> {
    let examined = Command::new(program())
        .args(["doctor", "--output", "json"])
        .env("AEGIS_HOME", &context.home)
        .stdin(Stdio::null())
        .output();
    let examined = examined.map_err(|error| {
        let hint = Some("build it with: make aegisd".to_owned());
        Failure { hint, ..Failure::new(format!("cannot run {}: {error}", program().display())) }
    })?;
    let findings: Vec<Finding> = serde_json::from_slice(&examined.stdout)
        .map_err(|_| Failure::new(String::from_utf8_lossy(&examined.stderr).trim().to_owned()))?;
    match format {
        OutputFormat::Json => output::json(&findings)?,
        OutputFormat::Text => output::line(report(&findings))?,
    };
    Ok(if findings.iter().all(|finding| finding.ok) { 0 } else { FAILED })
}

fn report(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|finding| {
        let mark = if finding.ok { "ok" } else { "!!" };
        let remedy =
            finding.remedy.as_ref().map(|remedy| format!("\n    {:<12} {remedy}", "")).unwrap_or_default();
        format!("{mark}  {:<12} {}{remedy}", finding.name, finding.detail)
    });
    lines.collect::<Vec<_>>().join("\n")
}
