//! From a spec to what has to be resolved and probed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use cep_core::address_policy::{AddressPolicy, Denied};
use cep_core::api::v1beta1::{ClusterEndpoint, ClusterEndpointSpec};
use cep_core::check::{self, Definition, Host, Problem, Wanted};
use cep_core::outcome::{Cause, Outcome, Reason};
use cep_core::target::Target;
use kube::ResourceExt;

use super::materials::Gathered;

/// One host on one port.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Name of the port, or its number.
    pub(super) port: String,
    /// Of the Service.
    pub(super) port_number: u16,
    /// Of the host.
    pub(super) target_port: u16,
    pub(super) host: String,
    pub(super) check: String,
    pub(super) work: Work,
}

/// What to do about it.
pub(super) enum Work {
    Probe(Target),
    /// Resolve this name first; the target of each of its addresses follows.
    Resolve(String, Box<dyn Fn(IpAddr) -> Option<Target> + Send + Sync>),
    /// The probe cannot be run.
    Hindered(Cause),
    /// The port has no probe.
    Nothing,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Probe(target) => write!(f, "Probe({})", target.address),
            Work::Resolve(name, _) => write!(f, "Resolve({name})"),
            Work::Hindered(cause) => write!(f, "Hindered({cause})"),
            Work::Nothing => write!(f, "Nothing"),
        }
    }
}

/// All hosts of all ports, in the order of the spec.
///
/// # Errors
/// The spec makes no sense; all of what is wrong with it.
pub(super) fn of(
    cep: &ClusterEndpoint,
    namespace: &str,
    materials: &Gathered,
    policy: &AddressPolicy,
) -> anyhow::Result<Vec<Attempt>> {
    let (definition, hindrances) = definition(&cep.spec, namespace, materials, policy).map_err(|texts| {
        anyhow::anyhow!("ClusterEndpoint {} cannot be probed:\n  {}", cep.name_any(), texts.join("\n  "))
    })?;
    let mut attempts = Vec::new();
    for (i, port) in definition.ports.iter().enumerate() {
        for host in &port.hosts {
            let work = match (hindrances.get(&i), host) {
                (Some((_, cause)), _) => Work::Hindered(cause.clone()),
                (None, Host::Address(address)) => {
                    Target::new(port, host, *address, definition.cadence).map_or(Work::Nothing, Work::Probe)
                }
                (None, Host::Name(_)) if port.check.is_none() => Work::Nothing,
                (None, Host::Name(name)) => {
                    let (port, host, cadence) = (port.clone(), host.clone(), definition.cadence);
                    Work::Resolve(
                        name.to_string(),
                        Box::new(move |address| Target::new(&port, &host, address, cadence)),
                    )
                }
            };
            let check = match hindrances.get(&i) {
                Some((kind, _)) => kind,
                None => port.check.as_ref().map_or("none", check::Check::kind),
            };
            attempts.push(Attempt {
                port: port.label(),
                port_number: port.port,
                target_port: port.target_port,
                host: host.to_string(),
                check: check.to_owned(),
                work,
            });
        }
    }
    Ok(attempts)
}

/// By index of the port: the kind of its probe, and why that cannot be run.
type Hindrances = BTreeMap<usize, (&'static str, Cause)>;

/// Parses; a port whose probe cannot be run from here does not keep the others from being probed.
fn definition(
    spec: &ClusterEndpointSpec,
    namespace: &str,
    materials: &Gathered,
    policy: &AddressPolicy,
) -> Result<(Definition, Hindrances), Vec<String>> {
    let mut spec = spec.clone();
    let wanted = check::references(&spec);
    let mut hindrances = Hindrances::new();
    let errors = match check::parse(namespace, &spec, &materials.materials, policy) {
        Ok(definition) => return Ok((definition, hindrances)),
        Err(errors) => errors,
    };
    let invalid: Vec<String> = errors
        .iter()
        .filter(|error| error.problem == Problem::InvalidSpec)
        .map(|error| in_flags(&format!("spec.{error}")))
        .collect();
    if !invalid.is_empty() {
        return Err(invalid);
    }
    for error in errors {
        let Some(index) = port_index(&error.field) else { return Err(vec![error.to_string()]) };
        let message = match missing(&wanted, &error.field, materials) {
            Some(message) => format!("{}: {message}", error.field),
            None => format!("{}: {}", error.field, error.message.replace("operator", "prober")),
        };
        let port = &mut spec.ports[index];
        let kind = match port {
            _ if port.http_get.is_some() => "https",
            _ if port.udp_socket.is_some() => "udp",
            _ if port.grpc.is_some() => "grpc",
            _ => "module",
        };
        hindrances.entry(index).or_insert((kind, Cause::new(Reason::Misconfigured, message)));
    }
    for index in hindrances.keys() {
        let port = &mut spec.ports[*index];
        (port.http_get, port.udp_socket, port.grpc, port.probe, port.tls) = (None, None, None, None, None);
    }
    check::parse(namespace, &spec, &materials.materials, policy)
        .map(|definition| (definition, hindrances))
        .map_err(|errors| errors.iter().map(|error| format!("spec.{error}")).collect())
}

/// Here the flags are our own, not the operator's.
fn in_flags(message: &str) -> String {
    message.replace("the operator's --", "--")
}

fn missing<'a>(wanted: &[Wanted], field: &str, materials: &'a Gathered) -> Option<&'a String> {
    wanted
        .iter()
        .filter(|wanted| wanted.field == field)
        .find_map(|wanted| materials.missing.get(&wanted.reference))
}

/// The i of `ports[i].…`.
fn port_index(field: &str) -> Option<usize> {
    field.strip_prefix("ports[")?.split_once(']')?.0.parse().ok()
}

/// An address that a DNS name leads to, and that must not be probed.
pub(super) fn denied(address: IpAddr, denied: Denied) -> Outcome {
    let message = in_flags(&format!("{address} {denied}; --allow-target-cidr can allow it"));
    Outcome::failure(Reason::AddressDenied, message)
}

/// What `--host` and `--port` leave over.
pub(super) struct Filter<'a> {
    pub(super) hosts: &'a [String],
    pub(super) ports: &'a [String],
}

impl Filter<'_> {
    pub(super) fn admits(&self, attempt: &Attempt) -> bool {
        let host = |text: &String| canonical(text) == attempt.host;
        let port = |text: &String| *text == attempt.port || *text == attempt.port_number.to_string();
        (self.hosts.is_empty() || self.hosts.iter().any(host))
            && (self.ports.is_empty() || self.ports.iter().any(port))
    }
}

/// A host as a parsed spec writes it.
fn canonical(text: &str) -> String {
    match text.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase(),
    }
}
