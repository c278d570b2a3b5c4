//! What instances use, and what the daemon counts.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;

use aegis_api::status::InstanceStats;
use aegis_gateway::Counters;
use aegis_instances::view::View;
use aegis_lifecycle::event::State as Life;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::mapping::{self, network_counters};
use crate::state::ApiState;

/// Unit of a file's blocks (`st_blocks` in stat(2)), bytes.
const BLOCK: u64 = 512;
/// The text format of Prometheus.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What each instance uses.
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = Vec<InstanceStats>)))]
pub(crate) async fn stats(State(app): State<ApiState>) -> Json<Vec<InstanceStats>> {
    let mut all = Vec::new();
    for view in app.engine.instances().list() {
        all.push(of_instance(&app, &view).await);
    }
    Json(all)
}

async fn of_instance(app: &ApiState, view: &View) -> InstanceStats {
    let instance = app.engine.instances().find(&view.id).ok();
    let resources = instance.as_ref().and_then(|instance| instance.resources());
    let network = match &instance {
        Some(instance) => instance.network_counters().await.map(network_counters),
        None => None,
    };
    let disk =
        std::fs::metadata(app.engine.instances().disk(&view.id)).map_or(0, |disk| disk.blocks() * BLOCK);
    let (received_bytes, sent_bytes) = view.usage.bytes();
    InstanceStats {
        id: view.id.clone(),
        handle: view.handle.clone(),
        state: mapping::state(view.state),
        cpu_ms: resources.map_or(0, |resources| resources.cpu_ms),
        vcpus: view.spec.vcpus,
        memory_bytes: resources.map_or(0, |resources| resources.memory_bytes),
        memory_limit_bytes: u64::from(view.spec.memory_mib) << 20,
        disk_bytes: disk,
        disk_limit_bytes: view.spec.disk_mib << 20,
        received_bytes,
        sent_bytes,
        connections: view.usage.counts().connections,
        network,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

type Number = Gauge<u64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

/// What the networks of all machines that there are have counted.
#[derive(Debug, Default)]
struct Networks {
    bytes: Family<Direction, Number>,
    flows: Number,
    denied: Number,
    limited: Number,
    queries: Number,
}

impl Networks {
    fn add(&self, counters: &Counters) {
        for (direction, bytes) in [("from_guest", counters.bytes_out), ("to_guest", counters.bytes_in)] {
            self.bytes.get_or_create(&Direction { direction }).inc_by(bytes);
        }
        self.flows.inc_by(counters.open_flows);
        self.denied.inc_by(counters.denied);
        self.limited.inc_by(counters.limited);
        self.queries.inc_by(counters.queries);
    }

    fn register(self, registry: &mut Registry) {
        let bytes = "Bytes on the wires of the machines that there are";
        registry.register("aegis_network_bytes", bytes, self.bytes);
        registry.register("aegis_network_open_flows", "Flows of theirs that are open", self.flows);
        registry.register("aegis_network_denied", "Flows and names of theirs that were refused", self.denied);
        registry.register("aegis_network_limited", "How often one of them met a bound", self.limited);
        registry.register("aegis_network_queries", "Names that they asked for", self.queries);
    }
}

/// Counters, gauges and histograms for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String)))]
pub(crate) async fn metrics(State(app): State<ApiState>) -> Response {
    let mut registry = Registry::default();
    app.engine.instances().metrics().register(&mut registry);
    let by_state = Family::<InState, Number>::default();
    for state in [Life::Stopped, Life::Starting, Life::Running, Life::Paused, Life::Hibernated] {
        by_state.get_or_create(&InState { state: state.as_str() }).set(0);
    }
    let (open, disabled) = (Number::default(), Number::default());
    let networks = Networks::default();
    for view in app.engine.instances().list() {
        if let Ok(instance) = app.engine.instances().find(&view.id)
            && let Some(counters) = instance.network_counters().await
        {
            networks.add(&counters);
        }
        by_state.get_or_create(&InState { state: view.state.as_str() }).inc();
        open.inc_by(view.usage.counts().connections.into());
        disabled.inc_by(u64::from(!view.enabled));
    }
    registry.register("aegis_instances", "Instances by state", by_state);
    registry.register("aegis_disabled_instances", "Instances that only an explicit start boots", disabled);
    registry.register("aegis_open_connections", "Connections and requests to ports at this moment", open);
    networks.register(&mut registry);
    health(&app, &mut registry);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _written = prometheus_client::encoding::text::encode(&mut text, &registry);
    ([(header::CONTENT_TYPE, FORMAT)], text).into_response()
}

/// The daemon itself, under the names that process exporters use.
fn health(app: &ApiState, registry: &mut Registry) {
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
