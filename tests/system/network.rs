//! What instances reach, who reaches them, and by which names.

mod differential;
mod groups;
mod load;
mod name_inspection;
mod name_router;
pub(crate) mod policy;
pub(crate) mod ports;
