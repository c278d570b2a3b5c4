//! When something begins to listen.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

/// How often to look where no event tells.
const PERIOD: Duration = Duration::from_millis(25);

/// Tells when something may have begun to listen.
#[derive(Debug, Clone)]
pub struct Listening {
    number: Rc<watch::Sender<u64>>,
}

impl Listening {
    /// Begins to watch.
    #[must_use]
    pub fn start() -> Listening {
        let listening = Listening { number: Rc::new(watch::Sender::new(0)) };
        let number = Rc::clone(&listening.number);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(PERIOD).await;
                number.send_modify(|number| *number += 1);
            }
        });
        listening
    }

    /// A number that grows whenever something may have begun to listen.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }
}
