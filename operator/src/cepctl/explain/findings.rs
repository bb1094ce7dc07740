//! Status, slices and the operator's own account put together.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cep_core::api::v1beta1::{ClusterEndpoint, EndpointStatus, ServicePort};
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde::Serialize;

use super::advice;
use super::live::Live;

/// What is to be said about one ClusterEndpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) phase: String,
    /// Served, of all.
    pub(super) ready: String,
    /// Whether the operator has worked off the last change of the spec.
    pub(super) current: bool,
    pub(super) conditions: Vec<ConditionExplained>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Endpoints that neither the status nor the slices tell about.
    pub(super) notes: Vec<String>,
}

/// A condition in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConditionExplained {
    #[serde(rename = "type")]
    pub(super) type_: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) since: Option<Timestamp>,
    /// What it means and what to do.
    pub(super) advice: Option<String>,
}

impl ConditionExplained {
    pub(super) fn is_good(&self) -> bool {
        self.status == "True" && self.advice.is_none()
    }
}

/// One address of one host on one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    /// Name of the port, or its number.
    pub(super) port: String,
    pub(super) host: String,
    pub(super) address: Option<String>,
    pub(super) check: Option<String>,
    /// Whether traffic goes there; unknown where there is no slice for it.
    pub(super) served: Option<bool>,
    pub(super) verdict: String,
    pub(super) since: Option<Timestamp>,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
    /// Outcomes in a row that disagree with the verdict, and how many of them change it.
    pub(super) against: Option<(u32, u32)>,
    pub(super) last_probe: Option<Timestamp>,
    pub(super) last_outcome: Option<String>,
    pub(super) last_duration_ms: Option<f64>,
    pub(super) next_probe: Option<Timestamp>,
    pub(super) advice: Option<String>,
}

/// Readiness by port name and address, as the slices have it.
type Listed = BTreeMap<(String, IpAddr), bool>;

pub(super) fn of(
    cep: &ClusterEndpoint,
    slices: &[EndpointSlice],
    live: Option<&Live>,
    now: Timestamp,
) -> Explanation {
    let status = cep.status.clone().unwrap_or_default();
    let namespace = cep.namespace().unwrap_or_default();
    let listed = listed(slices);
    let current = status.observed_generation.is_some()
        && (cep.metadata.generation.is_none() || status.observed_generation >= cep.metadata.generation);
    let of_operator = live.and_then(|live| Some((live, live.cep(&namespace, &cep.name_any())?)));
    let mut endpoints = match of_operator {
        Some((live, overview)) => overview
            .endpoints
            .iter()
            .map(|endpoint| {
                let name = port_name(&cep.spec.ports, endpoint.port_number.into());
                let served = lookup(&listed, &name, endpoint.address.as_deref());
                let local = |at: Timestamp| at.checked_sub(live.ahead).unwrap_or(at);
                // Of a host in doubt the last probe tells why.
                let doubt = endpoint.last.as_ref().filter(|_| endpoint.against > 0);
                Endpoint {
                    port: endpoint.port.clone(),
                    host: endpoint.host.clone(),
                    address: endpoint.address.clone(),
                    check: Some(endpoint.check.clone()),
                    served: served.or(Some(endpoint.served).filter(|served| !served)),
                    verdict: endpoint.verdict.clone(),
                    since: Some(local(endpoint.since)),
                    reason: endpoint.reason.clone().or_else(|| doubt?.reason.clone()),
                    message: endpoint.message.clone().or_else(|| doubt?.message.clone()),
                    against: (endpoint.against > 0).then_some((endpoint.against, endpoint.threshold)),
                    last_probe: endpoint.last.as_ref().map(|last| local(last.at)),
                    last_outcome: endpoint.last.as_ref().map(|last| last.outcome.clone()),
                    last_duration_ms: endpoint.last.as_ref().map(|last| last.duration_ms),
                    next_probe: endpoint.next_probe.map(local),
                    advice: None,
                }
            })
            .collect(),
        None => from_status(cep, &status.endpoints.unwrap_or_default(), &listed),
    };
    for endpoint in &mut endpoints {
        endpoint.advice = advice::endpoint(endpoint, cep.spec.panic_threshold);
    }
    let conditions = status.conditions.unwrap_or_default();
    let conditions: Vec<ConditionExplained> = conditions
        .into_iter()
        .map(|condition| {
            let reason = condition.reason.unwrap_or_default();
            let message = condition.message.unwrap_or_default();
            ConditionExplained {
                advice: advice::condition(&condition.type_, &condition.status, &reason, &message),
                type_: condition.type_,
                status: condition.status,
                reason,
                message,
                since: condition.last_transition_time.map(|time| time.0),
            }
        })
        .collect();
    Explanation {
        notes: notes(cep, current, live.is_some() && of_operator.is_none(), now),
        namespace,
        name: cep.name_any(),
        phase: status.phase.map_or("unknown", |phase| phase.as_str()).to_owned(),
        ready: status.ready.unwrap_or_default(),
        current,
        conditions,
        endpoints,
    }
}

