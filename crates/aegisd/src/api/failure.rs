//! Failures as replies.

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_guest_link::LinkError;
use aegis_guest_protocol::messages::code;
use aegis_instances::{InstanceError, StopReason};
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// What to do when the host's disk is full.
pub(super) const MAKE_ROOM: &str = "delete what is not needed: aegis instance delete, aegis snapshot delete, aegis image prune, \
                         aegis template prune; see: aegis status";

/// A failure of a handler.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) ApiError);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

impl Failure {
    pub(crate) fn invalid(message: impl Into<String>) -> Failure {
        Failure(ApiError::new(ErrorCode::InvalidArgument, message))
    }
}

impl From<InstanceError> for Failure {
    fn from(error: InstanceError) -> Failure {
        let text = error.to_string();
        Failure(match error {
            InstanceError::Invalid(_) => ApiError::new(ErrorCode::InvalidArgument, text),
            InstanceError::NotFound(_) => {
                ApiError::new(ErrorCode::NotFound, text).hint("see what there is with: aegis instance list")
            }
            InstanceError::HandleExists(handle) => ApiError::new(ErrorCode::HandleExists, text)
                .hint(format!("start it as it is with: aegis instance start --name {handle}")),
            InstanceError::AlreadyRunning(_) => ApiError::new(ErrorCode::AlreadyRunning, text),
            InstanceError::Stopped => ApiError::new(ErrorCode::InstanceStopped, text)
                .hint("start it with: aegis instance start --name HANDLE, or: aegis instance restart ID"),
            InstanceError::Disabled => ApiError::new(ErrorCode::InstanceDisabled, text)
                .hint("start it with: aegis instance start --name HANDLE"),
            InstanceError::LifeOver => {
                ApiError::new(ErrorCode::LifetimeOver, text).hint("delete it, and create another one")
            }
            InstanceError::TooManyConnections(_) => ApiError::new(ErrorCode::TooManyConnections, text),
            InstanceError::PortRefused(_) => ApiError::new(ErrorCode::PortRefused, text),
            InstanceError::PortConflict(_) => ApiError::new(ErrorCode::PortConflict, text)
                .hint("withdraw it first with: aegis instance unexpose INSTANCE PORT"),
            InstanceError::Port(_) => ApiError::new(ErrorCode::PortTaken, text)
                .hint("choose another, or leave the choice to Aegis: --expose GUEST"),
            InstanceError::Secret(_) => {
                ApiError::new(ErrorCode::SecretNotFound, text).hint("set it with: aegis secret set KEY")
            }
            InstanceError::Group(_) => ApiError::new(ErrorCode::Conflict, text),
            InstanceError::Removed => ApiError::new(ErrorCode::Conflict, text),
            InstanceError::Failed(reason) => stopped(&reason),
            InstanceError::NoRoom(_) => ApiError::new(ErrorCode::InsufficientResources, text).hint(MAKE_ROOM),
            InstanceError::Refused(_) => ApiError::new(ErrorCode::GuestFailed, text),
            InstanceError::Guest(LinkError::Guest(error)) => refused(error.code, error.message),
            InstanceError::Guest(_) | InstanceError::NotReady(_) => {
                ApiError::new(ErrorCode::GuestFailed, text)
            }
            InstanceError::Home(_) => {
                ApiError::new(ErrorCode::HostNotReady, text).hint("see what is missing with: aegis doctor")
            }
            InstanceError::Registry(_) | InstanceError::Log(_) => {
                ApiError::new(ErrorCode::Internal, text).hint("is the disk full? see: aegis doctor")
            }
            InstanceError::Disk(_) => ApiError::new(ErrorCode::InsufficientResources, text)
                .hint("is the disk full? see: aegis doctor"),
            InstanceError::DiskInUse => {
                ApiError::new(ErrorCode::Conflict, text).hint("stop it first: aegis instance stop")
            }
            InstanceError::DiskShrinks { .. } => ApiError::new(ErrorCode::InvalidArgument, text),
            InstanceError::NotCopied(_) => ApiError::new(ErrorCode::CopyRefused, text),
            InstanceError::NotShared(_) => ApiError::new(ErrorCode::CopyRefused, text)
                .hint("accept that with --share-workspace or --with-secrets"),
            InstanceError::NoSnapshot(_) => ApiError::new(ErrorCode::SnapshotNotFound, text)
                .hint("see what there is with: aegis snapshot list"),
            InstanceError::SnapshotExists(_) => ApiError::new(ErrorCode::SnapshotExists, text)
                .hint("choose another name, or delete it with: aegis snapshot delete NAME"),
            InstanceError::ShuttingDown => ApiError::new(ErrorCode::ShuttingDown, text),
        })
    }
}

