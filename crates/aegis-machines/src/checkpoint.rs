//! Machines that stand still: kept to go on later, to start others from, to be copied.

pub mod capture;
pub mod clone_start;
pub mod hibernation;
pub mod memory_file;
pub mod snapshot_store;
pub mod template_store;
