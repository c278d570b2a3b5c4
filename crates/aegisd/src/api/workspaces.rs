//! Workspaces: made, listed, described, removed.

use std::path::PathBuf;

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_api::instance::CreateInstance;
use aegis_api::workspace::{self, CreateWorkspace, HostMount, Workspace, WorkspaceReply};
use aegis_instances::View;
use aegis_instances::host_directory::DirectoryError;
use aegis_instances::mounts::{Mount, Source};
use aegis_store::workspaces::{Claim, WorkspaceError};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytes::Bytes;

use super::convert::parse;
use super::failure::{Failure, blocking};
use crate::App;

impl From<WorkspaceError> for Failure {
    fn from(error: WorkspaceError) -> Failure {
        let text = error.to_string();
        Failure(match error {
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

fn checked(name: &str) -> Result<(), Failure> {
    workspace::check_name(name)
        .map_err(|error| Failure::invalid(format!("{name:?} is no name of a workspace: {error}")))
}

/// Names of the instances that see a workspace.
fn users(app: &App, name: &str) -> Vec<String> {
    let sees = |view: &View| {
        view.spec.mounts.iter().any(|mount| matches!(&mount.source, Source::Named(one) if one == name))
    };
    let views = app.instances.list();
    views.iter().filter(|view| sees(view)).map(|view| view.name().to_owned()).collect()
}

fn shown(app: &App, name: &str) -> Workspace {
    Workspace {
        name: name.to_owned(),
        path: app.workspaces.path(name).display().to_string(),
        used_by: users(app, name),
        entries: None,
        bytes: None,
    }
}

/// All workspaces.
#[utoipa::path(get, path = "/v1/workspaces", responses((status = 200, body = Vec<Workspace>)))]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<Workspace>> {
    Json(app.workspaces.names().iter().map(|name| shown(&app, name)).collect())
}

/// Makes an empty workspace. One that an instance names is made by itself.
#[utoipa::path(post, path = "/v1/workspaces", request_body = CreateWorkspace, responses(
    (status = 201, body = Workspace), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn create(
    State(app): State<App>,
    body: Bytes,
) -> Result<(StatusCode, Json<Workspace>), Failure> {
    let CreateWorkspace { name } = parse(&body)?;
    checked(&name)?;
    app.workspaces.create(&name)?;
    Ok((StatusCode::CREATED, Json(shown(&app, &name))))
}

/// One workspace, with what is in it.
#[utoipa::path(get, path = "/v1/workspaces/{name}", params(("name" = String, description = "Its name.")),
    responses((status = 200, body = Workspace), (status = 404, body = ErrorBody)))]
pub(super) async fn describe(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Workspace>, Failure> {
    checked(&name)?;
    let shown = shown(&app, &name);
    let contents = blocking(move || app.workspaces.contents(&name)).await?;
    Ok(Json(Workspace { entries: Some(contents.entries), bytes: Some(contents.bytes), ..shown }))
}

/// Removes a workspace with all that is in it, unless an instance sees it, running or not.
#[utoipa::path(delete, path = "/v1/workspaces/{name}", params(("name" = String, description = "Its name.")),
    responses((status = 200, body = WorkspaceReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<WorkspaceReply>, Failure> {
    checked(&name)?;
    let removed = name.clone();
    blocking(move || app.workspaces.remove(&removed, || users(&app, &removed).pop())).await?;
    Ok(Json(WorkspaceReply { name, status: "removed".to_owned() }))
}

fn source(text: &str) -> Result<Source, Failure> {
    if workspace::is_path(text) {
        return Ok(Source::Path(PathBuf::from(text)));
    }
    checked(text)?;
    Ok(Source::Named(text.to_owned()))
}

/// The directories of the host that a request asks for.
pub(super) fn mounts(request: &CreateInstance) -> Result<Vec<Mount>, Failure> {
    let mut all = Vec::new();
    if let Some(own) = &request.workspace {
        let limit = match own.quota_mb {
            None => None,
            Some(mib) => {
                Some(mib.checked_mul(1 << 20).ok_or_else(|| Failure::invalid("the quota is too large"))?)
            }
        };
        let at = workspace::AT.to_owned();
        all.push(Mount { source: source(&own.source)?, at, read_only: own.read_only, limit, identity: None });
    }
    for HostMount { source: text, at, read_only } in &request.mounts {
        let (source, at, read_only) = (source(text)?, at.clone(), *read_only);
        all.push(Mount { source, at, read_only, limit: None, identity: None });
    }
    Ok(all)
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Failure {
        let text = error.to_string();
        Failure(match error {
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

/// Makes the workspaces that are named, and notes which directories the paths lead to. In those that were `followed` the client
/// followed symbolic links to them.
pub(super) fn claim(app: &App, mounts: &mut [Mount], followed: &[String]) -> Result<Vec<Claim>, Failure> {
    let mut claims = Vec::new();
    for mount in mounts.iter_mut() {
        match &mount.source {
            Source::Named(name) => claims.push(app.workspaces.claim(name)?),
            Source::Path(path) => mount.identity = Some(app.instances.name_directory(path)?),
        }
    }
    // One of them may be in another one that is named with it.
    app.instances.note_shown(mounts);
    followed.iter().try_for_each(|dir| app.instances.check_followed(std::path::Path::new(dir)))?;
    Ok(claims)
}

/// The text for a source.
fn text(source: &Source) -> String {
    match source {
        Source::Named(name) => name.clone(),
        Source::Path(path) => path.display().to_string(),
    }
}

/// What an instance sees at `/workspace`, if that is not its own.
pub(super) fn of(view: &View) -> Option<String> {
    view.spec.mounts.iter().find(|mount| mount.at == workspace::AT).map(|mount| text(&mount.source))
}

/// All that an instance sees.
pub(super) fn all_of(view: &View) -> Vec<HostMount> {
    let one = |mount: &Mount| HostMount {
        source: text(&mount.source),
        at: mount.at.clone(),
        read_only: mount.read_only,
    };
    view.spec.mounts.iter().map(one).collect()
}
