//! What is counted and timed of all instances together, since the daemon started.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use aegis_lifecycle::event::State;

/// Upper bounds of the classes of latencies, seconds: from a paused machine that wakes to one that boots slowly.
const LATENCIES: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The rest that an instance was woken from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct From {
    state: &'static str,
}

/// Which way bytes went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

fn latencies() -> Histogram {
    Histogram::new(LATENCIES)
}

/// Counters and histograms. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    wake: Family<From, Histogram>,
    failed_wakes: Counter,
    exec: Histogram,
    connections: Counter,
    bytes: Family<Direction, Counter>,
    /// The two of the family.
    to_guest: Counter,
    from_guest: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let bytes = Family::<Direction, Counter>::default();
        let towards = |direction| bytes.get_or_create(&Direction { direction }).clone();
        let wake = Family::new_with_constructor(latencies as fn() -> Histogram);
        for rest in [State::Paused, State::Hibernated, State::Stopped] {
            // What has not happened yet is 0 and not unknown.
            drop(wake.get_or_create(&From { state: rest.as_str() }));
        }
        Metrics {
            to_guest: towards("to_guest"),
            from_guest: towards("from_guest"),
            wake,
            failed_wakes: Counter::default(),
            exec: latencies(),
            connections: Counter::default(),
            bytes,
        }
    }
}

impl Metrics {
    /// Makes them known under their names.
    pub fn register(&self, registry: &mut Registry) {
        let wake = "Time that a connection or request waited for its instance to run, by the state it was woken from";
        registry.register("aegis_wake_seconds", wake, self.wake.clone());
        registry.register(
            "aegis_failed_wakes",
            "Connections and requests whose instance did not come up",
            self.failed_wakes.clone(),
        );
        registry.register(
            "aegis_exec_seconds",
            "Time from a request to execute until the process ran",
            self.exec.clone(),
        );
        registry.register("aegis_connections", "Connections and requests to ports", self.connections.clone());
        registry.register(
            "aegis_connection_bytes",
            "Bytes that connections carried, by direction",
            self.bytes.clone(),
        );
    }

    pub(crate) fn woken(&self, from: State, after: Duration) {
        self.wake.get_or_create(&From { state: from.as_str() }).observe(after.as_secs_f64());
    }

    pub(crate) fn not_woken(&self) {
        self.failed_wakes.inc();
    }

    pub(crate) fn executed(&self, after: Duration) {
        self.exec.observe(after.as_secs_f64());
    }

    pub(crate) fn connected(&self) {
        self.connections.inc();
    }

    pub(crate) fn carried(&self, to_guest: u64, from_guest: u64) {
        self.to_guest.inc_by(to_guest);
        self.from_guest.inc_by(from_guest);
    }
}
