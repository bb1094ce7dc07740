//! From a snapshot to the EndpointSlices and Endpoints that should exist.
//!
//! One slice per Service port × address family × 1000 endpoints. Readiness is a property of the whole
//! endpoint, so a slice that served two ports would have to move a host between slices whenever its
//! ports disagree; kube-proxy then drops connections of the healthy port too. With a slice per port a
//! transition is one write.
//!
//! A slice also remembers, in an annotation, which DNS names its addresses stand for: an operator that
//! starts while no name server answers would otherwise have to empty it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort as EndpointsPort, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use serde_json::json;

use crate::api::v1beta1::Protocol;
use crate::check::Host;
use crate::fail_open::Serving;
use crate::snapshot::Snapshot;

/// The API server accepts no more endpoints in a slice, nor addresses in a mirrored Endpoints.
pub const MAX_ADDRESSES: usize = 1000;

/// The names of a slice and the addresses that they stand for, as a JSON object of lists.
pub(crate) const NAMES_ANNOTATION: &str = "endpoints-operator.sealyun.com/names";
/// Bytes of names and addresses that a slice remembers: the API server accepts 256 KiB of annotations.
const MAX_NAMES: usize = 128 * 1024;

/// An address family, as `EndpointSlice.addressType` and `Service.spec.ipFamilies` spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `IPv4`
    V4,
    /// `IPv6`
    V6,
}

impl Family {
    /// Of an address in canonical form.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `IPv4` or `IPv6`.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// Parses the spelling of the API.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        }
    }
}

/// A port as slices, Endpoints and kube-proxy know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    /// Name in the Service; empty when it has none.
    pub name: String,
    /// On the host.
    pub number: u16,
    /// Of the Service.
    pub protocol: Protocol,
}

/// What matters in a slice. Two slices with equal content mean the same to kube-proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// `<cep>.<port>-<family>-<n>`: a cep's name holds no dot, so no two ceps can mean the same slice.
    pub name: String,
    /// One family a slice.
    pub family: Family,
    /// One port a slice.
    pub port: PortKey,
    /// In the order of the spec, with readiness.
    pub endpoints: Vec<(IpAddr, bool)>,
    /// The DNS names among the hosts, with those of the addresses that they stand for.
    pub names: BTreeMap<String, Vec<IpAddr>>,
}

impl Slice {
    /// Reads a slice back; `None` if it is not of our shape.
    pub fn read(slice: &EndpointSlice) -> Option<Self> {
        let [port] = slice.ports.as_deref()? else { return None };
        let port = PortKey {
            name: port.name.clone().unwrap_or_default(),
            number: u16::try_from(port.port?).ok()?,
            protocol: parse_protocol(port.protocol.as_deref())?,
        };
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        let endpoints = endpoints.iter().map(read_endpoint).collect::<Option<_>>()?;
        let family = Family::parse(&slice.address_type)?;
        let names = slice.metadata.annotations.as_ref().and_then(|a| a.get(NAMES_ANNOTATION));
        let names = names.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Some(Self { name: slice.metadata.name.clone()?, family, port, endpoints, names })
    }

    /// Writes the content into a slice object, whose other metadata it leaves alone.
    pub fn write(&self, slice: &mut EndpointSlice) {
        let mut annotations = slice.metadata.annotations.take().unwrap_or_default();
        annotations.remove(NAMES_ANNOTATION);
        if !self.names.is_empty() {
            annotations.insert(NAMES_ANNOTATION.to_owned(), json!(self.names).to_string());
        }
        slice.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
        slice.address_type = self.family.as_str().to_owned();
        slice.ports = Some(vec![EndpointPort {
            // The API server stores an absent name as an empty one.
            name: Some(self.port.name.clone()),
            port: Some(i32::from(self.port.number)),
            protocol: Some(self.port.protocol.as_str().to_owned()),
            app_protocol: None,
        }]);
        let endpoint = |(address, ready): &(IpAddr, bool)| Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(*ready),
                serving: Some(*ready),
                terminating: Some(false),
            }),
            ..Endpoint::default()
        };
        slice.endpoints = Some(self.endpoints.iter().map(endpoint).collect());
    }
}

fn read_endpoint(endpoint: &Endpoint) -> Option<(IpAddr, bool)> {
    let [address] = endpoint.addresses.as_slice() else { return None };
    let conditions = endpoint.conditions.as_ref()?;
    let ready = conditions.ready?;
    let consistent = conditions.serving == Some(ready) && conditions.terminating != Some(true);
    consistent.then(|| address.parse().ok().map(|address| (address, ready))).flatten()
}

/// The API's default protocol is TCP.
pub(crate) fn parse_protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The slices that should exist. Every address has a fixed place (its position among the addresses of
/// its port and family), so that a host that is judged moves no other host to another slice.
pub fn slices(cep: &str, snapshot: &Snapshot, serving: &[Serving]) -> Vec<Slice> {
    let mut slices = Vec::new();
    for (index, port) in snapshot.definition.ports.iter().enumerate() {
        let key = PortKey {
            name: port.name.clone().unwrap_or_default(),
            number: port.target_port,
            protocol: port.protocol,
        };
        for family in [Family::V4, Family::V6] {
            let members = members(index, family, snapshot, serving);
            for (n, chunk) in members.chunks(MAX_ADDRESSES).enumerate() {
                let listed = || chunk.iter().filter(|member| member.serving != Serving::Unlisted);
                slices.push(Slice {
                    name: format!("{cep}.{}-{}-{n}", port.label(), family.as_str().to_lowercase()),
                    family,
                    port: key.clone(),
                    endpoints: listed().map(|m| (m.address, m.serving == Serving::Ready)).collect(),
                    names: names(listed()),
                });
            }
        }
    }
    slices
}

/// An address of one port.
struct Member<'a> {
    address: IpAddr,
    serving: Serving,
    /// The DNS names that led to it.
    names: Vec<&'a Arc<str>>,
}

