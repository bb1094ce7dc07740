//! `api → check`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use strum::IntoStaticStr;

use crate::address_policy::{AddressPolicy, Denied};
use crate::api::v1beta1::schema::{MAX_HOSTS, MAX_HOSTS_TOTAL};
use crate::api::v1beta1::{ClusterEndpointSpec, ServicePort, Tls};
use crate::health::Thresholds;

use super::references::{CERTIFICATE, KEY, reference};
use super::{
    Cadence, Check, ClientCertificate, ClusterIp, Definition, Host, Materials, Port, Reference, Text,
    TlsCheck, http, module,
};

/// Endpoints (port × host) that one `ClusterEndpoint` may make: its snapshot is compared as a whole on
/// every transition.
const MAX_ENDPOINTS: usize = 20_000;

/// What kind of obstacle a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
pub enum Problem {
    /// The spec can never work as it stands.
    InvalidSpec,
    /// The probe kind is part of the API, but not of this build of the operator.
    ProbeKindNotBuilt,
    /// A Secret or ConfigMap is missing or cannot be read.
    ReferenceNotReady,
}

impl Problem {
    /// The reason in a condition.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One thing that is wrong with a spec: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What kind.
    pub problem: Problem,
    /// Path of the field below `spec`, like `ports[0].httpGet.path`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Collects errors, so that a user sees all of them at once.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<FieldError>);

impl Errors {
    pub(super) fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(Problem::InvalidSpec, field, message);
    }

    fn push(&mut self, problem: Problem, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError { problem, field: field.into(), message: message.into() });
    }
}

/// Checks a whole spec.
///
/// # Errors
/// Everything that is wrong with it, in the order of the spec; never empty.
pub fn parse(
    namespace: &str,
    spec: &ClusterEndpointSpec,
    materials: &Materials,
    policy: &AddressPolicy,
) -> Result<Definition, Vec<FieldError>> {
    let mut parser = Parser { namespace, spec, materials, policy, errors: Errors::default() };
    let definition = parser.definition();
    if parser.errors.0.is_empty() { Ok(definition) } else { Err(parser.errors.0) }
}

struct Parser<'a> {
    namespace: &'a str,
    spec: &'a ClusterEndpointSpec,
    materials: &'a Materials,
    policy: &'a AddressPolicy,
    errors: Errors,
}

