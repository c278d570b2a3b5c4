//! What the state machine wants done.

use crate::event::{Boot, Reply, ShutdownMode, Waiter};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make a machine and execute the command in it.
    Boot(Boot),
    /// End the machine and clear up after it: with a proper shutdown of the guest first, or at once. A second one
    /// for the same boot makes a proper one hurry.
    TearDown(Boot, ShutdownMode),
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
    /// Feed [`Event::Continue`] back, as soon as it is known that it is stopped.
    Continue,
    /// Tell a waiter.
    Reply(Waiter, Reply),
}
