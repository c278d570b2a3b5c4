//! Templates: listed, removed.

use aegis_api::template::Template;
use aegis_instances::at_rest::templates::Template as Stored;
use axum::Json;
use axum::extract::State;

use super::convert::timestamp;
use super::failure::{Failure, blocking};
use crate::App;

fn shown(template: Stored) -> Template {
    Template {
        name: template.name,
        memory_mb: template.memory_mib,
        vcpus: template.vcpus,
        bytes: template.bytes,
        created_at: timestamp(template.created_ms),
        last_used_at: timestamp(template.used_ms),
        spare: template.spare,
    }
}

/// All templates, by name.
#[utoipa::path(get, path = "/v1/templates", responses((status = 200, body = Vec<Template>)))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<Template>>, Failure> {
    let all = blocking(move || Ok::<_, Failure>(app.instances.templates())).await?;
    Ok(Json(all.into_iter().map(shown).collect()))
}

/// Removes all templates, and returns them. What was started from them goes on; the next starts make new ones.
#[utoipa::path(post, path = "/v1/templates/prune", responses((status = 200, body = Vec<Template>)))]
pub(super) async fn prune(State(app): State<App>) -> Result<Json<Vec<Template>>, Failure> {
    let gone = blocking(move || Ok::<_, Failure>(app.instances.prune_templates())).await?;
    Ok(Json(gone.into_iter().map(shown).collect()))
}
