//! Standing still because the host's disk is full.
//!
//! A machine that is held is paused, and goes on when somebody wants it to and there is room again, not before: with
//! what it writes it would take the room that is left for deleting things. It loses nothing meanwhile.

use super::{Lifecycle, Phase};
use crate::effect::Effect;
use crate::event::{Reply, Waiter};

/// What those are told who come to use one.
const FULL: &str = "the instance is paused, because the host's disk is full";

impl Lifecycle {
    /// Whether it stands still, or is about to, until the host's disk has room.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The same for one that was found standing still.
    #[must_use]
    pub fn held(self) -> Lifecycle {
        Lifecycle { held: self.phase == Phase::Paused, ..self }
    }

    /// The disk is full, and this one takes more and more of it.
    pub(super) fn host_full(&mut self, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Running => {
                self.held = true;
                self.begin_pause(out);
            }
            Phase::Pausing => self.held = true,
            // One that is on its way to run or to an end is looked at again when it is there.
            _ => {}
        }
    }

    /// Whether somebody who wants it to go on has to be refused, and has been.
    pub(super) fn refused_while_held(&self, waiter: Waiter, out: &mut Vec<Effect>) -> bool {
        let refused = self.held && self.phase == Phase::Paused;
        if refused {
            out.push(Effect::Reply(waiter, Reply::NoRoom(FULL.to_owned())));
        }
        refused
    }

    /// It is paused and held: those who want it running do not get that now.
    pub(super) fn refuse_all_while_held(&mut self, out: &mut Vec<Effect>) {
        if self.held {
            super::reply(&mut self.for_running, &Reply::NoRoom(FULL.to_owned()), out);
            super::reply(&mut self.for_going_on, &Reply::NoRoom(FULL.to_owned()), out);
        }
    }
}
