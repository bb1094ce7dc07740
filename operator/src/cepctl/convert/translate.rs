//! From a Service and its endpoints to a ClusterEndpoint.

use std::collections::BTreeSet;

use cep_core::api::v1beta1::{
    ClusterEndpoint, ClusterEndpointSpec, HttpGet, Protocol, ServicePort, TcpSocket,
};
use k8s_openapi::api::core::v1::{Endpoints, Service, ServicePort as CorePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use thiserror::Error;

use super::super::cli::ProbeKind;

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MIRRORED: &str = "endpointslicemirroring-controller.k8s.io";
const OURS: &str = "endpoints-operator.sealyun.com";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// A Service and all that says where it leads.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) service: Service,
    pub(super) endpoints: Option<Endpoints>,
    pub(super) slices: Vec<EndpointSlice>,
}

/// What the user decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choices {
    pub(super) probe: ProbeKind,
    pub(super) period_seconds: i32,
    pub(super) keep_cluster_ip: bool,
}

/// A ClusterEndpoint, and what the user should know about it.
#[derive(Clone, Debug)]
pub(super) struct Converted {
    pub(super) cep: ClusterEndpoint,
    pub(super) notes: Vec<String>,
}

/// Why a Service cannot become a ClusterEndpoint, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    #[error(
        "has a selector ({0}), so its endpoints are Pods, which Kubernetes keeps itself; a ClusterEndpoint \
         is for hosts outside the cluster. If the Pods are gone for good, remove spec.selector first"
    )]
    Selector(String),
    #[error(
        "is of type ExternalName, which is a DNS alias without ports and cannot be adopted; delete it, and \
         write a ClusterEndpoint of the same name with hosts: [{0}] and the ports that clients use"
    )]
    ExternalName(String),
    #[error("is the API server's own; its endpoints are kept by the API server itself")]
    ApiServer,
    #[error("already belongs to a ClusterEndpoint; see kubectl get cep {0} -o yaml")]
    AlreadyOurs(String),
    #[error("has no ports; a ClusterEndpoint needs at least one, add it to the Service first")]
    NoPorts,
    #[error(
        "has neither Endpoints nor EndpointSlices with addresses, so there is no host to convert; give them \
         with -f as well, or write the ClusterEndpoint by hand"
    )]
    NoEndpoints,
    #[error(
        "port {0} has no address: no port of that name and protocol in the Endpoints or EndpointSlices. Add \
         it there, or remove the port from the Service"
    )]
    PortWithoutAddresses(String),
    #[error(
        "port {port} leads to different port numbers on different hosts ({numbers}); a ClusterEndpoint has \
         one targetPort for all hosts of a port, so give the Service one port for each"
    )]
    ManyTargetPorts { port: String, numbers: String },
}

impl Refusal {
    /// Whether it goes without saying when all Services are looked at.
    pub(super) fn is_expected(&self) -> bool {
        matches!(
            self,
            Refusal::Selector(_)
                | Refusal::ExternalName(_)
                | Refusal::ApiServer
                | Refusal::AlreadyOurs(_)
                | Refusal::NoEndpoints
        )
    }
}

impl Source {
    /// Namespace (if known) and name.
    pub(super) fn label(&self) -> String {
        match self.service.namespace() {
            Some(namespace) => format!("{namespace}/{}", self.service.name_any()),
            None => self.service.name_any(),
        }
    }

    /// Whether the Service alone is reason enough to refuse, whatever its endpoints.
    pub(super) fn is_out_of_question(&self) -> bool {
        self.refusal().is_some()
    }

    fn spec(&self) -> ServiceSpec {
        self.service.spec.clone().unwrap_or_default()
    }

    fn refusal(&self) -> Option<Refusal> {
        let spec = self.spec();
        if spec.type_.as_deref() == Some("ExternalName") {
            return Some(Refusal::ExternalName(spec.external_name.unwrap_or_default()));
        }
        let selector = spec.selector.unwrap_or_default();
        if !selector.is_empty() {
            let terms: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            return Some(Refusal::Selector(terms.join(",")));
        }
        (self.label() == "default/kubernetes").then_some(Refusal::ApiServer)
    }

