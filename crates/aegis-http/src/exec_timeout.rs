//! How long a process of `exec` may take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_api::instance::StopReason;
use aegis_guest_protocol::messages::{Signal, Target};
use aegis_machines::session::Session;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// Exit code of a process whose time was up, as of `timeout(1)`.
pub(crate) const TIMED_OUT: i32 = 124;
/// How long a process whose time is up may take to end after SIGTERM.
const KILL_AFTER: Duration = Duration::from_secs(5);
/// How long its guest may take, after SIGKILL, to tell that it has ended. A guest that is stuck never does.
const GIVE_UP_AFTER: Duration = Duration::from_secs(2);

/// What there is to say when a process's time is up.
pub(crate) const TIME_WAS_UP: &str = "the command's time was up";

pub(crate) fn time_was_up() -> StopReason {
    StopReason { code: "timeout".to_owned(), message: TIME_WAS_UP.to_owned(), console: Vec::new() }
}

/// The time after which nobody waits for a process that has so much.
pub(crate) fn until_given_up(timeout: Option<Duration>) -> Duration {
    timeout.map_or(Duration::MAX, |timeout| timeout.saturating_add(KILL_AFTER + GIVE_UP_AFTER))
}

/// The time that a process has. It is asked to end, then killed, then given up: a guest that is stuck, or does not want
/// to, prevents none of that.
pub(crate) struct Limit {
    over_at: Option<Instant>,
    /// Ends the process through its guest, also when nobody waits for it any more.
    end: Option<AbortHandle>,
}

impl Limit {
    pub(crate) fn begin(
        owner: &TaskTracker,
        session: Arc<Session>,
        target: Target,
        after: Option<Duration>,
    ) -> Limit {
        // A time beyond what the clock can tell is no limit.
        let over_at = after.and_then(|after| Instant::now().checked_add(after));
        let end = over_at.map(|at| owner.spawn(end_process(session, target, at)).abort_handle());
        Limit { over_at, end }
    }

    /// The process has ended.
    pub(crate) fn settled(&self) {
        self.end.iter().for_each(AbortHandle::abort);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over_at.is_some_and(|at| at <= Instant::now())
    }

    /// Completes when nobody waits for the guest any more.
    pub(crate) async fn given_up(&self) {
        match self.over_at {
            Some(at) => tokio::time::sleep_until((at + KILL_AFTER + GIVE_UP_AFTER).into()).await,
            None => std::future::pending().await,
        }
    }
}

async fn end_process(session: Arc<Session>, target: Target, at: Instant) {
    tokio::select! {
        () = tokio::time::sleep_until(at.into()) => {}
        // Its guest is gone, or spoken to anew, by somebody who waits for nothing of this.
        () = session.link().closed() => return,
    }
    let signal = async |signal| drop(session.link().call(&Signal { target, signal }).await);
    // The second is not kept from being sent by a guest that does not answer the first.
    tokio::join!(signal(15), async {
        tokio::time::sleep(KILL_AFTER).await;
        signal(9).await;
    });
}
