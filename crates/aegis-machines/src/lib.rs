//! Machines of instances: a specification in, a running guest out; and how they are kept, copied and ended.
//!
//! ```text
//!   BootOrder ── boot ── machine_maker ── warm_pool, template_store, or a cold boot
//!                  │           └── helpers: file_server, gateway_process
//!                  └── machine_run ── session ── output
//!                            │
//!                            └── reporter ──► MachineEvent, to whoever owns the instance
//! ```
//!
//! Nothing here knows of instances as a whole: no actor, no table of them, no registry.

pub mod boot;
pub mod boot_order;
pub mod boot_timings;
pub mod checkpoint;
pub mod clock;
pub mod disk_lock;
pub mod disk_space;
pub mod environment;
pub mod error_chain;
pub mod exports;
pub mod file_server;
pub mod guest_calls;
pub mod helper_process;
pub mod helpers;
pub mod host_directory;
pub mod host_memory;
pub mod ids;
pub mod image_disks;
pub mod kit_provisioning;
pub mod kits;
pub mod machine_factory;
pub mod machine_layout;
pub mod machine_run;
pub mod machines;
pub mod maintenance;
pub mod network;
pub mod output;
pub mod reporter;
pub mod scratch_machine;
pub mod secret_values;
pub mod session;
pub mod stop_reasons;
pub mod teardown;
pub mod template_builder;
pub mod template_key;
pub mod warm_pool;
pub mod writable_directories;