/// Does what blocks where that is no harm.
pub(super) async fn blocking<T: Send + 'static, E: Into<Failure> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    let code = |cancelled| if cancelled { ErrorCode::ShuttingDown } else { ErrorCode::Internal };
    let broken = |error: tokio::task::JoinError| {
        Failure(ApiError::new(code(error.is_cancelled()), "the work was broken off"))
    };
    done.map_err(broken)?.map_err(Into::into)
}

/// A process that the guest refused to execute.
fn refused(guest_code: i64, message: String) -> ApiError {
    let code = match guest_code {
        code::NOT_FOUND => ErrorCode::CommandNotFound,
        code::NOT_EXECUTABLE => ErrorCode::CommandNotExecutable,
        code::NO_SUCH_USER => ErrorCode::UserNotFound,
        code::NO_WORKDIR => ErrorCode::WorkdirNotFound,
        code::WRONG_STATE => ErrorCode::Conflict,
        _ => ErrorCode::GuestFailed,
    };
    ApiError::new(code, message)
}

/// An instance that stopped before it was as wanted. What the console says explains it.
pub(crate) fn stopped(reason: &StopReason) -> ApiError {
    let code = match reason.code.as_str() {
        "command_not_found" => ErrorCode::CommandNotFound,
        "command_not_executable" => ErrorCode::CommandNotExecutable,
        "user_not_found" => ErrorCode::UserNotFound,
        "workdir_not_found" => ErrorCode::WorkdirNotFound,
        "secret_missing" => ErrorCode::SecretNotFound,
        "image_missing" => ErrorCode::ImageNotFound,
        "kit_failed" => ErrorCode::KitInvalid,
        "workspace_missing" => ErrorCode::WorkspaceNotFound,
        "workspace_refused" => ErrorCode::WorkspaceRefused,
        "insufficient_memory" | "insufficient_disk" => ErrorCode::InsufficientResources,
        "stopped" | "disabled" | "deleted" | "restarted" | "daemon_stopped" | "timeout" | "lifetime"
        | "idle" => ErrorCode::Conflict,
        "guest_unreachable" | "guest_failed" => ErrorCode::GuestFailed,
        _ => ErrorCode::BootFailed,
    };
    let mut message = reason.message.clone();
    if !reason.console.is_empty() {
        message = format!("{message}\nthe guest's console ends with:\n  {}", reason.console.join("\n  "));
    }
    let error = ApiError::new(code, message);
    match code {
        ErrorCode::BootFailed => error.hint("see whether this machine has what it takes with: aegis doctor"),
        ErrorCode::SecretNotFound => error.hint("set it with: aegis secret set KEY"),
        ErrorCode::InsufficientResources if reason.code == "insufficient_disk" => error.hint(MAKE_ROOM),
        ErrorCode::InsufficientResources => error.hint("stop an instance, or ask for less with --memory"),
        _ => error,
    }
}

pub(crate) async fn no_such_path() -> Failure {
    Failure(ApiError::new(ErrorCode::NotFound, "there is no such path; see /v1/openapi.json"))
}

pub(crate) async fn no_such_method() -> Response {
    let error = ApiError::new(
        ErrorCode::InvalidArgument,
        "this path does not take this method; see /v1/openapi.json",
    );
    (StatusCode::METHOD_NOT_ALLOWED, Json(ErrorBody { error })).into_response()
}
