//! Which endpoints are served: verdicts, ports without probe, and the panic threshold.

use crate::health::Verdict;
use crate::snapshot::Snapshot;

/// What happens with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Listed as ready: traffic goes there.
    Ready,
    /// Listed as not ready.
    Out,
    /// Not listed: never judged, or without address.
    Unlisted,
}

/// Decides for every endpoint of the snapshot, in its order.
///
/// Of a port with fewer healthy endpoints than the panic threshold (a percentage of those that have
/// been judged) all are served: when nearly everything is out, spreading the load over hosts that may
/// be alive beats crushing the few that are left. The rule and its name are Envoy's.
pub fn serve(snapshot: &Snapshot) -> Vec<Serving> {
    let panicking = panicking_ports(snapshot);
    snapshot
        .endpoints
        .iter()
        .map(|endpoint| match endpoint.verdict {
            _ if endpoint.address.is_none() => Serving::Unlisted,
            _ if panicking[endpoint.port] => Serving::Ready,
            Verdict::Healthy => Serving::Ready,
            Verdict::Unhealthy => Serving::Out,
            Verdict::Unknown => Serving::Unlisted,
        })
        .collect()
}

/// Which ports are below their panic threshold.
pub fn panicking_ports(snapshot: &Snapshot) -> Vec<bool> {
    let definition = &snapshot.definition;
    let mut judged = vec![0u32; definition.ports.len()];
    let mut healthy = vec![0u32; definition.ports.len()];
    for endpoint in &snapshot.endpoints {
        judged[endpoint.port] += u32::from(endpoint.verdict != Verdict::Unknown);
        healthy[endpoint.port] += u32::from(endpoint.verdict == Verdict::Healthy);
    }
    judged
        .iter()
        .zip(&healthy)
        .map(|(judged, healthy)| healthy * 100 < judged * definition.panic_threshold)
        .collect()
}

#[cfg(test)]
mod tests;
