//! What instances reach, who reaches them, and by which names.

mod developer_tools;
mod differential;
mod groups;
mod host_proxy;
mod load;
mod name_inspection;
mod name_router;
pub(crate) mod policy;
pub(crate) mod ports;
mod transparency;
