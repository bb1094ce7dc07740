//! What the operator says about a `ClusterEndpoint`.
//!
//! A status is computed from the previous one and compared with it before anything is written:
//! unchanged conditions keep their times, so that equal circumstances give equal statuses and the
//! steady state writes nothing.

mod conditions;
mod events;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use events::{Notice, changes, notice_of_refusal};

use crate::api::v1beta1::{ClusterEndpointStatus, EndpointStatus, Phase};
use crate::check::{Definition, FieldError};
use crate::fail_open::{Serving, serve};
use crate::health::Verdict;
use crate::outcome::{Cause, Reason};
use crate::plan::Refusal;
use crate::snapshot::{Endpoint, Seed, Seeds, Snapshot, Told};

/// At most this many endpoints are listed, those that are not healthy first.
pub const MAX_ENDPOINTS: usize = 64;

/// How a reconcile ended.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// The spec cannot be carried out: why (never empty), and what is probed and served by the last one
    /// that could, if this process knows it.
    SpecRefused(&'a [FieldError], Option<&'a Snapshot>),
    /// The Service must not be touched.
    ServiceRefused(&'a Refusal, &'a Snapshot),
    /// A write failed.
    WriteFailed {
        /// Whether it was the Service, rather than slices or Endpoints.
        service: bool,
        /// What the API server said.
        message: &'a str,
        /// What is probed.
        snapshot: &'a Snapshot,
    },
    /// Everything is written.
    Applied {
        /// What is probed.
        snapshot: &'a Snapshot,
        /// What is served, by endpoint.
        serving: &'a [Serving],
        /// Things that work but will surprise: traffic policies, families.
        warnings: &'a [String],
    },
}

impl<'a> Progress<'a> {
    /// What is probed, if anything.
    pub fn snapshot(&self) -> Option<&'a Snapshot> {
        match self {
            Progress::SpecRefused(_, snapshot) => *snapshot,
            Progress::ServiceRefused(_, snapshot)
            | Progress::WriteFailed { snapshot, .. }
            | Progress::Applied { snapshot, .. } => Some(snapshot),
        }
    }
}

/// The status after a reconcile.
pub fn status(
    previous: Option<&ClusterEndpointStatus>,
    generation: Option<i64>,
    progress: &Progress<'_>,
    now: Timestamp,
) -> ClusterEndpointStatus {
    let empty = ClusterEndpointStatus::default();
    let previous = previous.unwrap_or(&empty);
    let (ready, endpoints) = match progress {
        // The last good Service stays, and so does what was known of it.
        Progress::SpecRefused(_, None) => (previous.ready.clone(), previous.endpoints.clone()),
        Progress::SpecRefused(_, Some(snapshot)) => {
            (Some(ready(snapshot, &serve(snapshot))), Some(list_endpoints(snapshot)))
        }
        Progress::ServiceRefused(_, snapshot) | Progress::WriteFailed { snapshot, .. } => {
            (previous.ready.clone(), Some(list_endpoints(snapshot)))
        }
        Progress::Applied { snapshot, serving, .. } => {
            (Some(ready(snapshot, serving)), Some(list_endpoints(snapshot)))
        }
    };
    ClusterEndpointStatus {
        observed_generation: generation,
        phase: Some(phase(progress)),
        ready,
        conditions: Some(conditions::conditions(previous, generation, progress, now)),
        endpoints,
    }
}

/// `Healthy`: every probed endpoint is. `UnHealthy`: one is not, or the spec cannot be applied.
/// `Pending`: not all are judged yet.
fn phase(progress: &Progress<'_>) -> Phase {
    let Progress::Applied { snapshot, .. } = progress else { return Phase::UnHealthy };
    let any = |verdict| snapshot.endpoints.iter().any(|e| e.verdict == verdict);
    match () {
        () if any(Verdict::Unhealthy) => Phase::UnHealthy,
        () if any(Verdict::Unknown) => Phase::Pending,
        () => Phase::Healthy,
    }
}

fn ready(snapshot: &Snapshot, serving: &[Serving]) -> String {
    let served = serving.iter().filter(|s| **s == Serving::Ready).count();
    format!("{served}/{}", snapshot.endpoints.len())
}