    /// Ports and addresses as kube-proxy sees them.
    fn groups(&self) -> Vec<Group> {
        let endpoints = self.endpoints.as_ref();
        let skips = endpoints.is_some_and(|e| e.labels().get(SKIP_MIRROR).is_some_and(|v| v == "true"));
        // Endpoints that are not mirrored lead nowhere, as long as slices do.
        let endpoints = endpoints.filter(|_| !skips || self.slices.is_empty());
        let mut groups: Vec<Group> = endpoints.map(of_endpoints).unwrap_or_default();
        // Mirrored slices repeat what the Endpoints say.
        let repeats = |slice: &&EndpointSlice| !groups.is_empty() && managed_by(slice) == Some(MIRRORED);
        let own: Vec<Group> = self.slices.iter().filter(|slice| !repeats(slice)).map(of_slice).collect();
        groups.extend(own);
        groups
    }
}

fn managed_by(slice: &EndpointSlice) -> Option<&str> {
    slice.labels().get(MANAGED_BY).map(String::as_str)
}

/// Addresses that share their ports.
#[derive(Debug)]
struct Group {
    /// Name, protocol, number; no number: the same as the Service's.
    ports: Vec<(String, String, Option<i32>)>,
    hosts: Vec<String>,
}

fn of_endpoints(endpoints: &Endpoints) -> Vec<Group> {
    let subsets = endpoints.subsets.iter().flatten();
    subsets
        .map(|subset| Group {
            ports: subset
                .ports
                .iter()
                .flatten()
                .map(|port| port_key(port.name.as_deref(), port.protocol.as_deref(), Some(port.port)))
                .collect(),
            // Those that are not ready are hosts all the same: it is for the probe to say.
            hosts: [&subset.addresses, &subset.not_ready_addresses]
                .into_iter()
                .flat_map(|addresses| addresses.iter().flatten().map(|address| address.ip.clone()))
                .collect(),
        })
        .collect()
}

fn of_slice(slice: &EndpointSlice) -> Group {
    Group {
        ports: slice
            .ports
            .iter()
            .flatten()
            .map(|port| port_key(port.name.as_deref(), port.protocol.as_deref(), port.port))
            .collect(),
        hosts: slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.clone()).collect(),
    }
}

fn port_key(
    name: Option<&str>,
    protocol: Option<&str>,
    number: Option<i32>,
) -> (String, String, Option<i32>) {
    (name.unwrap_or_default().to_owned(), protocol.unwrap_or("TCP").to_owned(), number)
}

/// Translates.
///
/// # Errors
/// The Service is not of the kind that a ClusterEndpoint can stand for.
pub(super) fn translate(source: &Source, choices: &Choices) -> Result<Converted, Refusal> {
    if let Some(refusal) = source.refusal() {
        return Err(refusal);
    }
    if source.slices.iter().any(|slice| managed_by(slice) == Some(OURS)) {
        return Err(Refusal::AlreadyOurs(source.service.name_any()));
    }
    let spec = source.spec();
    let service_ports = spec.ports.clone().unwrap_or_default();
    if service_ports.is_empty() {
        return Err(Refusal::NoPorts);
    }
    let groups = source.groups();
    if groups.iter().all(|group| group.hosts.is_empty()) {
        return Err(Refusal::NoEndpoints);
    }
    let mut notes = Vec::new();
    let mut ports = Vec::new();
    for port in &service_ports {
        ports.push(convert_port(port, service_ports.len(), &groups, choices, &mut notes)?);
    }
    let hosts = share_hosts(&mut ports);
    let owners = source.service.owner_references();
    if owners
        .iter()
        .any(|owner| owner.kind == "ClusterEndpoint" && owner.api_version.starts_with("sealos.io/"))
    {
        notes.push(
            "belongs to a ClusterEndpoint of sealos.io; use cepctl migrate, which knows its probes and the \
             hosts that are out at the moment"
                .to_owned(),
        );
    }
    for (policy, value) in [
        ("internalTrafficPolicy", spec.internal_traffic_policy.as_deref()),
        ("externalTrafficPolicy", spec.external_traffic_policy.as_deref()),
    ] {
        if value == Some("Local") {
            notes.push(format!(
                "{policy} is Local: hosts outside the cluster are local to no node, so that traffic is \
                 dropped. Set it to Cluster"
            ));
        }
    }
    let cluster_ip = match spec.cluster_ip.as_deref() {
        Some("None") => "None".to_owned(),
        Some(ip) if choices.keep_cluster_ip => ip.to_owned(),
        _ => String::new(),
    };
    let spec = ClusterEndpointSpec {
        hosts,
        cluster_ip,
        period_seconds: choices.period_seconds,
        ports,
        ..ClusterEndpointSpec::default()
    };
    let mut cep = ClusterEndpoint::new(&source.service.name_any(), spec);
    cep.meta_mut().namespace = source.service.namespace();
    Ok(Converted { cep, notes })
}

