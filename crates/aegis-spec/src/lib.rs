//! What an instance is made of, and the checks of that: data, no I/O.

#![forbid(unsafe_code)]

pub mod environment;
pub mod error;
pub mod exec;
pub mod image;
pub mod instance;
pub mod kit;
pub mod mount;
pub mod network;
#[cfg(any(test, feature = "sample"))]
pub mod sample;
