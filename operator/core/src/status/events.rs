//! What is worth an Event: a change, told once.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Progress, explanation};
use crate::api::v1beta1::{
    ClusterEndpointStatus, PROBES_READY, Protocol, SYNC_ENDPOINT_READY, SYNC_SERVICE_READY,
};
use crate::check::Host;
use crate::health::Verdict;
use crate::snapshot::{Endpoint, Snapshot};

/// The API's bound on `note` of an `events.k8s.io/v1` Event.
const MAX_NOTE: usize = 1024;
/// Transitions that get an Event of their own; beyond, one Event tells how many there were.
const MAX_SINGLE: usize = 4;

/// An Event, without the machinery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// CamelCase.
    pub reason: String,
    /// What the operator did.
    pub action: &'static str,
    /// For people; at most 1024 bytes.
    pub note: String,
}

impl Notice {
    /// A notice whose note is cut to what the API accepts.
    pub fn new(
        warning: bool,
        reason: impl Into<String>,
        action: &'static str,
        note: impl Into<String>,
    ) -> Self {
        let mut note: String = note.into();
        if note.len() > MAX_NOTE {
            note.truncate(note.floor_char_boundary(MAX_NOTE - 3));
            note.push('…');
        }
        Self { warning, reason: reason.into(), action, note }
    }
}

/// Transitions between two snapshots of the same cep.
pub fn changes(before: &Snapshot, after: &Snapshot) -> Vec<Notice> {
    let mut notices = Vec::new();
    let former = verdicts(before);
    let turned = |e: &Endpoint| {
        let port = &after.definition.ports[e.port];
        match former.get(&(port.port, port.protocol, port.target_port, &e.host, e.address)) {
            Some(verdict) => *verdict != e.verdict,
            None => e.verdict == Verdict::Unhealthy,
        }
    };
    for (verdict, warning, reason) in
        [(Verdict::Unhealthy, true, "HostUnhealthy"), (Verdict::Healthy, false, "HostHealthy")]
    {
        let turned: Vec<&Endpoint> =
            after.endpoints.iter().filter(|e| e.verdict == verdict && turned(e)).collect();
        if turned.len() > MAX_SINGLE {
            let some: Vec<String> = turned.iter().take(3).map(|e| place(after, e)).collect();
            let word = if warning { "taken out" } else { "served again" };
            let note = format!("{} endpoints were {word}: {} and more", turned.len(), some.join(", "));
            notices.push(Notice::new(warning, reason, "Probe", note));
            continue;
        }
        for endpoint in turned {
            let place = place(after, endpoint);
            let note = match explanation(endpoint) {
                Some(cause) if warning => format!("{place} is taken out: {cause}"),
                _ if warning => format!("{place} is taken out"),
                _ => format!("{place} answers and is served"),
            };
            notices.push(Notice::new(warning, reason, "Probe", note));
        }
    }
    notices
}

/// Port and protocol of the Service, port of the host, and the host with its address.
type Place<'a> = (u16, Protocol, u16, &'a Host, Option<IpAddr>);

/// Verdicts by place, so that large ceps are compared in one pass.
fn verdicts(snapshot: &Snapshot) -> HashMap<Place<'_>, Verdict> {
    let mut verdicts = HashMap::with_capacity(snapshot.endpoints.len());
    for e in &snapshot.endpoints {
        let port = &snapshot.definition.ports[e.port];
        verdicts.insert((port.port, port.protocol, port.target_port, &e.host, e.address), e.verdict);
    }
    verdicts
}

fn place(snapshot: &Snapshot, endpoint: &Endpoint) -> String {
    let port = &snapshot.definition.ports[endpoint.port];
    let address =
        endpoint.address.map(|a| format!(" ({a})")).filter(|_| matches!(endpoint.host, Host::Name(_)));
    format!("{}{} port {}", endpoint.host, address.unwrap_or_default(), port.target_port)
}

/// The Event of a refusal or failure that the previous status did not tell yet.
pub fn notice_of_refusal(
    previous: Option<&ClusterEndpointStatus>,
    now: &ClusterEndpointStatus,
    progress: &Progress<'_>,
) -> Option<Notice> {
    let type_ = match progress {
        Progress::SpecRefused(..) => PROBES_READY,
        Progress::ServiceRefused(..) | Progress::WriteFailed { service: true, .. } => SYNC_SERVICE_READY,
        Progress::WriteFailed { service: false, .. } => SYNC_ENDPOINT_READY,
        Progress::Applied { snapshot, .. } if snapshot.endpoints.iter().any(|e| e.obstacle.is_some()) => {
            PROBES_READY
        }
        Progress::Applied { .. } => return None,
    };
    let of = |status: &ClusterEndpointStatus| {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == type_)?;
        Some((condition.reason.clone()?, condition.message.clone()?))
    };
    let (reason, message) = of(now)?;
    let told = previous.and_then(of).is_some_and(|(r, m)| r == reason && m == message);
    // "Blind" concerns the operator, which tells it once about itself.
    let about_operator = reason == crate::outcome::Reason::OperatorBlind.as_str();
    (!told && !about_operator).then(|| Notice::new(true, reason, "Reconcile", message))
}