fn list_endpoints(snapshot: &Snapshot) -> Vec<EndpointStatus> {
    let mut order: Vec<&Endpoint> = snapshot.endpoints.iter().collect();
    // Stable: within a rank the order of the spec.
    order.sort_by_key(|e| match (e.verdict, &e.obstacle) {
        (Verdict::Unhealthy, _) => 0,
        (Verdict::Unknown, _) => 1,
        (Verdict::Healthy, Some(_)) => 2,
        (Verdict::Healthy, None) => 3,
    });
    order.into_iter().take(MAX_ENDPOINTS).map(|e| list_endpoint(snapshot, e)).collect()
}

fn list_endpoint(snapshot: &Snapshot, endpoint: &Endpoint) -> EndpointStatus {
    let cause = explanation(endpoint);
    EndpointStatus {
        port: i32::from(snapshot.definition.ports[endpoint.port].port),
        host: endpoint.host.to_string(),
        address: endpoint.address.map(|a| a.to_string()),
        verdict: endpoint.verdict.to_string(),
        since: Some(Time(whole_seconds(endpoint.since))),
        reason: cause.map(|c| c.reason.to_string()),
        message: cause.map(|c| c.message.to_string()),
    }
}

/// Why an endpoint is not simply healthy.
fn explanation(endpoint: &Endpoint) -> Option<&Cause> {
    match endpoint.verdict {
        Verdict::Unhealthy => endpoint.cause.as_ref(),
        _ => endpoint.obstacle.as_ref(),
    }
}

/// Kubernetes stores times in whole seconds; comparing finer ones would find changes that are none.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// What a status tells otherwise than a snapshot of verdicts that both agree on: since when, or why.
pub fn told_otherwise(status: &ClusterEndpointStatus, snapshot: &Snapshot) -> Vec<Told> {
    let told = status.endpoints.iter().flatten().filter_map(told);
    told.filter(|told| {
        let ports = &snapshot.definition.ports;
        let endpoint = snapshot.endpoints.iter().find(|e| told.is_of(ports[e.port].port, &e.host, e.address));
        endpoint.is_some_and(|e| {
            let same = whole_seconds(e.since) == told.since && e.cause == told.cause;
            e.verdict == told.verdict && !same
        })
    })
    .collect()
}

fn told(status: &EndpointStatus) -> Option<Told> {
    let verdict = status.verdict.parse().ok()?;
    let cause = match (&status.reason, &status.message, verdict) {
        (Some(reason), Some(message), Verdict::Unhealthy) => {
            Some(Cause::new(Reason::from_word(reason), message.clone()))
        }
        _ => None,
    };
    Some(Told {
        port: u16::try_from(status.port).ok()?,
        host: status.host.clone(),
        address: status.address.as_deref().map(str::parse).transpose().ok()?,
        verdict,
        since: status.since.as_ref()?.0,
        cause,
    })
}

/// Fills in, from a status, since when and why the seeds hold; slices only know what. Below a panic
/// threshold slices list unhealthy hosts as ready; the status knows better.
pub fn recall(seeds: &mut Seeds, status: Option<&ClusterEndpointStatus>, definition: &Definition) {
    for told in status.and_then(|s| s.endpoints.as_deref()).unwrap_or_default().iter().filter_map(told) {
        let Some(address) = told.address.filter(|_| told.verdict != Verdict::Unknown) else { continue };
        let ports: Vec<_> = definition.ports.iter().filter(|p| p.port == told.port).collect();
        // A status does not say whether it means port 53 of TCP or of UDP: then only what both know counts.
        let panics = definition.panic_threshold > 0 && ports.len() == 1;
        for port in ports {
            let name = port.name.as_deref();
            let trusted = seeds.get(name, port.target_port, address).is_some_and(|seed| {
                seed.verdict == told.verdict || panics && told.verdict == Verdict::Unhealthy
            });
            if trusted {
                let (since, cause) = (Some(told.since), told.cause.clone());
                seeds.replace(name, port.target_port, address, Seed { verdict: told.verdict, since, cause });
            }
        }
    }
}

#[cfg(test)]
mod tests;
