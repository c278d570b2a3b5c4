//! What is said to a lifecycle, and what it answers.

use crate::reason::StopReason;

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
    LifeOver,
    /// The daemon ends, and starts nothing any more.
    DaemonEnds,
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
    WakeAgain,
    /// Run, for a connection that leads to its machine: go on if that stands still, and never boot.
    GoOn,
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
    DaemonStop,
    /// Power off because the time is up.
    TimeUp,
    /// Power off, and never be started implicitly.
    Disable,
    /// Power off for good, because its lifetime is over.
    LifeOver,
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
    Wanted(Request, Waiter),
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
    Exited(Boot, StopReason, Manner),
    /// The machine ended by itself.
    Died(Boot, StopReason),
    /// Nothing is left of the machine.
    TornDown(Boot),
    /// Its disk has been replaced; or has not, and why.
    Replaced(Result<(), String>),
    /// Somebody does not wait any more for what he asked for.
    GaveUp(Waiter),
    /// It is stopped, everybody has seen that, and what was wanted meanwhile may begin.
    Next,
    /// Nothing is left of the instance.
    Removed,
    /// It is time to execute a command again that ended by itself.
    Again,
    /// Nobody has used it for so long that it is to rest. The caller has made sure that nobody does at this moment.
    Idle(Rung),
    /// The host's disk is full, and this instance takes more and more of it.
    HostFull,
    /// The host's disk has room again.
    HostHasRoom,
}

/// Where idleness leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Stand still.
    Pause,
    /// Stand still on disk.
    Hibernate,
    /// Power off, to be booted by whoever comes next.
    Stop,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make a machine and execute the command in it.
    Boot(Boot),
    /// End the machine and clear up after it: with a proper shutdown of the guest first, or at once. A second one
    /// for the same boot makes a proper one hurry.
    TearDown(Boot, Manner),
    /// Pause the machine.
    Pause(Boot),
    /// Resume the machine.
    Resume(Boot),
    /// Put the machine, which stands still, on disk, and end it.
    Hibernate(Boot),
    /// Make the machine again from what is on disk, and let it go on.
    Wake(Boot),
    /// Replace its disk by what this one has brought, if he still wants it.
    Replace(Waiter),
    /// Remove all that is stored of the instance.
    Remove,
    /// Feed [`Event::Next`] back, as soon as it is known that it is stopped.
    Next,
    /// Tell a waiter.
    Reply(Waiter, Reply),
}

/// How a machine is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// The guest ends its processes and saves its files.
    Graceful,
    /// The plug is pulled.
    AtOnce,
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
