//! Failures as replies.

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_engine::error::EngineError;
use aegis_guest_link::LinkError;
use aegis_guest_protocol::messages::code;
use aegis_images::ImageError;
use aegis_instances::error::InstanceError;
use aegis_lifecycle::stop_reason::StopReason;
use aegis_machines::checkpoint::snapshot_store::SnapshotError;
use aegis_machines::host_directory::DirectoryError;
use aegis_store::secrets::SecretError;
use aegis_store::workspaces::WorkspaceError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// What to do when the host's disk is full.
pub(crate) const MAKE_ROOM: &str = "delete what is not needed: aegis instance delete, aegis snapshot delete, aegis image prune, \
                         aegis template prune; see: aegis status";

/// A failure of a handler.
#[derive(Debug)]
pub struct ApiFailure(pub ApiError);

impl IntoResponse for ApiFailure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

impl ApiFailure {
    /// A part of a request makes no sense.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> ApiFailure {
        ApiFailure(ApiError::new(ErrorCode::InvalidArgument, message))
    }
}

impl From<EngineError> for ApiFailure {
    fn from(error: EngineError) -> ApiFailure {
        let text = error.to_string();
        ApiFailure(match error {
            EngineError::Invalid(_) => ApiError::new(ErrorCode::InvalidArgument, text),
            EngineError::NothingToStart(_) => {
                ApiError::new(ErrorCode::NotFound, text).hint("give a command after --")
            }
            EngineError::KitMissing(_) => {
                ApiError::new(ErrorCode::KitNotFound, text).hint("see what there is with: aegis kit list")
            }
            EngineError::KitBroken { name, .. } => {
                ApiError::new(ErrorCode::KitInvalid, text).hint(format!("see: aegis kit info {name}"))
            }
            EngineError::KitWritable { .. } => ApiError::new(ErrorCode::KitInvalid, text)
                .hint("keep kits and their programs where no instance is shown anything for writing"),
            EngineError::KitNeedsSecret { .. } => {
                ApiError::new(ErrorCode::InvalidArgument, text).hint("give it with: --secret NAME")
            }
            EngineError::Instance(error) => return error.into(),
            EngineError::Image(error) => return error.into(),
            EngineError::Workspace(error) => return error.into(),
            EngineError::Directory(error) => return error.into(),
        })
    }
}

impl From<SnapshotError> for ApiFailure {
    fn from(error: SnapshotError) -> ApiFailure {
        InstanceError::from(error).into()
    }
}

