//! The name router: one HTTP port for all instances, told apart by host or header.

mod admission;
mod body;
mod connection_limits;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod host;
mod name_router;
mod pool;
mod proxy;
mod request;
mod responses;
mod shared;

pub use admission::Admission;
pub use name_router::NameRouter;
