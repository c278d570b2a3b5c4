//! How the host resolves names, looked at again while it may change.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aegis_instances::resolvers::Resolvers;
use tokio::sync::watch;

/// Where the host says it.
const FILE: &str = "/etc/resolv.conf";
/// Longest text that is read, bytes.
const MOST_TEXT: u64 = 64 << 10;
/// How often the file is looked at: a laptop that moves to another network has its names a little later.
const PERIOD: Duration = Duration::from_secs(5);

/// What the host says now.
pub(crate) fn now() -> Arc<Resolvers> {
    let path = Path::new(FILE);
    let short = std::fs::metadata(path).is_ok_and(|found| found.len() <= MOST_TEXT);
    let text = if short { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
    Arc::new(Resolvers::parse(&text))
}

fn changed_at() -> Option<SystemTime> {
    std::fs::metadata(FILE).ok()?.modified().ok()
}

/// Tells changes. Never returns.
pub(crate) async fn watch(tell: watch::Sender<Arc<Resolvers>>) {
    let mut period = tokio::time::interval(PERIOD);
    let mut seen = changed_at();
    loop {
        period.tick().await;
        let found = changed_at();
        if found != seen {
            seen = found;
            let now = now();
            tell.send_if_modified(|old| std::mem::replace(old, Arc::clone(&now)) != now);
        }
    }
}
