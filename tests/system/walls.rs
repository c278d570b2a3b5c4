//! What holds a guest, and what it can use up.

mod control_groups;
mod full_disk;
mod isolation;
mod limits;
mod secrets;
mod takeover;
