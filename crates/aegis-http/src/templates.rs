//! Templates: listed, removed.

use aegis_api::template::Template;
use aegis_machines::checkpoint::template_store::Template as Stored;
use axum::Json;
use axum::extract::State;

use crate::api_failure::{ApiFailure, blocking};
use crate::body::timestamp;
use crate::state::ApiState;

fn shown(template: Stored) -> Template {
    Template {
        name: template.name,
        memory_mb: template.memory_mib,
        vcpus: template.vcpus,
        bytes: template.bytes,
        created_at: timestamp(template.created_ms),
        last_used_at: timestamp(template.used_ms),
        spare: template.warm,
    }
}

/// All templates, by name.
#[utoipa::path(get, path = "/v1/templates", responses((status = 200, body = Vec<Template>)))]
pub(crate) async fn list(State(app): State<ApiState>) -> Result<Json<Vec<Template>>, ApiFailure> {
    let all = blocking(move || Ok::<_, ApiFailure>(app.engine.instances().machines().templates())).await?;
    Ok(Json(all.into_iter().map(shown).collect()))
}

/// Removes all templates, and returns them. What was started from them goes on; the next starts make new ones.
#[utoipa::path(post, path = "/v1/templates/prune", responses((status = 200, body = Vec<Template>)))]
pub(crate) async fn prune(State(app): State<ApiState>) -> Result<Json<Vec<Template>>, ApiFailure> {
    let gone =
        blocking(move || Ok::<_, ApiFailure>(app.engine.instances().machines().prune_templates())).await?;
    Ok(Json(gone.into_iter().map(shown).collect()))
}
