//! The machines of instances, from boot to teardown, and what goes with each of them.

pub(crate) mod boot;
pub(crate) mod files;
pub(crate) mod helper;
pub(crate) mod live;
pub mod session;
pub(crate) mod teardown;
pub mod timings;
pub mod upkeep;
