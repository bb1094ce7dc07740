//! The figures: what each is, and how far it should reach.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::progress::say;

/// A figure and its reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) key: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) reach: Reach,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Reach {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
    /// It is told for comparison.
    Told,
}

impl Reach {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Reach::AtMost(most) => value <= most,
            Reach::Below(limit) => value < limit,
            Reach::AtLeast(least) => value >= least,
            Reach::Told => true,
        }
    }
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reach::AtMost(most) => write!(f, "<= {most}"),
            Reach::Below(limit) => write!(f, "< {limit}"),
            Reach::AtLeast(least) => write!(f, ">= {least}"),
            Reach::Told => f.write_str("-"),
        }
    }
}

const fn figure(key: &'static str, unit: &'static str, reach: Reach, what: &'static str) -> Figure {
    Figure { key, what, unit, reach }
}

/// In the order in which they are measured.
pub(crate) const FIGURES: [Figure; 21] = [
    figure(
        "tcp_probe_ratio",
        "",
        Reach::AtMost(1.5),
        "CPU per TCP probe of the prober, over a bare tokio connect+close",
    ),
    figure("tcp_probe_us", "us", Reach::Told, "CPU per TCP probe of the prober, 2 000 a second"),
    figure("tcp_busy_ratio", "", Reach::Told, "as tcp_probe_ratio, both as fast as they can"),
    figure(
        "http_probe_ratio",
        "",
        Reach::AtMost(1.1),
        "CPU per HTTP probe of the prober, over a bare reqwest GET",
    ),
    figure("http_probe_us", "us", Reach::Told, "CPU per HTTP probe of the prober, 2 000 a second"),
    figure("http_busy_ratio", "", Reach::Told, "as http_probe_ratio, both as fast as they can"),
    figure("haproxy_tcp_ratio", "", Reach::AtMost(1.0), "CPU of 10 000 TCP targets at 10 s, over HAProxy"),
    figure("lag_p99_ms", "ms", Reach::Below(100.0), "schedule lag of 10 000 TCP targets at 10 s"),
    figure("haproxy_http_ratio", "", Reach::AtMost(1.0), "CPU of 10 000 HTTP targets at 10 s, over HAProxy"),
    figure(
        "dead_sweep_ratio",
        "",
        Reach::AtLeast(1.0),
        "share of 500 dead ceps, created at 50 a second, judged within 11 s of creation",
    ),
    figure(
        "dead_sweep_burst_ratio",
        "",
        Reach::AtLeast(1.0),
        "the same, created as fast as the API server takes them",
    ),
    figure("steady_writes", "", Reach::AtMost(0.0), "writes other than the Lease with 200 ceps, in 60 s"),
    figure(
        "write_delay_p50_ms",
        "ms",
        Reach::Below(50.0),
        "threshold met -> slice write acknowledged, median",
    ),
    figure(
        "write_delay_p99_ms",
        "ms",
        Reach::Below(250.0),
        "threshold met -> slice write acknowledged, 99 of 100",
    ),
    figure("write_delay_count", "", Reach::AtLeast(200.0), "transitions behind the two figures above"),
    figure("rss_mib", "MiB", Reach::Below(120.0), "resident memory with 2 000 ceps x 3 hosts at 10 s"),
    figure("idle_cores", "cores", Reach::Below(0.10), "CPU with 2 000 ceps x 3 hosts at 10 s"),
    figure("idle_lag_p99_ms", "ms", Reach::Told, "schedule lag with 2 000 ceps x 3 hosts at 10 s"),
    figure("full_rss_mib", "MiB", Reach::Below(300.0), "resident memory with 10 000 ceps x 3 hosts at 10 s"),
    figure("full_cores", "cores", Reach::Below(0.4), "CPU with 10 000 ceps x 3 hosts at 10 s"),
    figure("full_lag_p99_ms", "ms", Reach::Below(250.0), "schedule lag with 10 000 ceps x 3 hosts at 10 s"),
];

/// All keys.
pub(crate) fn keys() -> [&'static str; FIGURES.len()] {
    FIGURES.map(|figure| figure.key)
}

/// The figures as a table for `--help`.
pub(crate) fn help() -> String {
    let lines = FIGURES.map(|f| format!("  {:<20} {:>8}  {}", f.key, f.reach.to_string(), f.what));
    format!("Keys, how far they should reach, and what they are:\n{}", lines.join("\n"))
}

/// A figure as measured: `value` is the median of `samples` where there are several.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) key: &'static str,
    pub(crate) value: f64,
    pub(crate) samples: Vec<f64>,
    /// What else was seen on the way.
    pub(crate) details: Map<String, Value>,
}

impl Measured {
    /// A single value.
    pub(crate) fn one(key: &'static str, value: f64) -> Self {
        Self { key, value, samples: vec![value], details: Map::new() }
    }

    /// The median of some.
    pub(crate) fn median(key: &'static str, samples: Vec<f64>) -> Self {
        Self { key, value: crate::statistics::median(&samples), samples, details: Map::new() }
    }

    /// With something that explains it.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) quick: bool,
    pub(crate) measured: BTreeMap<&'static str, Measured>,
    /// What could not be measured, and why.
    pub(crate) failures: BTreeMap<&'static str, String>,
}

impl Results {
    pub(crate) fn new(quick: bool) -> Self {
        Self { quick, measured: BTreeMap::new(), failures: BTreeMap::new() }
    }

    /// Takes in what one measurement gave; one that fails does not stop the others.
    pub(crate) fn take(&mut self, key: &'static str, result: Result<Vec<Measured>>) {
        match result {
            Ok(measured) => self.measured.extend(measured.into_iter().map(|m| (m.key, m))),
            Err(error) => {
                say!("{key}: FAILED: {error:#}");
                self.failures.insert(key, format!("{error:#}"));
            }
        }
    }
}
