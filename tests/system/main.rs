//! The whole system: real daemon, real client, real machines. Each test has a daemon in a home of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod commands;
mod files;
mod lifecycle;
mod network;
mod walls;
mod workloads;
