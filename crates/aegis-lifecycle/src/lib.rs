//! What happens to an instance and when: the state machine, the idle policy, the restart policy, the reasons of a stop.
//!
//! Pure functions and data: no I/O, no clock, no runtime. Whoever calls them says what time it is and does what they decide.

#![forbid(unsafe_code)]

pub mod effect;
pub mod event;
pub mod idle_policy;
pub mod restart_policy;
pub mod state_machine;
pub mod stop_reason;
