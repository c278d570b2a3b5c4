//! Which handler serves which path, and the document that says so.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::MAX_BODY;
use crate::state::ApiState;
use crate::{
    api_failure, attach, events, exec, images, instances, kits, logs, network, ports, secrets, snapshots,
    stats, system, templates, workspaces,
};

#[derive(OpenApi)]
#[openapi(info(
    title = "Aegis",
    description = "The API of aegisd, served on the unix socket $AEGIS_HOME/aegisd.sock.",
    license(name = "Apache-2.0")
))]
struct Document;

fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(system::status))
        .routes(routes!(system::shutdown))
        .routes(routes!(instances::list, instances::create))
        .routes(routes!(instances::describe, instances::delete, instances::prune))
        .routes(routes!(instances::start))
        .routes(routes!(instances::restart))
        .routes(routes!(instances::stop))
        .routes(routes!(instances::disable))
        .routes(routes!(instances::pause))
        .routes(routes!(instances::hibernate))
        .routes(routes!(instances::resume))
        .routes(routes!(ports::expose))
        .routes(routes!(ports::unexpose))
        .routes(routes!(ports::keep_alive, ports::release))
        .routes(routes!(network::show, network::replace))
        .routes(routes!(network::prefer))
        .routes(routes!(network::join, network::leave))
        .routes(routes!(network::groups))
        .routes(routes!(network::check))
        .routes(routes!(network::log))
        .routes(routes!(images::list, images::remove))
        .routes(routes!(images::describe))
        .routes(routes!(images::pull))
        .routes(routes!(images::tag))
        .routes(routes!(images::prune))
        .routes(routes!(images::load))
        .routes(routes!(images::save))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::set, secrets::delete))
        .routes(routes!(secrets::rekey))
        .routes(routes!(workspaces::list, workspaces::create))
        .routes(routes!(workspaces::describe, workspaces::remove))
        .routes(routes!(snapshots::fork))
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::describe, snapshots::delete))
        .routes(routes!(snapshots::restore))
        .routes(routes!(templates::list))
        .routes(routes!(templates::prune))
        .routes(routes!(kits::list))
        .routes(routes!(kits::describe))
        .routes(routes!(kits::validate))
        .routes(routes!(exec::signal))
        .routes(routes!(exec::exec))
        .routes(routes!(attach::attach))
        .routes(routes!(logs::logs))
        .routes(routes!(events::events))
        .routes(routes!(stats::stats))
        .routes(routes!(stats::metrics))
}

/// The API's OpenAPI document.
#[must_use]
pub fn openapi_json() -> String {
    routes().into_openapi().to_pretty_json().unwrap_or_default()
}

/// All routes.
pub fn router(app: ApiState) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = document.to_json().unwrap_or_default();
    router
        .route(
            "/v1/openapi.json",
            get(async move || ([(axum::http::header::CONTENT_TYPE, "application/json")], document)),
        )
        .fallback(api_failure::no_such_path)
        .method_not_allowed_fallback(api_failure::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_document_is_the_generated_one() {
        let committed = include_str!("../../../docs/openapi.json");
        assert_eq!(committed.trim(), super::openapi_json().trim(), "run `make docs`");
    }
}
