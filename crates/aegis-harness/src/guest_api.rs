//! The API socket in the guest, on which its programs speak to their own instance.

use std::cell::RefCell;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::keepalive::{self, Held, KeepAwakeRequest, LONGEST_REQUEST};

/// Most connections at a time.
const MOST_CONNECTIONS: usize = 16;
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Says to the host what a program of the guest wants: a lease of so many milliseconds, and why; or none any more.
pub type Tell = Rc<dyn Fn(Option<(u64, String)>)>;

/// The lease that the guest holds.
#[derive(Debug, Default)]
struct Lease {
    until: Option<Instant>,
    reason: String,
}

impl Lease {
    fn held(&self) -> Held {
        let remaining = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        let remaining_ms = remaining.map_or(0, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        Held { remaining_ms, reason: if remaining_ms > 0 { self.reason.clone() } else { String::new() } }
    }
}

/// Listens at `path`, for every user of the guest.
///
/// # Errors
/// The system's.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves until the end of time.
pub async fn serve(listener: UnixListener, tell: Tell) {
    let (lease, room) = (Rc::new(RefCell::new(Lease::default())), Arc::new(Semaphore::new(MOST_CONNECTIONS)));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((client, _)) = listener.accept().await else {
            // For want of descriptors; nothing tells when there are some again.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (lease, tell) = (Rc::clone(&lease), Rc::clone(&tell));
        tokio::task::spawn_local(async move {
            // A client that is too slow, or has gone, is nobody to tell.
            let _late = tokio::time::timeout(REQUEST_TIMEOUT, answer(client, &lease, &tell)).await;
            drop(permit);
        });
    }
}

async fn answer(mut client: UnixStream, lease: &RefCell<Lease>, tell: &Tell) -> io::Result<()> {
    let mut bytes = Vec::new();
    let asked = loop {
        match keepalive::parse(&bytes) {
            Ok(None) => {}
            Ok(Some(ask)) => break Ok(ask),
            Err(refusal) => break Err(refusal),
        }
        let mut part = [0; 4096];
        let count = client.read(&mut part).await?;
        if count == 0 || bytes.len() > LONGEST_REQUEST {
            return Ok(());
        }
        bytes.extend_from_slice(part.get(..count).unwrap_or_default());
    };
    let reply = match asked {
        Ok(ask) => keepalive::reply(Ok(&obey(ask, lease, tell))),
        Err(refusal) => keepalive::reply(Err(&refusal)),
    };
    client.write_all(&reply).await?;
    client.shutdown().await
}

fn obey(ask: KeepAwakeRequest, lease: &RefCell<Lease>, tell: &Tell) -> Held {
    match ask {
        KeepAwakeRequest::Keep(ttl_ms, reason) => {
            let until = Instant::now().checked_add(Duration::from_millis(ttl_ms));
            *lease.borrow_mut() = Lease { until, reason: reason.clone() };
            tell(Some((ttl_ms, reason)));
        }
        KeepAwakeRequest::Release => {
            *lease.borrow_mut() = Lease::default();
            tell(None);
        }
        KeepAwakeRequest::Tell => {}
    }
    lease.borrow().held()
}
