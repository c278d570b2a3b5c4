//! What a kit's manifest says about instances that leave it to the kit.

use aegis_api::network::NetworkRequest;
use aegis_api::ports::{self as notation, Expose};
use aegis_api::{duration, size};
use aegis_guest_protocol::argument::Argument;
use aegis_instances::ports::PortRequest;
use aegis_kits::manifest::Manifest;
use aegis_lifecycle::idle_policy::{After, IdleSpec};
use aegis_spec::instance::ALL_SECRETS;
use aegis_spec::kit::KitUse;
use aegis_store::secrets::names;

use crate::error::EngineError;
use crate::network_choice::NetworkChoice;
use crate::new_instance::NewInstance;

/// A port as the engine asks for it.
#[must_use]
pub fn port_request(expose: &Expose) -> PortRequest {
    PortRequest {
        guest_port: expose.guest_port,
        public_port: expose.public_port,
        address: expose.address(),
        protocol: expose.protocol.to_string(),
    }
}

fn idle(text: Option<&String>) -> Result<Option<After>, String> {
    match text.map(String::as_str) {
        None => Ok(None),
        Some("never") => Ok(Some(After::Never)),
        Some(text) => {
            let ms = duration::parse_ms(text).map_err(|error| format!("idle: {text:?}: {error}"))?;
            Ok(Some(After::Ms(ms)))
        }
    }
}

fn mebibytes(what: &str, text: Option<&String>) -> Result<Option<u64>, String> {
    let parsed = text.map(|text| size::mebibytes(text).map_err(|error| format!("limits: {what}: {error}")));
    parsed.transpose()
}

/// The ports, the one that names reach before the other HTTP ports.
fn ports(manifest: &Manifest) -> Result<Vec<PortRequest>, String> {
    let mut all: Vec<Expose> = Vec::new();
    for text in &manifest.ports {
        all.extend(notation::parse(text).map_err(|error| format!("ports: {text:?}: {error}"))?);
    }
    if let Some(port) = manifest.http_port {
        let at = all.iter().position(|one| one.guest_port == port && one.protocol.is_http());
        let at = at.ok_or_else(|| format!("http_port: {port} is no HTTP port of ports"))?;
        let first = all.remove(at);
        all.insert(0, first);
    }
    Ok(all.iter().map(port_request).collect())
}

/// What it may reach.
fn network(manifest: &Manifest) -> Result<Option<NetworkChoice>, String> {
    let Some(value) = &manifest.network else { return Ok(None) };
    let told = |error: &dyn std::fmt::Display| format!("network: {error}");
    let request: NetworkRequest = serde_json::from_value(value.clone()).map_err(|error| told(&error))?;
    NetworkChoice::try_from(&request).map(Some).map_err(|error| told(&error))
}

/// The request that a manifest stands for.
///
/// # Errors
/// What in it means nothing, as a sentence.
pub fn defaults(manifest: &Manifest) -> Result<NewInstance, String> {
    if let Some(problem) = manifest.secret_names().find_map(|name| names::refusal(name)) {
        return Err(format!("secrets: {problem}"));
    }
    let memory = mebibytes("memory", manifest.limits.memory.as_ref())?;
    let memory = memory.map(u32::try_from).transpose().map_err(|_| "limits: memory is too large")?;
    Ok(NewInstance {
        command: manifest.command.iter().map(|word| Argument::from(word.as_str())).collect(),
        image: manifest.image.clone(),
        workdir: manifest.workdir.clone(),
        user: manifest.user.clone(),
        ports: ports(manifest)?,
        memory_mib: memory,
        vcpus: manifest.limits.cpus,
        disk_mib: mebibytes("disk", manifest.limits.disk.as_ref())?,
        idle: IdleSpec {
            pause: idle(manifest.idle.pause.as_ref())?,
            hibernate: idle(manifest.idle.hibernate.as_ref())?,
            stop: idle(manifest.idle.stop.as_ref())?,
            connections: idle(manifest.idle.connections_after.as_ref())?,
        },
        network: network(manifest)?,
        ..NewInstance::default()
    })
}

