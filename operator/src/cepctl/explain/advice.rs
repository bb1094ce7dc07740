//! What reasons mean, and what to do. The words are those of conditions and of `status.endpoints`.

use cep_core::outcome::Reason;

use super::findings::Endpoint;

/// What a condition that is not as it should be means, beyond its own message.
pub(super) fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Option<String> {
    let text = match reason {
        "ServiceHasSelector" => {
            "The Service of this name belongs to Pods: while it has spec.selector, Kubernetes fills it. Nothing \
             was changed. Remove the selector if the Pods are gone, or rename the ClusterEndpoint."
        }
        "ServiceIsExternalName" => {
            "A Service of type ExternalName is a DNS alias and has no endpoints. Delete it, and the operator \
             makes one; list the name it leads to in spec.hosts."
        }
        "ServiceHasOwner" => {
            "Another controller keeps the Service of this name and would undo every change. Rename the \
             ClusterEndpoint, or have that controller let go of the Service."
        }
        "ClusterIPMismatch" => {
            "Kubernetes does not let a Service change its cluster IP, and to delete it would cut every client. \
             Set spec.clusterIP as the Service has it (in a new ClusterEndpoint: the field is immutable), or \
             delete the Service at a quiet moment; the operator makes it anew."
        }
        "ForeignEndpointSlices" => {
            "A controller of somebody else writes EndpointSlices for this Service, and kube-proxy would use \
             both. Stop that controller or delete its slices (kubectl get endpointslices -l \
             kubernetes.io/service-name=NAME), or rename the ClusterEndpoint."
        }
        "ServiceRefused" => "Follows from SyncServiceReady: see there.",
        "ServiceSyncError" | "EndpointSyncError" => {
            "The API server refused a write; it is tried again. When it says \"forbidden\", the operator's \
             role lacks a permission: install its chart again."
        }
        "EndpointSyncPortError" => {
            "The endpoints are written; hosts are out because their probes fail. See the hosts above."
        }
        "Probing" => "Hosts are served from their first success on; that takes a period at most.",
        "InvalidSpec" => {
            "The spec can never work as it stands: correct the field that the message names. What was in \
             force before stays in force."
        }
        "SpecRefused" => "Follows from ProbesReady: see there.",
        "ProbeKindNotBuilt" => {
            "The version of the operator that runs cannot carry out this kind of probe. Use another one, or a \
             newer operator."
        }
        "ReferenceNotReady" => {
            "A Secret or ConfigMap that a probe refers to is missing or must not be read. Create it in the \
             ClusterEndpoint's own namespace; for leave to read Secrets see value rbac.secrets of the chart. \
             What was in force before stays in force."
        }
        "OperatorBlind" => {
            "So many unrelated hosts fell silent at once that the operator doubts its own network and takes \
             none out. See the network of the operator's node: routes, NetworkPolicies, firewall. Verdicts go \
             on by themselves once hosts answer again."
        }
        "NotResolved" => "A DNS name has no answer: see it with cepctl probe, and the cluster's DNS servers.",
        "Misconfigured" => "A probe cannot work as it is configured; no host is taken out for that.",
        "ResourceExhausted" => "The operator lacks file descriptors or memory: raise its limits.",
        "SchedulerLate" => "The operator has too little CPU to probe in time: raise its limits.",
        _ => "",
    };
    let mut text = text.to_owned();
    if status == "True" {
        // In a condition that holds, only warnings are worth a word.
        text = match message.split_once("; warning: ") {
            Some((_, warning)) if warning.contains("TrafficPolicy") => {
                "Traffic to hosts outside the cluster is dropped under policy Local: set it to Cluster on the \
                 Service."
                    .to_owned()
            }
            Some(_) => "It works, but see the warning.".to_owned(),
            None => String::new(),
        };
    } else if text.is_empty() && type_ != "Ready" {
        text = "See the message; cepctl probe tries the probes from where you stand.".to_owned();
    }
    (!text.is_empty()).then_some(text)
}

/// Why an endpoint is in or out, when that is not plain from its verdict.
pub(super) fn endpoint(endpoint: &Endpoint, panic_threshold: i32) -> Option<String> {
    match (endpoint.verdict.as_str(), endpoint.served) {
        ("Unhealthy", Some(true)) if panic_threshold > 0 => {
            return Some(format!(
                "served although unhealthy: fewer than {panic_threshold} % of the hosts of this port are \
                 healthy, so all of them are served (panicThreshold)"
            ));
        }
        ("Unhealthy", Some(true)) => {
            return Some("served although unhealthy: the slice is about to be written".to_owned());
        }
        ("Healthy", Some(false)) => {
            return Some(
                "out although healthy: the slice is about to be written, or somebody changed it".to_owned(),
            );
        }
        _ => {}
    }
    let reason = endpoint.reason.as_deref().map(Reason::from_word)?;
    let text = match reason {
        Reason::ConnectionRefused => {
            "the host is up, but nothing listens on the port: start the server, or see targetPort"
        }
        Reason::ConnectionReset => {
            "something accepts connections and drops them: a proxy without a backend, a limit, or another \
             protocol (TLS?)"
        }
        Reason::Timeout => {
            "packets get no answer in time: host down, a firewall or route in between, or timeoutSeconds too short"
        }
        Reason::ResponseTimeout => {
            "the host accepts connections, but the server behind the port hangs, or timeoutSeconds is too short"
        }
        Reason::HostUnreachable | Reason::NetworkUnreachable => {
            "no way to the host: it is off, or a route is missing between the operator's node and it"
        }
        Reason::TlsFailed => {
            "see the certificate and tls of the port: serverName, caFrom, insecureSkipVerify"
        }
        Reason::UnexpectedStatus => {
            "the server runs but says it is not well, or path or expectedStatuses is wrong"
        }
        Reason::UnexpectedBody => "the server answers, but without expectedBody in the first 10 KiB",
        Reason::ProtocolError => {
            "what answers does not speak the protocol of the probe: see targetPort and scheme"
        }
        Reason::RedirectFailed => "a redirect leads nowhere: see followRedirects and path",
        Reason::NotServing => "the server says of itself that it does not serve",
        Reason::AddressDenied => "the operator must not probe this address; see its --allow-target-cidr",
        Reason::NotResolved => "the name has no address: see it in DNS; the last known addresses stay in use",
        Reason::SchedulerLate | Reason::ResourceExhausted => "the operator lacks CPU or file descriptors",
        Reason::OperatorBlind => "the operator doubts its own network and judges nobody by silence",
        Reason::EvictionsCapped => {
            "too many hosts fail at once, so they are taken out a few a period; it will be this one's turn"
        }
        Reason::Misconfigured | Reason::Undetermined => {
            "see the probe's own configuration; the host is not to blame"
        }
        Reason::Other => return None,
    };
    Some(text.to_owned())
}
