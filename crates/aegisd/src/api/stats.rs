//! What instances use, and what the daemon counts.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;

use aegis_api::status::InstanceStats;
use aegis_instances::View;
use aegis_instances::lifecycle::State as Life;
use aegis_instances::view::word;
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::convert;
use crate::App;

/// Unit of a file's blocks (`st_blocks` in stat(2)), bytes.
const BLOCK: u64 = 512;
/// The text format of Prometheus.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What each instance uses.
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = Vec<InstanceStats>)))]
pub(super) async fn stats(State(app): State<App>) -> Json<Vec<InstanceStats>> {
    Json(app.instances.list().iter().map(|view| of_instance(&app, view)).collect())
}

fn of_instance(app: &App, view: &View) -> InstanceStats {
    let resources = app.instances.find(&view.id).ok().and_then(|instance| instance.resources());
    let disk = std::fs::metadata(app.instances.disk(&view.id)).map_or(0, |disk| disk.blocks() * BLOCK);
    let (received_bytes, sent_bytes) = view.usage.bytes();
    InstanceStats {
        id: view.id.clone(),
        handle: view.handle.clone(),
        state: convert::state(view.state),
        cpu_ms: resources.map_or(0, |resources| resources.cpu_ms),
        vcpus: view.spec.vcpus,
        memory_bytes: resources.map_or(0, |resources| resources.memory_bytes),
        memory_limit_bytes: u64::from(view.spec.memory_mib) << 20,
        disk_bytes: disk,
        disk_limit_bytes: view.spec.disk_mib << 20,
        received_bytes,
        sent_bytes,
        connections: view.usage.counts().connections,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

type Number = Gauge<u64, AtomicU64>;

/// Counters, gauges and histograms for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let mut registry = Registry::default();
    app.instances.measures().register(&mut registry);
    let by_state = Family::<InState, Number>::default();
    for state in [Life::Stopped, Life::Starting, Life::Running, Life::Paused] {
        by_state.get_or_create(&InState { state: word(state) }).set(0);
    }
    let (open, disabled) = (Number::default(), Number::default());
    for view in app.instances.list() {
        by_state.get_or_create(&InState { state: word(view.state) }).inc();
        open.inc_by(view.usage.counts().connections.into());
        disabled.inc_by(u64::from(!view.enabled));
    }
    registry.register("aegis_instances", "Instances by state", by_state);
    registry.register("aegis_disabled_instances", "Instances that only an explicit start boots", disabled);
    registry.register("aegis_open_connections", "Connections and requests to ports at this moment", open);
    health(&app, &mut registry);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _written = prometheus_client::encoding::text::encode(&mut text, &registry);
    ([(header::CONTENT_TYPE, FORMAT)], text).into_response()
}

/// The daemon itself, under the names that process exporters use.
fn health(app: &App, registry: &mut Registry) {
    let gauge = |value: u64| {
        let gauge = Number::default();
        gauge.set(value);
        gauge
    };
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    let resident = pages.saturating_mul(rustix::param::page_size() as u64);
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    registry.register("process_resident_memory_bytes", "Memory of the daemon", gauge(resident));
    registry.register("process_open_fds", "File descriptors of the daemon", gauge(descriptors));
    registry.register(
        "aegis_up_seconds",
        "Time since the daemon started",
        gauge(app.started.elapsed().as_secs()),
    );
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64;
    registry.register("aegis_tasks", "Tasks of the daemon", gauge(tasks));
}
