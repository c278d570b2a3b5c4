//! Errors: a stable code, a sentence of cause, and where there is one, a remedy.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// What kind of failure it is. The words are stable; new ones may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed or a value is out of range.
    InvalidArgument,
    /// No such instance.
    NotFound,
    /// An instance with this handle exists and differs.
    HandleExists,
    /// The instance is running or starting already.
    AlreadyRunning,
    /// The instance is stopped.
    InstanceStopped,
    /// The instance is disabled.
    InstanceDisabled,
    /// The instance's lifetime is over.
    LifetimeOver,
    /// A port of the host is taken.
    PortTaken,
    /// A port of the guest is exposed in another way.
    PortConflict,
    /// Nothing listens on the port in the guest.
    PortRefused,
    /// The instance has as many connections as it can have.
    TooManyConnections,
    /// The instance is being deleted, or changed its state meanwhile.
    Conflict,
    /// The command does not exist in the guest.
    CommandNotFound,
    /// The command exists in the guest and cannot be executed.
    CommandNotExecutable,
    /// The user does not exist in the guest.
    UserNotFound,
    /// The working directory does not exist in the guest.
    WorkdirNotFound,
    /// The machine did not come up, or died.
    BootFailed,
    /// The guest cannot be reached or failed.
    GuestFailed,
    /// The host has not enough memory or disk.
    InsufficientResources,
    /// Kernel, initramfs, root file system or a program is missing on the host.
    HostNotReady,
    /// No such image, on this host or in its registry.
    ImageNotFound,
    /// The image is not valid, or not for the guest's processor.
    ImageInvalid,
    /// An instance or a snapshot needs the image.
    ImageInUse,
    /// The registry wants other credentials.
    RegistryDenied,
    /// The registry cannot be reached, or fails.
    RegistryFailed,
    /// No such secret, or it cannot be read.
    SecretNotFound,
    /// No such kit.
    KitNotFound,
    /// The kit is broken, or failed in the guest.
    KitInvalid,
    /// No such workspace, or no such directory on this host.
    WorkspaceNotFound,
    /// The directory may not be shown to an instance.
    WorkspaceRefused,
    /// There is a workspace of this name already.
    WorkspaceExists,
    /// An instance sees the workspace.
    WorkspaceInUse,
    /// No such snapshot.
    SnapshotNotFound,
    /// There is a snapshot of this name already.
    SnapshotExists,
    /// A copy would share what it was not said that it may share, or there is nothing to copy.
    CopyRefused,
    /// What is copied to a stopped instance would be gone at its next start.
    PlaceVolatile,
    /// The caller is a helper of the daemon, which has no use for the API.
    CallerRefused,
    /// The daemon is stopping.
    ShuttingDown,
    /// A fault of Aegis itself.
    Internal,
    /// A code of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that carries it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::InvalidArgument => 400,
            ErrorCode::NotFound
            | ErrorCode::ImageNotFound
            | ErrorCode::SecretNotFound
            | ErrorCode::KitNotFound
            | ErrorCode::SnapshotNotFound
            | ErrorCode::WorkspaceNotFound => 404,
            ErrorCode::RegistryDenied | ErrorCode::WorkspaceRefused | ErrorCode::CallerRefused => 403,
            ErrorCode::HandleExists
            | ErrorCode::AlreadyRunning
            | ErrorCode::InstanceStopped
            | ErrorCode::InstanceDisabled
            | ErrorCode::LifetimeOver
            | ErrorCode::PortTaken
            | ErrorCode::PortConflict
            | ErrorCode::ImageInUse
            | ErrorCode::SnapshotExists
            | ErrorCode::CopyRefused
            | ErrorCode::PlaceVolatile
            | ErrorCode::WorkspaceExists
            | ErrorCode::WorkspaceInUse
            | ErrorCode::Conflict => 409,
            ErrorCode::CommandNotFound
            | ErrorCode::CommandNotExecutable
            | ErrorCode::UserNotFound
            | ErrorCode::ImageInvalid
            | ErrorCode::KitInvalid
            | ErrorCode::WorkdirNotFound => 422,
            ErrorCode::BootFailed | ErrorCode::GuestFailed | ErrorCode::Internal | ErrorCode::Unknown => 500,
            ErrorCode::InsufficientResources => 507,
            ErrorCode::PortRefused | ErrorCode::RegistryFailed => 502,
            ErrorCode::HostNotReady | ErrorCode::ShuttingDown | ErrorCode::TooManyConnections => 503,
        }
    }
}

/// A failure as the API tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind.
    pub code: ErrorCode,
    /// The cause, as a sentence.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    /// An error without a remedy.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), hint: None }
    }

    /// The same error with a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> ApiError {
        self.hint = Some(hint.into());
        self
    }
}

/// Body of every reply that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}
