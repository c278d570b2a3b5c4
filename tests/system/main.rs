//! The whole system: real daemon, real client, real machines. Each test has a daemon in a home of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod aarch64;
mod bounds;
mod cleanliness;
mod clients;
mod commands;
mod control_groups;
mod copies;
mod crashes;
mod differential;
mod documents;
mod events;
mod fake;
mod forks;
mod full_disk;
mod groups;
mod hibernation;
mod images;
mod isolation;
mod kits;
mod lifecycle;
mod living_copies;
mod logs;
mod measures;
mod named_directories;
mod names;
mod network;
mod ports;
mod recognition;
mod resting;
mod restoring;
mod run;
mod secrets;
mod snapshots;
mod spares;
mod standing;
mod storm;
mod streams;
mod takeover;
mod templates;
mod terminals;
mod traffic;
mod workspace_tools;
mod workspaces;
