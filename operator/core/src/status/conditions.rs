//! The five conditions. Four of them, with their reasons and messages, are those of the operator of
//! 2022: people's scripts wait for them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Progress, whole_seconds};
use crate::api::v1beta1::{
    ClusterEndpointStatus, Condition, INITIALIZED, PROBES_READY, READY, SYNC_ENDPOINT_READY,
    SYNC_SERVICE_READY,
};
use crate::health::Verdict;
use crate::outcome::{Cause, Reason};
use crate::snapshot::{Endpoint, Snapshot};

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

/// What a condition says, without its times.
struct Says {
    status: &'static str,
    reason: String,
    message: String,
}

fn says(status: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Says {
    let mut message: String = message.into();
    // The API's bound on messages of metav1.Condition.
    if message.len() > 32_768 {
        message.truncate(message.floor_char_boundary(32_760));
        message.push('…');
    }
    Says { status, reason: reason.into(), message }
}

pub(super) fn conditions(
    previous: &ClusterEndpointStatus,
    generation: Option<i64>,
    progress: &Progress<'_>,
    now: Timestamp,
) -> Vec<Condition> {
    let before = |type_: &str| previous.conditions.iter().flatten().find(|c| c.type_ == type_);
    let stays = |type_: &str| match before(type_) {
        Some(c) => {
            let status = [TRUE, FALSE].into_iter().find(|s| *s == c.status).unwrap_or(UNKNOWN);
            says(status, c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default())
        }
        None => says(UNKNOWN, "SpecRefused", "nothing is written until the spec can be carried out"),
    };
    let (service, endpoint) = match progress {
        Progress::SpecRefused(..) => (stays(SYNC_SERVICE_READY), stays(SYNC_ENDPOINT_READY)),
        Progress::ServiceRefused(refusal, _) => (
            says(FALSE, refusal.reason, refusal.message.clone()),
            says(FALSE, "ServiceRefused", "no endpoints are written for a Service that is not ours"),
        ),
        Progress::WriteFailed { service: true, message, .. } => {
            (says(FALSE, "ServiceSyncError", *message), stays(SYNC_ENDPOINT_READY))
        }
        Progress::WriteFailed { service: false, message, .. } => {
            (service_ready(&[]), says(FALSE, "EndpointSyncError", *message))
        }
        Progress::Applied { snapshot, warnings, .. } => (service_ready(warnings), endpoint_ready(snapshot)),
    };
    let probes = probes_ready(progress);
    let ready = ready(progress, [&service, &endpoint]);
    let list = [
        (INITIALIZED, says(TRUE, INITIALIZED, "cluster endpoints has been initialized")),
        (SYNC_SERVICE_READY, service),
        (SYNC_ENDPOINT_READY, endpoint),
        (PROBES_READY, probes),
        (READY, ready),
    ];
    list.into_iter().map(|(type_, says)| stamp(type_, says, before(type_), generation, now)).collect()
}

/// A condition that says the same keeps its times; one that changes its status gets a new transition.
fn stamp(
    type_: &str,
    says: Says,
    before: Option<&Condition>,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let now = Some(Time(whole_seconds(now)));
    let (heartbeat, transition) = match before {
        Some(b) if b.status == says.status => {
            let same = b.reason.as_ref() == Some(&says.reason) && b.message.as_ref() == Some(&says.message);
            let heartbeat = if same { b.last_heartbeat_time.clone().or(now.clone()) } else { now.clone() };
            (heartbeat, b.last_transition_time.clone().or(now))
        }
        _ => (now.clone(), now),
    };
    Condition {
        type_: type_.to_owned(),
        status: says.status.to_owned(),
        reason: Some(says.reason),
        message: Some(says.message),
        observed_generation: generation,
        last_heartbeat_time: heartbeat,
        last_transition_time: transition,
    }
}

fn service_ready(warnings: &[String]) -> Says {
    let mut message = "sync service successfully".to_owned();
    for warning in warnings {
        message.push_str("; warning: ");
        message.push_str(warning);
    }
    says(TRUE, SYNC_SERVICE_READY, message)
}

fn endpoint_ready(snapshot: &Snapshot) -> Says {
    let with = |verdict| snapshot.endpoints.iter().filter(move |e| e.verdict == verdict);
    let out = with(Verdict::Unhealthy).count();
    let pending = with(Verdict::Unknown).count();
    let all = snapshot.endpoints.len();
    if out > 0 {
        let unhealthy: Vec<_> = with(Verdict::Unhealthy).map(|e| (e, e.cause.as_ref())).collect();
        let list = listing(snapshot, &unhealthy);
        return says(
            FALSE,
            "EndpointSyncPortError",
            format!("{out} of {all} endpoints are unhealthy: {list}"),
        );
    }
    if pending > 0 {
        return says(UNKNOWN, "Probing", format!("{pending} of {all} endpoints have not been judged yet"));
    }
    says(TRUE, SYNC_ENDPOINT_READY, "sync endpoint successfully")
}

/// The first few, with port and reason, and how many more there are.
fn listing(snapshot: &Snapshot, endpoints: &[(&Endpoint, Option<&Cause>)]) -> String {
    const SHOWN: usize = 5;
    let several = snapshot.definition.ports.len() > 1;
    let text = |(e, cause): &(&Endpoint, Option<&Cause>)| {
        let port = &snapshot.definition.ports[e.port];
        let place = match e.address {
            Some(address) if address.to_string() != e.host.to_string() => format!("{} ({address})", e.host),
            _ => e.host.to_string(),
        };
        let why = cause.map(|c| format!(" ({})", c.message)).unwrap_or_default();
        // Two ports of the Service may lead to one port of the host.
        let of =
            port.name.as_ref().filter(|_| several).map(|name| format!(" for {name}")).unwrap_or_default();
        format!("{place} port {}{of}{why}", port.target_port)
    };
    let mut list: Vec<String> = endpoints.iter().take(SHOWN).map(text).collect();
    if endpoints.len() > SHOWN {
        list.push(format!("and {} more", endpoints.len() - SHOWN));
    }
    list.join(", ")
}

fn probes_ready(progress: &Progress<'_>) -> Says {
    if let Progress::SpecRefused(errors, _) = progress {
        let worst = errors.iter().map(|e| e.problem).min();
        let reason = worst.map_or("InvalidSpec", |p| p.as_str());
        let text: Vec<String> = errors.iter().map(|e| format!("spec.{e}")).collect();
        return says(FALSE, reason, text.join("; "));
    }
    let Some(snapshot) = progress.snapshot() else {
        return says(UNKNOWN, "Probing", "probing has not begun");
    };
    if snapshot.blind {
        return says(
            FALSE,
            Reason::OperatorBlind,
            "nearly all hosts of unrelated ClusterEndpoints fell silent together, so the operator suspects \
             its own network: no host is taken out for silence until most of them answer again",
        );
    }
    let impeded: Vec<_> = snapshot.endpoints.iter().map(|e| (e, e.obstacle.as_ref())).collect();
    let impeded: Vec<_> = impeded.into_iter().filter(|(_, obstacle)| obstacle.is_some()).collect();
    match impeded.first() {
        Some((_, Some(first))) => {
            // Not "cannot be probed": the last known addresses of a name are, while it does not resolve.
            let list = listing(snapshot, &impeded);
            says(FALSE, first.reason, format!("probing is impeded for {} endpoints: {list}", impeded.len()))
        }
        _ => says(TRUE, PROBES_READY, "all probes can be carried out"),
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.as_str().to_owned()
    }
}

fn ready(progress: &Progress<'_>, others: [&Says; 2]) -> Says {
    let applied = matches!(progress, Progress::Applied { .. });
    if applied && others.iter().all(|c| c.status == TRUE) {
        return says(TRUE, READY, "ClusterEndpoint is available now");
    }
    says(FALSE, "NotReady", "ClusterEndpoint is not available now")
}
