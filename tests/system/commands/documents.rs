//! What the documents show is what happens.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use aegis_tests::lab::Lab;
use aegis_tests::registry::{Layout, Protection, Registry};
use aegis_tests::{DEADLINE, Daemon, bin};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn generated_documents_are_up_to_date() {
    let help = Command::new(bin().join("aegis")).arg("markdown-help").output().unwrap().stdout;
    let committed = std::fs::read(repository().join("docs/CLI.md")).unwrap();
    assert!(help == committed, "docs/CLI.md is stale: run `make docs`");
    let api = Command::new(bin().join("aegisd")).arg("openapi").output().unwrap().stdout;
    let committed = std::fs::read(repository().join("docs/openapi.json")).unwrap();
    assert!(api == committed, "docs/openapi.json is stale: run `make docs`");
}

/// Commands with their outputs out of fenced `console` blocks. In an output, `…` stands for anything.
fn examples(text: &str) -> Vec<Vec<(String, String)>> {
    let mut blocks = Vec::new();
    let mut inside: Option<Vec<(String, String)>> = None;
    for line in text.lines() {
        match (&mut inside, line) {
            (None, "```console") => inside = Some(Vec::new()),
            (Some(_), "```") => blocks.extend(inside.take()),
            (Some(block), line) => match (line.strip_prefix("$ "), block.last_mut()) {
                (Some(command), _) => block.push((command.to_owned(), String::new())),
                (None, Some((_, output))) => {
                    output.push_str(line);
                    output.push('\n');
                }
                (None, None) => panic!("output before any command: {line}"),
            },
            (None, _) => {}
        }
    }
    blocks
}

fn fits(actual: &str, shown: &str) -> bool {
    let mut rest = actual;
    let parts: Vec<&str> = shown.split('…').collect();
    for (index, part) in parts.iter().enumerate() {
        let found = if index == 0 { rest.starts_with(part).then_some(0) } else { rest.find(part) };
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || shown.trim_end().ends_with('…')
}

/// Whether a command only tells of what has happened, so that it may be asked once more.
fn tells_the_past(command: &str) -> bool {
    let last = command.rsplit("; ").next().unwrap_or(command);
    ["aegis events ", "aegis instance info ", "aegis logs ", "aegis network log "]
        .iter()
        .any(|told| last.starts_with(told))
}

/// The registry that the documents show.
const REGISTRY: &str = "localhost:5000";

/// The document whose commands reach the internet.
const NETWORK: &str = "docs/network.md";

/// A registry with the image that the documents show.
fn registry() -> Registry {
    let (registry, layout) = (Registry::start(Protection::None), Layout::new());
    layout.busybox("1");
    layout.configure("1", &["--config.env=GREETING=hello", "--config.env=PATH=/bin"]);
    registry.push(&layout, "1", "box:1", &[]);
    registry
}

/// An address that nobody has, and that nobody is given who asks for any: those are of another range.
fn free_for_long() -> std::net::SocketAddr {
    let first = 20_000 + u16::try_from(std::process::id() % 5000).unwrap();
    let all = (first..first + 5000).map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port)));
    all.into_iter().find(|address| std::net::TcpListener::bind(address).is_ok()).unwrap()
}

/// A daemon, and the port of its name router as it stands in a URL.
fn daemon_with_router(registry: Option<&Registry>) -> (Daemon, String) {
    let daemon = Daemon::none();
    let free = free_for_long();
    let registry = registry.map(Registry::config).unwrap_or_default();
    let settings = format!("[router]\nlisten = \"{free}\"\n{registry}");
    std::fs::write(daemon.root().join("config.toml"), settings).unwrap();
    daemon.up();
    (daemon, format!(":{}", free.port()))
}

#[test]
fn every_command_and_output_in_the_documents_is_true() {
    for name in [
        "README.md",
        "docs/QUICKSTART.md",
        "docs/AGENT_CONVENTIONS.md",
        "docs/LIFECYCLE.md",
        "docs/SNAPSHOTS.md",
        "docs/ROUTER.md",
        "docs/IMAGES.md",
        "docs/SECRETS.md",
        "docs/WORKSPACES.md",
        "docs/KITS.md",
        NETWORK,
        "docs/TROUBLESHOOTING.md",
    ] {
        let text = std::fs::read_to_string(repository().join(name)).unwrap();
        let blocks = examples(&text);
        if blocks.is_empty() {
            continue;
        }
        let registry = text.contains(REGISTRY).then(registry);
        // What the documents reach on the internet is in a world that is nobody's.
        let mut lab = (name == NETWORK).then(Lab::new);
        let (daemon, router) = match &mut lab {
            Some(lab) => {
                lab.web();
                (Daemon::start_on(lab, ""), String::new())
            }
            None => daemon_with_router(registry.as_ref()),
        };
        // Where a user is who works with it: not in the daemon's home, of which no instance may be shown anything.
        let work = tempfile::tempdir().unwrap();
        for (command, shown) in blocks.into_iter().flatten() {
            // The documents show the usual port of the name router; here it has one of its own.
            let [command, shown] = [command, shown]
                .map(|text| if router.is_empty() { text } else { text.replace(":8099", &router) });
            let names = registry.as_ref().map_or(REGISTRY, |registry| &registry.name);
            let [command, shown] = [command, shown].map(|text| text.replace(REGISTRY, names));
            let path =
                format!("{}:{}", bin().canonicalize().unwrap().display(), std::env::var("PATH").unwrap());
            let run = || {
                let child = Command::new("sh")
                    .args(["-c", &format!("({command}) 2>&1")])
                    .env("AEGIS_HOME", daemon.root())
                    .env("PATH", &path)
                    .current_dir(work.path())
                    .stdin(std::process::Stdio::null())
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                aegis_tests::wait(child, None).out()
            };
            let (begun, mut said) = (Instant::now(), run());
            // What is told of the past may still be on its way to it, on a busy machine.
            while tells_the_past(&command) && !fits(&said, &shown) && begun.elapsed() < DEADLINE {
                said = run();
            }
            assert!(fits(&said, &shown), "{name}: $ {command}\nshown:\n{shown}\nactual:\n{said}");
        }
    }
}
