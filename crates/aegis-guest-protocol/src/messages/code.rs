//! Error codes of the guest, beside those of JSON-RPC.

/// The command does not exist.
pub const NOT_FOUND: i64 = 1;
/// The command exists and cannot be executed.
pub const NOT_EXECUTABLE: i64 = 2;
/// The user does not exist in the guest.
pub const NO_SUCH_USER: i64 = 3;
/// The working directory does not exist or cannot be entered.
pub const NO_WORKDIR: i64 = 4;
/// There is a workload already, or none yet, or the process is gone.
pub const WRONG_STATE: i64 = 5;
/// The root file system cannot be mounted.
pub const ROOT: i64 = 6;
/// A shared directory cannot be mounted.
pub const SHARE: i64 = 10;
/// Any other failure of a system call.
pub const SYSTEM: i64 = 7;
/// The two ends have no version in common.
pub const VERSION: i64 = 8;
/// Nothing listens on the port.
pub const REFUSED: i64 = 9;