/// The addresses of one port and family, each once: two names may lead to one address, which is
/// served if either of them says so.
fn members<'a>(port: usize, family: Family, snapshot: &'a Snapshot, serving: &[Serving]) -> Vec<Member<'a>> {
    let mut place = BTreeMap::new();
    let mut members: Vec<Member<'_>> = Vec::new();
    for (endpoint, serving) in snapshot.endpoints.iter().zip(serving) {
        let Some(address) = endpoint.address else { continue };
        if endpoint.port != port || Family::of(address) != family {
            continue;
        }
        let i = *place.entry(address).or_insert_with(|| {
            members.push(Member { address, serving: *serving, names: Vec::new() });
            members.len() - 1
        });
        members[i].serving = best(members[i].serving, *serving);
        if let Host::Name(name) = &endpoint.host {
            members[i].names.push(name);
        }
    }
    members
}

/// What a slice remembers of names; beyond the bound, those that come last are forgotten.
fn names<'a>(members: impl Iterator<Item = &'a Member<'a>>) -> BTreeMap<String, Vec<IpAddr>> {
    let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut size = 0;
    for (name, address) in members.flat_map(|m| m.names.iter().map(|name| (*name, m.address))) {
        // Quotes, brackets and an IPv6 address besides.
        size += name.len() + 50;
        if size > MAX_NAMES {
            break;
        }
        names.entry(name.to_string()).or_default().push(address);
    }
    names
}

fn best(a: Serving, b: Serving) -> Serving {
    match (a, b) {
        (Serving::Ready, _) | (_, Serving::Ready) => Serving::Ready,
        (Serving::Out, _) | (_, Serving::Out) => Serving::Out,
        _ => Serving::Unlisted,
    }
}

/// What matters in an Endpoints object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Ports that share the addresses below.
    pub ports: Vec<PortKey>,
    /// `addresses`
    pub ready: Vec<IpAddr>,
    /// `notReadyAddresses`
    pub not_ready: Vec<IpAddr>,
}

/// The subsets of the Endpoints for one family (Endpoints know only one), from the slices; `None`
/// when there are more addresses than an Endpoints should hold.
pub fn subsets(slices: &[Slice], family: Family) -> Option<Vec<Subset>> {
    let mut subsets: Vec<Subset> = Vec::new();
    let mut of_port: Vec<(PortKey, Vec<(IpAddr, bool)>)> = Vec::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        match of_port.iter_mut().find(|(port, _)| *port == slice.port) {
            Some((_, endpoints)) => endpoints.extend(&slice.endpoints),
            None => of_port.push((slice.port.clone(), slice.endpoints.clone())),
        }
    }
    for (port, endpoints) in of_port {
        if endpoints.len() > MAX_ADDRESSES {
            return None;
        }
        if endpoints.is_empty() {
            continue;
        }
        let pick = |ready| endpoints.iter().filter(move |e| e.1 == ready).map(|e| e.0).collect::<Vec<_>>();
        let (ready, not_ready) = (pick(true), pick(false));
        match subsets.iter_mut().find(|s| s.ready == ready && s.not_ready == not_ready) {
            Some(subset) => subset.ports.push(port),
            None => subsets.push(Subset { ports: vec![port], ready, not_ready }),
        }
    }
    Some(subsets)
}

impl Subset {
    /// Reads the subsets of an Endpoints back; `None` if something in it is not of our shape.
    pub fn read(endpoints: &Endpoints) -> Option<Vec<Self>> {
        endpoints.subsets.iter().flatten().map(Self::read_one).collect()
    }

    fn read_one(subset: &EndpointSubset) -> Option<Self> {
        let port = |p: &EndpointsPort| {
            Some(PortKey {
                name: p.name.clone().unwrap_or_default(),
                number: u16::try_from(p.port).ok()?,
                protocol: parse_protocol(p.protocol.as_deref())?,
            })
        };
        let addresses = |list: &Option<Vec<EndpointAddress>>| {
            list.iter().flatten().map(|a| a.ip.parse().ok()).collect::<Option<Vec<IpAddr>>>()
        };
        Some(Self {
            ports: subset.ports.iter().flatten().map(port).collect::<Option<_>>()?,
            ready: addresses(&subset.addresses)?,
            not_ready: addresses(&subset.not_ready_addresses)?,
        })
    }

    /// As the API spells it.
    pub fn write(&self) -> EndpointSubset {
        let port = |p: &PortKey| EndpointsPort {
            name: (!p.name.is_empty()).then(|| p.name.clone()),
            port: i32::from(p.number),
            protocol: Some(p.protocol.as_str().to_owned()),
            app_protocol: None,
        };
        let addresses = |list: &[IpAddr]| {
            let address = |ip: &IpAddr| EndpointAddress { ip: ip.to_string(), ..Default::default() };
            (!list.is_empty()).then(|| list.iter().map(address).collect())
        };
        EndpointSubset {
            ports: Some(self.ports.iter().map(port).collect()),
            addresses: addresses(&self.ready),
            not_ready_addresses: addresses(&self.not_ready),
        }
    }
}

#[cfg(test)]
mod tests;
