//! Connections that stop being HTTP: `Upgrade: aegis-stream`.

use std::future::Future;

use aegis_api::stream::UPGRADE;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::state::ApiState;
use crate::stream::{self, Incoming, Outgoing};

/// Whether a client asks for it.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes() == UPGRADE.as_bytes())
}

fn switching() -> Response {
    let headers = [(header::UPGRADE, UPGRADE), (header::CONNECTION, "upgrade")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Answers with `101` and lets `serve` have the connection when it is upgraded.
pub(crate) fn upgrade<F: Future<Output = ()> + Send + 'static>(
    app: &ApiState,
    mut request: Request,
    serve: impl FnOnce(Incoming, Outgoing) -> F + Send + 'static,
) -> Response {
    let upgrading = hyper::upgrade::on(&mut request);
    app.streams.spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            let (incoming, outgoing) = stream::split(upgraded);
            serve(incoming, outgoing).await;
        }
    });
    switching()
}
