//! Hosts that a registry may lead to without encryption.

use reqwest::Url;

use crate::settings::Settings;

/// Where requests may go without encryption: to the host of a registry that is spoken to so, and to others of which the user
/// has said it. What such a registry names itself, in a challenge or a redirection, could otherwise be any service that this
/// host reaches.
#[derive(Clone, Debug, Default)]
pub(super) struct PlainHttpHosts(Vec<String>);

impl PlainHttpHosts {
    pub(super) fn of(registry: &str, settings: &Settings) -> PlainHttpHosts {
        let is_plain = |name: &str| settings.registries.get(name).is_some_and(|own| own.plain_http);
        if !is_plain(registry) {
            return PlainHttpHosts::default();
        }
        // A server for tokens may be beside it, at another port.
        let own = host(registry).to_owned();
        let others = settings.registries.keys().filter(|name| is_plain(name)).cloned();
        PlainHttpHosts([own].into_iter().chain(others).collect())
    }

    /// Whether a place may be asked.
    pub(super) fn allow(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        let named = |place: &String| {
            place.eq_ignore_ascii_case(host)
                || with_port.as_ref().is_some_and(|one| one.eq_ignore_ascii_case(place))
        };
        url.scheme() == "https" || (url.scheme() == "http" && self.0.iter().any(named))
    }
}

/// The host of `HOST[:PORT]`.
fn host(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::RegistrySettings;

    #[test]
    fn a_registry_without_encryption_leads_to_no_other_service_without_it() {
        let plain = RegistrySettings { plain_http: true, ca: None };
        let mut settings = Settings::for_architecture("amd64");
        for name in ["reg.lan:5000", "[fd00::1]:5000", "auth.lan", "other.lan:81"] {
            settings.registries.insert(name.to_owned(), plain.clone());
        }
        let allowed = |registry: &str, url: &str| {
            PlainHttpHosts::of(registry, &settings).allow(&Url::parse(url).unwrap())
        };
        for url in [
            "http://reg.lan:5000/v2/",
            "http://reg.lan:5001/token",
            "http://REG.lan/token",
            "http://auth.lan/token",
            "http://other.lan:81/blob",
            "https://cdn.example/blob",
        ] {
            assert!(allowed("reg.lan:5000", url), "{url}");
        }
        for url in [
            "http://127.0.0.1:2375/containers/json",
            "http://localhost/",
            "http://169.254.169.254/latest/",
            "http://[::1]:80/",
            "http://reg.lan.evil/",
            "http://other.lan:82/",
            "http://auth.lan@127.0.0.1/",
            "ftp://reg.lan:5000/",
        ] {
            assert!(!allowed("reg.lan:5000", url), "{url}");
        }
        assert!(allowed("[fd00::1]:5000", "http://[fd00::1]:5001/token"));
        assert!(!allowed("docker.io", "http://reg.lan:5000/"), "encrypted itself");
    }
}
