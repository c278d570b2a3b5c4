//! Watches for something in this guest that begins to listen.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use aegis_sys::listening::Listens;
use tokio::io::Interest;
use tokio::sync::watch;

/// How often to look where nothing tells: on a kernel that lacks it, and outside a guest.
const PERIOD: Duration = Duration::from_millis(25);

/// Tells when something may have begun to listen.
#[derive(Debug, Clone, Default)]
pub struct Listening {
    number: Rc<watch::Sender<u64>>,
}

impl Listening {
    /// Begins to watch: by the kernel's word, or, without it, by the clock.
    pub fn begin(&self, listens: Option<Listens>) {
        let number = Rc::clone(&self.number);
        tokio::task::spawn_local(async move {
            if let Some(listens) = listens {
                // Returns only if it cannot be waited for.
                let _unwatched = by_event(&listens, &number).await;
            }
            loop {
                tokio::time::sleep(PERIOD).await;
                number.send_modify(|number| *number += 1);
            }
        });
    }

    /// A number that grows whenever something may have begun to listen.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }
}

async fn by_event(listens: &Listens, number: &watch::Sender<u64>) -> io::Result<()> {
    let ring = aegis_sys::poll::watch(listens.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    loop {
        ring.readable().await?.clear_ready();
        if listens.take() {
            number.send_modify(|number| *number += 1);
        }
    }
}
