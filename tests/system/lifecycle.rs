//! What happens to instances over their lives.

pub(crate) mod clients;
mod crashes;
mod events;
mod fake_monitor;
mod forks;
mod hibernation;
pub(crate) mod idle;
mod leaks;
mod old_home;
mod paused_connections;
mod restore;
mod snapshots;
mod states;
mod storm;
pub(crate) mod templates;
mod warm_pool;
