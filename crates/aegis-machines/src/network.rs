//! The network of machines: its gateway process, groups, and how the host reaches the world.

pub mod gateway_client;
pub mod gateway_process;
pub mod group_broker;
pub mod groups;
pub mod interface;
pub mod resolvers;