/// Fills in what a request leaves to its kit.
///
/// # Errors
/// What the kit wants and the request does not give.
pub fn apply(manifest: &Manifest, request: NewInstance) -> Result<(NewInstance, KitUse), EngineError> {
    let given = |name: &String| request.secrets.iter().any(|secret| secret == name || secret == ALL_SECRETS);
    if let Some(secret) = manifest.secrets.required.iter().find(|name| !given(name)) {
        let (kit, secret) = (manifest.name.clone(), secret.clone());
        return Err(EngineError::KitNeedsSecret { kit, secret });
    }
    let kit = defaults(manifest).map_err(EngineError::Invalid)?;
    let (own, idle) = (request.idle, kit.idle);
    let filled = NewInstance {
        command: if request.command.is_empty() { kit.command } else { request.command },
        ports: if request.ports.is_empty() { kit.ports } else { request.ports },
        image: request.image.or(kit.image),
        workdir: request.workdir.or(kit.workdir),
        user: request.user.or(kit.user),
        network: request.network.or(kit.network),
        memory_mib: request.memory_mib.or(kit.memory_mib),
        vcpus: request.vcpus.or(kit.vcpus),
        disk_mib: request.disk_mib.or(kit.disk_mib),
        idle: IdleSpec {
            pause: own.pause.or(idle.pause),
            hibernate: own.hibernate.or(idle.hibernate),
            stop: own.stop.or(idle.stop),
            connections: own.connections.or(idle.connections),
        },
        ..request
    };
    let used = KitUse {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        env: manifest.env.clone(),
        validate_config: manifest.hooks.validate_config.clone(),
        render_env: manifest.hooks.render_env.clone(),
    };
    Ok((filled, used))
}

#[cfg(test)]
mod tests {
    use aegis_kits::manifest::Format;

    use super::*;

    fn manifest(more: &str) -> Manifest {
        let text = format!(
            "name = \"k\"\ncommand = [\"serve\"]\nimage = \"i\"\nports = [\"9/tcp\", \"80\", \"81\"]\n{more}"
        );
        Manifest::parse(&text, Format::Toml).unwrap()
    }

    #[test]
    fn what_the_user_says_wins_over_the_kit() {
        let more = "http_port = 81\n[limits]\nmemory = \"1g\"\ncpus = 2\n[idle]\npause = \"never\"";
        let (bare, _) = apply(&manifest(more), NewInstance::default()).unwrap();
        assert_eq!(
            (bare.command, bare.memory_mib, bare.vcpus),
            (vec![Argument::from("serve")], Some(1024), Some(2))
        );
        assert_eq!(bare.ports.iter().map(|one| one.guest_port).collect::<Vec<_>>(), [81, 9, 80]);
        assert_eq!(bare.idle.pause, Some(After::Never));
        let own = NewInstance {
            command: vec!["own".into()],
            memory_mib: Some(64),
            image: Some("mine".into()),
            ports: notation::parse("7").unwrap().iter().map(port_request).collect(),
            ..NewInstance::default()
        };
        let (filled, _) = apply(&manifest(more), own.clone()).unwrap();
        assert_eq!(filled, NewInstance { vcpus: Some(2), idle: bare.idle, ..own });
    }

    #[test]
    fn a_required_secret_has_to_be_given() {
        let kit = manifest("[secrets]\nrequired = [\"KEY\"]");
        assert!(apply(&kit, NewInstance::default()).unwrap_err().to_string().contains("KEY"));
        for name in ["KEY", ALL_SECRETS] {
            let given = NewInstance { secrets: vec![name.to_owned()], ..NewInstance::default() };
            assert!(apply(&kit, given).is_ok());
        }
    }

    #[test]
    fn what_means_nothing_is_told() {
        for (more, words) in [
            ("http_port = 9", "http_port"),
            ("[limits]\nmemory = \"much\"", "memory"),
            ("[idle]\nstop = \"soon\"", "idle"),
            ("[secrets]\noptional = [\"LD_PRELOAD\"]", "secrets"),
            ("[network]\ngroups = [\"localhost\"]", "group"),
        ] {
            assert!(defaults(&manifest(more)).unwrap_err().contains(words), "{more}");
        }
    }
}
