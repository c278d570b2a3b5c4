//! A registry as this crate needs it: manifests and blobs, read.
//!
//! Written on an HTTP client and not taken from the crate `oci-client`, which reads manifests of any length into memory and
//! does not tell how long a registry asks to be left alone.

pub(crate) mod auth;
mod credentials;
mod failure;
mod plain_http;
mod repository;
mod response_body;

pub(crate) use failure::{RequestFailure, RetryPolicy};
pub(crate) use repository::Repository;
