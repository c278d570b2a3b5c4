//! Figures with their samples, percentiles and marks.

use serde_json::{Value, json};

/// What a figure has to reach.
#[derive(Debug, Clone, Copy)]
enum Mark {
    AtMost(f64),
    AtLeast(f64),
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
    /// The mark, and the value that is held against it if that is not the median.
    mark: Option<(Mark, Option<f64>)>,
}

/// The sample below which a share of all samples is.
pub(crate) fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a position in a short list")]
    let at = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

impl Figure {
    pub(crate) fn plain(name: &str, unit: &'static str, samples: Vec<f64>) -> Figure {
        Figure { name: name.to_owned(), unit, samples, mark: None }
    }

    pub(crate) fn at_most(name: &str, unit: &'static str, samples: Vec<f64>, limit: f64) -> Figure {
        Figure { mark: Some((Mark::AtMost(limit), None)), ..Figure::plain(name, unit, samples) }
    }

    fn held(&self) -> f64 {
        self.mark.and_then(|(_, ratio)| ratio).unwrap_or_else(|| percentile(&self.samples, 0.5))
    }

    fn reached(&self) -> Option<bool> {
        let held = self.held();
        self.mark.map(|(mark, _)| match mark {
            Mark::AtMost(limit) => held <= limit,
            Mark::AtLeast(limit) => held >= limit,
        })
    }

    fn verdict(&self) -> String {
        let Some((mark, ratio)) = self.mark else { return String::new() };
        let (sign, limit) = match mark {
            Mark::AtMost(limit) => ("≤", limit),
            Mark::AtLeast(limit) => ("≥", limit),
        };
        let times = if ratio.is_some() { " ×" } else { "" };
        let word = if self.reached() == Some(true) { "reached" } else { "MISSED" };
        format!("{:.2}{times} ({sign} {limit}{times}: {word})", self.held())
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "samples": self.samples,
            "p50": percentile(&self.samples, 0.5), "p99": percentile(&self.samples, 0.99),
            "held": self.held(), "reached": self.reached(),
        })
    }
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    fn pair(&mut self, ours: Figure, yardstick_name: &str, yardstick: Vec<f64>, mark: Mark) {
        let ratio = percentile(&ours.samples, 0.5) / percentile(&yardstick, 0.5);
        let unit = ours.unit;
        self.add(Figure { mark: Some((mark, Some(ratio))), ..ours });
        self.add(Figure::plain(&format!("  against {yardstick_name}"), unit, yardstick));
    }

    /// A figure that may be at most `limit` times its yardstick, by the medians.
    pub(crate) fn ratio(
        &mut self,
        name: &str,
        unit: &'static str,
        ours: Vec<f64>,
        yardstick_name: &str,
        yardstick: Vec<f64>,
        limit: f64,
    ) {
        self.pair(Figure::plain(name, unit, ours), yardstick_name, yardstick, Mark::AtMost(limit));
    }

    /// A figure that must be at least `limit` times its yardstick, by the medians.
    pub(crate) fn at_least_ratio(
        &mut self,
        name: &str,
        unit: &'static str,
        ours: Vec<f64>,
        yardstick_name: &str,
        yardstick: Vec<f64>,
        limit: f64,
    ) {
        self.pair(Figure::plain(name, unit, ours), yardstick_name, yardstick, Mark::AtLeast(limit));
    }

    pub(crate) fn print(&self) {
        println!("{:<62} {:>10} {:>10}  {:<12} mark", "figure", "p50", "p99", "unit");
        for figure in &self.figures {
            let (p50, p99) = (percentile(&figure.samples, 0.5), percentile(&figure.samples, 0.99));
            println!("{:<62} {p50:>10.2} {p99:>10.2}  {:<12} {}", figure.name, figure.unit, figure.verdict());
        }
    }

    pub(crate) fn json(&self) -> String {
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        serde_json::to_string_pretty(&figures).unwrap_or_default()
    }
}