impl Parser<'_> {
    fn definition(&mut self) -> Definition {
        let spec = self.spec;
        let period = self.seconds("periodSeconds", spec.period_seconds, 3600);
        let retry = match spec.retry_period_seconds {
            Some(retry) => self.seconds("retryPeriodSeconds", retry, 3600),
            None => period,
        };
        if retry > period {
            self.errors.invalid("retryPeriodSeconds", "must not exceed periodSeconds");
        }
        if !(0..=100).contains(&spec.panic_threshold) {
            self.errors.invalid("panicThreshold", "must be a percentage from 0 to 100");
        }
        if spec.ports.is_empty() || spec.ports.len() > 100 {
            self.errors.invalid("ports", "must list 1 to 100 ports");
        }
        self.unique_ports();
        self.host_total();
        let common = self.hosts("hosts", spec.hosts.as_deref().unwrap_or_default());
        let ports = spec
            .ports
            .iter()
            .enumerate()
            .map(|(i, port)| self.port(i, port, period, &common))
            .collect::<Vec<_>>();
        self.endpoint_total(&ports);
        Definition {
            cluster_ip: self.cluster_ip(),
            cadence: Cadence { period, retry },
            panic_threshold: spec.panic_threshold.clamp(0, 100) as u32,
            ports,
        }
    }

    fn cluster_ip(&mut self) -> ClusterIp {
        match self.spec.cluster_ip.as_str() {
            "" => ClusterIp::Allocated,
            "None" => ClusterIp::Headless,
            text => match text.parse() {
                Ok(ip) => ClusterIp::Fixed(IpAddr::to_canonical(&ip)),
                Err(_) => {
                    self.errors.invalid("clusterIP", format!("{text:?} is not empty, None or an IP address"));
                    ClusterIp::Allocated
                }
            },
        }
    }

    fn host_total(&mut self) {
        let own = self.spec.ports.iter().map(|port| port.hosts.as_ref().map_or(0, Vec::len));
        let total = self.spec.hosts.as_ref().map_or(0, Vec::len) + own.sum::<usize>();
        if total > MAX_HOSTS_TOTAL {
            self.errors.invalid(
                "hosts",
                format!(
                    "spec.hosts and hosts of all ports together list {total} hosts, more than \
                     {MAX_HOSTS_TOTAL}: split the ClusterEndpoint"
                ),
            );
        }
    }

    /// The CRD bounds the lists; what is probed is their product with the ports.
    fn endpoint_total(&mut self, ports: &[Port]) {
        let total: usize = ports.iter().map(|port| port.hosts.len()).sum();
        if total > MAX_ENDPOINTS {
            self.errors.invalid(
                "ports",
                format!(
                    "the hosts of all ports make {total} endpoints, more than {MAX_ENDPOINTS}: split the \
                     ClusterEndpoint"
                ),
            );
        }
    }

    fn unique_ports(&mut self) {
        let mut names = BTreeSet::new();
        let mut numbers = BTreeMap::new();
        for (i, port) in self.spec.ports.iter().enumerate() {
            match port.name.as_deref().filter(|name| !name.is_empty()) {
                None if self.spec.ports.len() > 1 => self
                    .errors
                    .invalid(format!("ports[{i}].name"), "is required when there is more than one port"),
                None => {}
                Some(name) if !is_dns_label(name) => self.errors.invalid(
                    format!("ports[{i}].name"),
                    format!("{name:?} is not a DNS label: lower-case letters, digits and -, at most 63"),
                ),
                Some(name) if !names.insert(name) => self.errors.invalid(
                    format!("ports[{i}].name"),
                    format!("{name:?} is used twice; port names are unique"),
                ),
                Some(_) => {}
            }
            if let Some(other) = numbers.insert((port.port, port.protocol), i) {
                self.errors.invalid(
                    format!("ports[{i}].port"),
                    format!("{}/{} is taken by ports[{other}]", port.port, port.protocol),
                );
            }
        }
    }

    fn port(&mut self, i: usize, port: &ServicePort, period: Duration, common: &[Host]) -> Port {
        let field = format!("ports[{i}]");
        let number = self.port_number(&format!("{field}.port"), port.port);
        let target_port = match port.target_port {
            None => number,
            Some(target) => self.port_number(&format!("{field}.targetPort"), target),
        };
        let own = self.hosts(&format!("{field}.hosts"), port.hosts.as_deref().unwrap_or_default());
        let hosts = if own.is_empty() { common.to_vec() } else { own };
        if hosts.is_empty() {
            self.errors.invalid(format!("{field}.hosts"), "lists no host, and neither does spec.hosts");
        }
        let timeout = self.seconds(&format!("{field}.timeoutSeconds"), port.timeout_seconds, 3600);
        if timeout > period {
            self.errors.invalid(format!("{field}.timeoutSeconds"), "must not exceed spec.periodSeconds");
        }
        let thresholds = Thresholds {
            success: self.threshold(&format!("{field}.successThreshold"), port.success_threshold),
            failure: self.threshold(&format!("{field}.failureThreshold"), port.failure_threshold),
        };
        let check = self.check(&field, port);
        let name = port.name.clone().filter(|name| !name.is_empty());
        Port { name, port: number, target_port, protocol: port.protocol, hosts, check, timeout, thresholds }
    }

    fn check(&mut self, field: &str, port: &ServicePort) -> Option<Check> {
        let named = [
            ("tcpSocket", port.tcp_socket.is_some()),
            ("httpGet", port.http_get.is_some()),
            ("udpSocket", port.udp_socket.is_some()),
            ("grpc", port.grpc.is_some()),
            ("probe", port.probe.is_some()),
        ];
        let set: Vec<&str> = named.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
        if set.len() > 1 {
            self.errors.invalid(
                field,
                format!("{} are set; at most one probe a port, remove the others", set.join(" and ")),
            );
            return None;
        }
        let tls = port.tls.as_ref().map(|tls| self.tls(&format!("{field}.tls"), tls));
        if tls.is_some() && !speaks_tls(port) {
            self.errors.invalid(
                format!("{field}.tls"),
                "needs httpGet with scheme: HTTPS, grpc or probe on the same port",
            );
        }
        module::check(port, field, &mut self.errors);
        if let Some(get) = &port.http_get {
            let field = format!("{field}.httpGet");
            return Some(Check::Http(Arc::new(http::check(get, tls, &field, &mut self.errors))));
        }
        if port.tcp_socket.as_ref().is_some_and(|tcp| tcp.enable) {
            return Some(Check::Tcp);
        }
        let module = match port {
            ServicePort { udp_socket: Some(udp), .. } if udp.enable => Some("udpSocket"),
            ServicePort { grpc: Some(grpc), .. } if grpc.enable => Some("grpc"),
            ServicePort { probe: Some(_), .. } => Some("probe"),
            _ => None,
        };
        if let Some(kind) = module {
            self.errors.push(
                Problem::ProbeKindNotBuilt,
                format!("{field}.{kind}"),
                "this version of the operator has no module host; use tcpSocket or httpGet, or leave the \
                 port without a probe",
            );
        }
        None
    }

    fn tls(&mut self, field: &str, tls: &Tls) -> TlsCheck {
        let ca = tls.ca_from.as_ref().and_then(|from| {
            let field = format!("{field}.caFrom");
            match reference(from) {
                Some(reference) => self.material(&field, &reference),
                None => {
                    self.errors.invalid(field, "set exactly one of secretKeyRef and configMapKeyRef");
                    None
                }
            }
        });
        if tls.ca_from.is_some() && tls.insecure_skip_verify == Some(true) {
            self.errors.invalid(
                format!("{field}.insecureSkipVerify"),
                "true accepts any certificate and excludes caFrom; remove one of the two",
            );
        }
        let server_name = tls.server_name.clone().filter(|name| !name.is_empty());
        if server_name.as_deref().is_some_and(|name| name.parse::<IpAddr>().is_err() && !is_host_name(name)) {
            self.errors.invalid(format!("{field}.serverName"), "is neither a DNS name nor an IP address");
        }
        if ca.as_ref().is_some_and(|ca| !ca.reveal().contains("-----BEGIN CERTIFICATE-----")) {
            self.errors.invalid(format!("{field}.caFrom"), "holds no PEM certificate");
        }
        let client = tls.client_cert_from.as_ref().and_then(|client| {
            let field = format!("{field}.clientCertFrom");
            let key = |key: &str| Reference::SecretKey {
                name: client.secret_ref.name.clone(),
                key: key.to_owned(),
            };
            let chain = self.material(&field, &key(CERTIFICATE));
            let key = self.material(&field, &key(KEY));
            Some(ClientCertificate { chain: chain?, key: key? })
        });
        TlsCheck { server_name, verify: !tls.insecure_skip_verify.unwrap_or(false), ca, client }
    }

    fn material(&mut self, field: &str, reference: &Reference) -> Option<Text> {
        match self.materials.get(reference) {
            Some(Ok(text)) => Some(text.clone()),
            Some(Err(absent)) => {
                let complaint = reference.complaint(absent, self.namespace);
                self.errors.push(Problem::ReferenceNotReady, field, complaint);
                None
            }
            None => {
                self.errors.push(Problem::ReferenceNotReady, field, "has not been read yet");
                None
            }
        }
    }

    fn hosts(&mut self, field: &str, texts: &[String]) -> Vec<Host> {
        if texts.len() > MAX_HOSTS {
            self.errors.invalid(field, format!("lists more than {MAX_HOSTS} hosts"));
        }
        let mut seen = BTreeSet::new();
        let mut hosts = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            match parse_host(text, self.policy) {
                Ok(host) => {
                    if seen.insert(host.clone()) {
                        hosts.push(host);
                    }
                }
                Err(complaint) => {
                    self.errors.invalid(format!("{field}[{i}]"), format!("{text} {complaint}"));
                }
            }
        }
        hosts
    }

    fn seconds(&mut self, field: &str, value: i32, max: i32) -> Duration {
        if !(1..=max).contains(&value) {
            self.errors.invalid(field, format!("must be from 1 to {max} seconds, not {value}"));
        }
        Duration::from_secs(value.clamp(1, max) as u64)
    }

    fn threshold(&mut self, field: &str, value: i32) -> u32 {
        if !(1..=100).contains(&value) {
            self.errors.invalid(field, format!("must be from 1 to 100, not {value}"));
        }
        value.clamp(1, 100) as u32
    }

    fn port_number(&mut self, field: &str, value: i32) -> u16 {
        match u16::try_from(value) {
            Ok(port) if port > 0 => port,
            _ => {
                self.errors.invalid(field, format!("must be from 1 to 65535, not {value}"));
                1
            }
        }
    }
}