impl From<InstanceError> for ApiFailure {
    fn from(error: InstanceError) -> ApiFailure {
        let text = error.to_string();
        ApiFailure(match error {
            InstanceError::Invalid(_) => ApiError::new(ErrorCode::InvalidArgument, text),
            InstanceError::NotFound(_) => {
                ApiError::new(ErrorCode::NotFound, text).hint("see what there is with: aegis instance list")
            }
            InstanceError::HandleExists(handle) => ApiError::new(ErrorCode::HandleExists, text)
                .hint(format!("start it as it is with: aegis instance start --name {handle}")),
            InstanceError::AlreadyRunning(_) => ApiError::new(ErrorCode::AlreadyRunning, text),
            InstanceError::Stopped => ApiError::new(ErrorCode::InstanceStopped, text)
                .hint("start it with: aegis instance restart INSTANCE"),
            InstanceError::Disabled => ApiError::new(ErrorCode::InstanceDisabled, text)
                .hint("start it with: aegis instance restart INSTANCE"),
            InstanceError::LifetimeOver => {
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

impl From<ImageError> for ApiFailure {
    fn from(error: ImageError) -> ApiFailure {
        let text = error.to_string();
        let of = |code| ApiError::new(code, text.clone());
        ApiFailure(match error {
            ImageError::Reference(..) => of(ErrorCode::InvalidArgument)
                .hint("a name is [REGISTRY[:PORT]/]REPOSITORY[:TAG], the repository in small letters"),
            ImageError::Digest(_) => of(ErrorCode::InvalidArgument),
            ImageError::Ambiguous(_) => of(ErrorCode::InvalidArgument).hint("give more of its digits"),
            ImageError::Absent(name) => {
                of(ErrorCode::ImageNotFound).hint(format!("pull it with: aegis image pull {name}"))
            }
            ImageError::NotFound { .. } => of(ErrorCode::ImageNotFound)
                .hint("are name and tag right? private images want: docker login REGISTRY"),
            ImageError::Unauthorized { registry, .. } => {
                of(ErrorCode::RegistryDenied).hint(format!("give credentials with: docker login {registry}"))
            }
            ImageError::Credentials { .. } => of(ErrorCode::RegistryDenied)
                .hint("see ~/.docker/config.json and the credential helper that it names"),
            ImageError::Unreachable { registry, .. } => of(ErrorCode::RegistryFailed).hint(format!(
                "for plain HTTP, a private CA or a proxy see [registry.\"{registry}\"] in docs/IMAGES.md"
            )),
            ImageError::Registry { .. } => of(ErrorCode::RegistryFailed),
            ImageError::WithoutTls { registry } => of(ErrorCode::RegistryFailed).hint(format!(
                "if you trust the way there: plain_http = true under [registry.\"{registry}\"] in \
                 $AEGIS_HOME/config.toml, then aegis down --keep-instances and aegis up; see docs/IMAGES.md"
            )),
            ImageError::NotHere { cause, .. } => {
                let ApiFailure(cause) = (*cause).into();
                ApiError { message: text, ..cause }
            }
            ImageError::Invalid(_)
            | ImageError::Platform { .. }
            | ImageError::Mismatch { .. }
            | ImageError::Layer { .. } => of(ErrorCode::ImageInvalid),
            ImageError::InUse { .. } => {
                of(ErrorCode::ImageInUse).hint("delete the instance or snapshot first")
            }
            ImageError::Damaged(name, _) => of(ErrorCode::ImageInvalid)
                .hint(format!("remove it with: aegis image remove {name}, and pull it again")),
            ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                of(ErrorCode::InsufficientResources).hint(MAKE_ROOM)
            }
            ImageError::Io { .. } => of(ErrorCode::Internal).hint("is the disk full? see: aegis doctor"),
            ImageError::Settings(_) => of(ErrorCode::HostNotReady).hint("see $AEGIS_HOME/config.toml"),
            ImageError::BrokenOff => of(ErrorCode::ShuttingDown),
        })
    }
}

impl From<WorkspaceError> for ApiFailure {
    fn from(error: WorkspaceError) -> ApiFailure {
        let text = error.to_string();
        ApiFailure(match error {
            WorkspaceError::NotFound(_) => ApiError::new(ErrorCode::WorkspaceNotFound, text)
                .hint("see what there is with: aegis workspace list"),
            WorkspaceError::Exists(_) => ApiError::new(ErrorCode::WorkspaceExists, text),
            WorkspaceError::InUse { .. } => {
                ApiError::new(ErrorCode::WorkspaceInUse, text).hint("delete the instance first")
            }
            WorkspaceError::Io { .. } => {
                ApiError::new(ErrorCode::Internal, text).hint("is the disk full? see: aegis doctor")
            }
        })
    }
}

impl From<DirectoryError> for ApiFailure {
    fn from(error: DirectoryError) -> ApiFailure {
        let text = error.to_string();
        ApiFailure(match error {
            DirectoryError::Unopened { .. } | DirectoryError::Changed { .. } => {
                ApiError::new(ErrorCode::WorkspaceNotFound, text)
            }
            DirectoryError::Linked { .. } => {
                ApiError::new(ErrorCode::WorkspaceNotFound, text).hint("find that path with: realpath PATH")
            }
            DirectoryError::Planted { .. } => ApiError::new(ErrorCode::WorkspaceRefused, text)
                .hint("if you mean where it leads, name that directory itself: realpath PATH"),
            DirectoryError::Refused { .. } => ApiError::new(ErrorCode::WorkspaceRefused, text)
                .hint("show it a directory that holds what it needs and nothing else"),
        })
    }
}

impl From<SecretError> for ApiFailure {
    fn from(error: SecretError) -> ApiFailure {
        let text = error.to_string();
        ApiFailure(match error {
            SecretError::Invalid(_) | SecretError::TooMany => ApiError::new(ErrorCode::InvalidArgument, text),
            SecretError::NotFound(_) => ApiError::new(ErrorCode::SecretNotFound, text)
                .hint("see what there is with: aegis secret list"),
            SecretError::Locked { .. } => {
                ApiError::new(ErrorCode::SecretNotFound, text).hint("unlock the keyring, and try again")
            }
            SecretError::Unreadable { .. } | SecretError::Io { .. } | SecretError::NoRandom => {
                ApiError::new(ErrorCode::Internal, text).hint("see docs/SECRETS.md")
            }
        })
    }
}

/// Another instance was wanted under the handle of one that runs.
pub(crate) fn handle_runs(handle: &str) -> ApiFailure {
    let text = format!("an instance with the handle {handle:?} exists, and is running");
    let hint = format!("choose another name, or delete that one with: aegis instance delete {handle}");
    ApiFailure(ApiError::new(ErrorCode::HandleExists, text).hint(hint))
}

/// Does what blocks where that is no harm.
pub(crate) async fn blocking<T: Send + 'static, E: Into<ApiFailure> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ApiFailure> {
    let done = tokio::task::spawn_blocking(work).await;
    let code = |cancelled| if cancelled { ErrorCode::ShuttingDown } else { ErrorCode::Internal };
    let broken = |error: tokio::task::JoinError| {
        ApiFailure(ApiError::new(code(error.is_cancelled()), "the work was broken off"))
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

pub(crate) async fn no_such_path() -> ApiFailure {
    ApiFailure(ApiError::new(ErrorCode::NotFound, "there is no such path; see /v1/openapi.json"))
}

pub(crate) async fn no_such_method() -> Response {
    let error = ApiError::new(
        ErrorCode::InvalidArgument,
        "this path does not take this method; see /v1/openapi.json",
    );
    (StatusCode::METHOD_NOT_ALLOWED, Json(ErrorBody { error })).into_response()
}
