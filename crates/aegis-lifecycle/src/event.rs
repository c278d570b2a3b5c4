//! Events and requests that the state machine takes, and its replies.

use crate::stop_reason::StopReason;

/// Somebody who waits for the outcome of a request.
pub type Waiter = u64;
/// How often the instance has been booted: tells late news of an earlier boot from news of this one.
pub type Boot = u32;

/// What a waiter gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is as wanted.
    Done,
    /// It was running or starting already.
    AlreadyRunning,
    /// It is stopped, so this cannot be done.
    Stopped,
    /// It is disabled, so this cannot be done.
    Disabled,
    /// It is being removed.
    Removed,
    /// Its lifetime is over.
    LifetimeOver,
    /// The daemon ends, and starts nothing any more.
    DaemonShutdown,
    /// It came to an end before it was as wanted.
    Failed(StopReason),
    /// The host's disk has no room for it.
    NoRoom(String),
    /// Its disk is not replaced; why.
    NotReplaced(String),
    /// The machine refused to pause.
    Refused(String),
}

/// What is asked of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Run, from any rest.
    Start,
    /// Be running; booted for it only if it was idleness that stopped it.
    Ensure,
    /// Be running, booted for it unless it is disabled.
    Wake,
    /// The same for whoever came while it ran, or was woken before: not if somebody has asked for its end since.
    WakeUnlessStopped,
    /// Run, for a connection that leads to its machine: go on if that stands still, and never boot.
    ResumeForTraffic,
    /// Have its disk replaced, stopped for that, and run afterwards or stay stopped.
    Replace {
        /// Whether it runs.
        runs: bool,
    },
    /// Stand still.
    Pause,
    /// Stand still on disk.
    Hibernate,
    /// Go on.
    Resume,
    /// Power off, staying enabled.
    Stop,
    /// Power off because the daemon ends, and not be booted by it again.
    DaemonShutdown,
    /// Power off because the time is up.
    TimeUp,
    /// Power off, and never be started implicitly.
    Disable,
    /// Power off for good, because its lifetime is over.
    LifetimeOver,
    /// Power off and start.
    Restart,
    /// Cease to exist.
    Delete,
    /// Cease to exist if it is stopped at this very moment; otherwise nothing.
    Prune,
}

/// What happens to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants something.
    Requested(Request, Waiter),
    /// The command has been executed.
    Booted(Boot),
    /// The machine did not come up, or the command could not be executed.
    BootFailed(Boot, StopReason),
    /// The machine, which was to go on where another one stood, did not; it is to boot.
    CloneFailed(Boot),
    /// The machine was asked to pause; the error if it did not.
    PauseEnded(Boot, Result<(), String>),
    /// The machine was asked to go on; the error if it did not.
    ResumeEnded(Boot, Result<(), String>),
    /// The machine was to be put on disk; the error if it was not, and still stands there.
    HibernateEnded(Boot, Result<(), String>),
    /// The machine was to be made again from what is on disk; the error if that cannot be, and nothing is left of it.
    WakeEnded(Boot, Result<(), String>),
    /// The command ended, and all its output is here.
    Exited(Boot, StopReason, ShutdownMode),
    /// The machine ended by itself.
    Died(Boot, StopReason),
    /// Nothing is left of the machine.
    TornDown(Boot),
    /// Its disk has been replaced; or has not, and why.
    Replaced(Result<(), String>),
    /// Somebody does not wait any more for what he asked for.
    WaiterGone(Waiter),
    /// It is stopped, everybody has seen that, and what was wanted meanwhile may begin.
    Continue,
    /// Nothing is left of the instance.
    Removed,
    /// It is time to execute a command again that ended by itself.
    RestartDue,
    /// Nobody has used it for so long that it is to rest. The caller has made sure that nobody does at this moment.
    Idle(SleepLevel),
    /// The host's disk is full, and this instance takes more and more of it.
    HostDiskFull,
    /// The host's disk has room again.
    HostDiskHasRoom,
}

/// Where idleness leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleepLevel {
    /// Stand still.
    Pause,
    /// Stand still on disk.
    Hibernate,
    /// Power off, to be booted by whoever comes next.
    Stop,
}

/// The state that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No machine.
    Stopped,
    /// The machine boots.
    Starting,
    /// The command has been executed.
    Running,
    /// The machine stands still.
    Paused,
    /// The machine is on disk.
    Hibernated,
}

/// How a machine is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// The guest ends its processes and saves its files.
    Graceful,
    /// The plug is pulled.
    Immediate,
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Hibernated => "hibernated",
        }
    }
}