fn parse_host(text: &str, policy: &AddressPolicy) -> Result<Host, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        return match policy.permit(address) {
            Ok(()) => Ok(Host::Address(address)),
            Err(denied) => {
                // What is denied by name cannot be allowed by another flag.
                let remedy = match denied {
                    Denied::ByOperator => "remove it",
                    _ => "remove it, or allow it by the operator's --allow-target-cidr",
                };
                Err(format!("{denied} and is neither probed nor served; {remedy}"))
            }
        };
    }
    if is_host_name(text) {
        let name = text.strip_suffix('.').unwrap_or(text);
        Ok(Host::Name(name.to_ascii_lowercase().into()))
    } else {
        Err("is not an IPv4 address, IPv6 address or DNS name".to_owned())
    }
}

/// A DNS name, with or without the final dot. Its last label begins with a letter and has no `_`: all
/// top-level domains do, while a mistyped IPv4 address (1.2.3.256, 0x7f.1) does not.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && name.split('.').all(is_host_label)
        && last.starts_with(|c: char| c.is_ascii_alphabetic())
        && !last.contains('_')
}

fn is_host_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether the probe of this port can use TLS.
fn speaks_tls(port: &ServicePort) -> bool {
    let https = port.http_get.as_ref().is_some_and(|get| get.scheme.eq_ignore_ascii_case("HTTPS"));
    https || port.grpc.is_some() || port.probe.is_some()
}

fn is_dns_label(name: &str) -> bool {
    name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}
