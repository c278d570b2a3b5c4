//! What commands print and return, and what documents say of them.

mod daemon_commands;
mod documents;
mod logs;
mod metrics;
mod run;
mod streams;
mod terminals;
