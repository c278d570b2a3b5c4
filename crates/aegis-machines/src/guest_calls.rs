//! What a guest is told first, and its refusals as reasons of a failed boot.

use aegis_guest_link::LinkError;
use aegis_guest_protocol::messages::{Prepare, code};
use aegis_lifecycle::stop_reason::StopReason;
use aegis_spec::instance::InstanceSpec;

use crate::exports;

/// Why a guest did not do as it was told.
pub fn refused(error: &LinkError) -> StopReason {
    match error {
        LinkError::Guest(error) => StopReason::new(refusal(error.code), error.message.clone()),
        error => StopReason::unreachable(error),
    }
}

/// The root and what else there has to be before anything can be executed.
pub fn preparation(hostname: &str, of: &InstanceSpec) -> Prepare {
    Prepare { hostname: hostname.to_owned(), shares: exports::shares(&of.mounts), owner: of.user.clone() }
}

/// The stable word for a guest's refusal to execute a command.
#[must_use]
pub fn refusal(guest_code: i64) -> &'static str {
    match guest_code {
        code::NOT_FOUND => "command_not_found",
        code::NOT_EXECUTABLE => "command_not_executable",
        code::NO_SUCH_USER => "user_not_found",
        code::NO_WORKDIR => "workdir_not_found",
        _ => "guest_failed",
    }
}
