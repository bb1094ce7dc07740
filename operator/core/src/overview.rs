//! What the operator tells about itself, live: the JSON of the status page and of `cepctl explain`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Everything one operator process probes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// Of the operator.
    pub version: String,
    /// The holder identity it uses in the Lease.
    pub identity: String,
    /// Whether it holds the Lease, and so is the one that writes.
    pub leader: bool,
    /// Whether it doubts its own eyes and holds evictions back.
    pub blind: bool,
    /// When it started.
    pub started: Timestamp,
    /// When this was put together.
    pub now: Timestamp,
    /// Distinct targets probed (equal ones are probed once).
    pub targets: usize,
    /// Sorted by namespace and name.
    pub ceps: Vec<CepOverview>,
}

/// One `ClusterEndpoint`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CepOverview {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// In the order of the spec.
    pub endpoints: Vec<EndpointOverview>,
}

/// One address of one host, on one port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointOverview {
    /// Name of the port, or its number.
    pub port: String,
    /// Port of the Service.
    pub port_number: u16,
    /// Port of the host.
    pub target_port: u16,
    /// As the spec lists it.
    pub host: String,
    /// `None` while a DNS name has no answer.
    pub address: Option<String>,
    /// `tcp`, `http`, `https`, a module's name, or `none`.
    pub check: String,
    /// `Healthy`, `Unhealthy` or `Unknown`.
    pub verdict: String,
    /// Whether traffic goes there.
    pub served: bool,
    /// Since when the verdict is in force.
    pub since: Timestamp,
    /// Why it is unhealthy, or why probing learns nothing.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// The latest probe, if there was one.
    pub last: Option<LastProbe>,
    /// Consecutive outcomes that disagree with the verdict.
    pub against: u32,
    /// How many of them change it.
    pub threshold: u32,
    /// When the next probe is due; `None` while one is running, without an address, and of a port that is
    /// not probed.
    pub next_probe: Option<Timestamp>,
    /// Seconds between probes.
    pub period_seconds: u64,
}

/// The latest probe of an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastProbe {
    /// When it ended.
    pub at: Timestamp,
    /// `success`, `failure` or `unknown`.
    pub outcome: String,
    /// Why not a success.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
}