fn notes(cep: &ClusterEndpoint, current: bool, unknown_to_operator: bool, now: Timestamp) -> Vec<String> {
    let mut notes = Vec::new();
    if cep.status.is_none() {
        let age = cep.metadata.creation_timestamp.as_ref().map(|time| now.duration_since(time.0).as_secs());
        notes.push(match age {
            Some(age) if age < 15 => "created just now; the operator has not come to it yet".to_owned(),
            _ => "the operator has never looked at it: see that endpoints-operator runs, and that its Lease \
                  has a holder (kubectl get lease -A)"
                .to_owned(),
        });
    } else if !current {
        notes.push(
            "the last change of the spec has not been worked off yet; what follows is about the one before"
                .to_owned(),
        );
    }
    if unknown_to_operator {
        notes.push(
            "the operator does not probe it: its spec is refused (see the conditions), or just new"
                .to_owned(),
        );
    }
    if cep.metadata.deletion_timestamp.is_some() {
        let finalizers = cep.finalizers().join(", ");
        notes.push(format!("it is being deleted; what it still waits for: {finalizers}"));
    }
    notes
}

fn listed(slices: &[EndpointSlice]) -> Listed {
    let mut listed = Listed::new();
    for slice in slices {
        let names = slice.ports.iter().flatten().map(|port| port.name.clone().unwrap_or_default());
        for name in names {
            for endpoint in slice.endpoints.iter().flatten() {
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                for address in endpoint.addresses.iter().filter_map(|address| address.parse().ok()) {
                    // kube-proxy uses an address that any of two slices calls ready, or may.
                    *listed.entry((name.clone(), address)).or_insert(false) |= ready;
                }
            }
        }
    }
    listed
}

fn lookup(listed: &Listed, port: &str, address: Option<&str>) -> Option<bool> {
    listed.get(&(port.to_owned(), address?.parse().ok()?)).copied()
}

/// The name in the Service, empty for a nameless one.
fn port_name(ports: &[ServicePort], number: i32) -> String {
    ports.iter().find(|port| port.port == number).and_then(|port| port.name.clone()).unwrap_or_default()
}

/// Without the operator: what the status lists, and then what the slices list besides. The status
/// lists the unhealthy ones first, so that what it leaves out is healthy.
fn from_status(cep: &ClusterEndpoint, statuses: &[EndpointStatus], listed: &Listed) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    let mut rest = listed.clone();
    for status in statuses {
        let name = port_name(&cep.spec.ports, status.port);
        if let Some(address) = status.address.as_deref().and_then(|address| address.parse().ok()) {
            rest.remove(&(name.clone(), address));
        }
        endpoints.push(Endpoint {
            served: lookup(listed, &name, status.address.as_deref()),
            port: if name.is_empty() { status.port.to_string() } else { name },
            host: status.host.clone(),
            address: status.address.clone(),
            verdict: status.verdict.clone(),
            since: status.since.as_ref().map(|time| time.0),
            reason: status.reason.clone(),
            message: status.message.clone(),
            ..Endpoint::default()
        });
    }
    for ((name, address), ready) in rest {
        let port = cep.spec.ports.iter().find(|port| port.name.clone().unwrap_or_default() == name);
        let number = port.map(|port| port.port.to_string()).unwrap_or_default();
        endpoints.push(Endpoint {
            host: host_of(cep, port, address),
            port: if name.is_empty() { number } else { name },
            address: Some(address.to_string()),
            served: Some(ready),
            verdict: if ready { "Healthy" } else { "Unhealthy" }.to_owned(),
            ..Endpoint::default()
        });
    }
    endpoints
}

/// The host that an address belongs to, as far as the spec alone tells.
fn host_of(cep: &ClusterEndpoint, port: Option<&ServicePort>, address: IpAddr) -> String {
    let own = port.and_then(|port| port.hosts.as_ref()).filter(|hosts| !hosts.is_empty());
    let hosts = own.or(cep.spec.hosts.as_ref()).cloned().unwrap_or_default();
    if hosts.iter().any(|host| host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == address)) {
        return address.to_string();
    }
    let names: Vec<&String> = hosts.iter().filter(|host| host.parse::<IpAddr>().is_err()).collect();
    match names[..] {
        [only] => only.clone(),
        _ => "?".to_owned(),
    }
}
