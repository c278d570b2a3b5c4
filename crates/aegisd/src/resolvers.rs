//! How the host reaches the world, looked at again while it may change.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aegis_gateway::Proxy;
use aegis_machines::network::resolvers::Resolvers;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::watch;

/// Where the host says who resolves names.
const FILE: &str = "/etc/resolv.conf";
/// Longest text that is read, bytes.
const MOST_TEXT: u64 = 64 << 10;
/// How often the file is looked at: a laptop that moves to another network has its names a little later.
const PERIOD: Duration = Duration::from_secs(5);

/// The host's proxy as its user writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxySettings {
    /// `HOST:PORT`.
    server: String,
    /// `NAME:PASSWORD`.
    credentials: Option<String>,
    /// What is reached directly.
    direct: Vec<String>,
}

impl ProxySettings {
    /// Reads `http://[NAME:PASSWORD@]HOST[:PORT]` and what `NO_PROXY` says; without a proxy there is none.
    ///
    /// # Errors
    /// A sentence, if it is another kind of proxy or no URL.
    pub fn read(url: Option<&str>, direct: Option<&str>) -> Result<Option<ProxySettings>, String> {
        let Some(url) = url.map(str::trim).filter(|url| !url.is_empty()) else { return Ok(None) };
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => {
                return Err(format!("a proxy of the kind {scheme}:// is not supported; use http://"));
            }
            None => url,
        };
        let rest = rest.split('/').next().unwrap_or_default();
        let (credentials, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials.to_owned()), host),
            None => (None, rest),
        };
        if host.is_empty() {
            return Err(format!("{url:?} names no proxy"));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let server = if has_port { host.to_owned() } else { format!("{host}:3128") };
        let direct = direct.unwrap_or_default().split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(Some(ProxySettings { server, credentials, direct: direct.map(str::to_owned).collect() }))
    }

    /// What a gateway is told; the proxy's name is resolved here. Blocks.
    fn proxy(&self) -> Proxy {
        let servers: Vec<SocketAddr> = match self.server.to_socket_addrs() {
            Ok(found) => found.collect(),
            Err(error) => {
                tracing::warn!(server = self.server, %error, "the host's proxy is not found");
                Vec::new()
            }
        };
        let authorization = self.credentials.as_ref().map(|text| format!("Basic {}", STANDARD.encode(text)));
        Proxy { servers, authorization, direct: self.direct.clone() }
    }
}

/// What the host says now. Blocks.
pub(crate) fn now(proxy: Option<&ProxySettings>) -> Arc<Resolvers> {
    let path = Path::new(FILE);
    let short = std::fs::metadata(path).is_ok_and(|found| found.len() <= MOST_TEXT);
    let text = if short { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
    Arc::new(Resolvers { proxy: proxy.map(ProxySettings::proxy), ..Resolvers::parse(&text) })
}

fn changed_at() -> Option<SystemTime> {
    std::fs::metadata(FILE).ok()?.modified().ok()
}

/// Tells changes. Never returns.
pub(crate) async fn watch(tell: watch::Sender<Arc<Resolvers>>, proxy: Option<ProxySettings>) {
    let mut period = tokio::time::interval(PERIOD);
    let mut seen = changed_at();
    loop {
        period.tick().await;
        let found = changed_at();
        if found != seen {
            seen = found;
            let proxy = proxy.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || now(proxy.as_ref())).await else { continue };
            tell.send_if_modified(|old| std::mem::replace(old, Arc::clone(&now)) != now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_written_as_everywhere() {
        let read = |url| ProxySettings::read(Some(url), Some("localhost, .corp.example,10.0.0.0/8"));
        let found = read("http://u:p@127.0.0.1:8080/").unwrap().unwrap();
        assert_eq!((found.server.as_str(), found.direct.len()), ("127.0.0.1:8080", 3));
        let proxy = found.proxy();
        assert_eq!(proxy.servers, ["127.0.0.1:8080".parse().unwrap()]);
        assert_eq!(proxy.authorization.as_deref(), Some("Basic dTpw"));
        assert_eq!(read("proxy.example").unwrap().unwrap().server, "proxy.example:3128");
        assert_eq!(ProxySettings::read(Some(" "), None), Ok(None));
        assert!(read("socks5://x").is_err() && read("http://").is_err());
    }
}