fn convert_port(
    port: &CorePort,
    of: usize,
    groups: &[Group],
    choices: &Choices,
    notes: &mut Vec<String>,
) -> Result<ServicePort, Refusal> {
    let name = port.name.clone().filter(|name| !name.is_empty());
    let label = name.clone().unwrap_or_else(|| port.port.to_string());
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let key = (name.clone().unwrap_or_default(), protocol.as_str());
    let alone = of == 1 && groups.iter().all(|group| group.ports.len() == 1);
    let mut hosts: Vec<String> = Vec::new();
    let mut numbers = BTreeSet::new();
    let mut renamed = false;
    for group in groups {
        let exact = group.ports.iter().find(|(n, p, _)| (n, p.as_str()) == (&key.0, key.1));
        let lenient = || group.ports.first().filter(|(_, p, _)| alone && *p == protocol);
        let Some((_, _, number)) = exact.or_else(lenient) else { continue };
        renamed |= exact.is_none();
        numbers.insert(number.unwrap_or_else(|| numeric_target(port)));
        for host in &group.hosts {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
    }
    let target_port = match numbers.iter().collect::<Vec<_>>()[..] {
        [] => return Err(Refusal::PortWithoutAddresses(label)),
        [number] => *number,
        _ => {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            return Err(Refusal::ManyTargetPorts { port: label, numbers: numbers.join(", ") });
        }
    };
    if renamed {
        notes.push(format!(
            "port {label} has another name in the endpoints, so no traffic passes now; it will once the \
             ClusterEndpoint is there"
        ));
    }
    let protocol = match protocol.as_str() {
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    let mut converted = ServicePort {
        name,
        port: port.port,
        target_port: Some(target_port),
        protocol,
        hosts: Some(hosts),
        ..ServicePort::default()
    };
    match (choices.probe, protocol) {
        (ProbeKind::None, _) => {}
        (ProbeKind::Tcp, Protocol::Tcp) => converted.tcp_socket = Some(TcpSocket::default()),
        (ProbeKind::Http, Protocol::Tcp) => {
            let scheme = if speaks_https(port, target_port) { "HTTPS" } else { "HTTP" };
            converted.http_get = Some(HttpGet { scheme: scheme.to_owned(), ..HttpGet::default() });
        }
        (ProbeKind::Tcp | ProbeKind::Http, protocol) => notes.push(format!(
            "port {label} is {protocol} and got no probe, so its hosts are always served; add one if the \
             hosts answer to something (a tcpSocket or httpGet will do for a {protocol} port as well)"
        )),
    }
    Ok(converted)
}

fn numeric_target(port: &CorePort) -> i32 {
    match port.target_port {
        Some(IntOrString::Int(number)) if number > 0 => number,
        _ => port.port,
    }
}

fn speaks_https(port: &CorePort, target_port: i32) -> bool {
    let name = port.name.as_deref().unwrap_or_default();
    name == "https"
        || name.starts_with("https-")
        || port.app_protocol.as_deref().is_some_and(|protocol| protocol.eq_ignore_ascii_case("https"))
        || target_port == 443
}

/// Moves the hosts up to `spec.hosts` when all ports have the same ones.
fn share_hosts(ports: &mut [ServicePort]) -> Option<Vec<String>> {
    let set = |port: &ServicePort| port.hosts.iter().flatten().cloned().collect::<BTreeSet<_>>();
    let (first, others) = ports.split_first()?;
    if !others.iter().all(|other| set(other) == set(first)) {
        return None;
    }
    let shared = first.hosts.clone();
    ports.iter_mut().for_each(|port| port.hosts = None);
    shared
}
