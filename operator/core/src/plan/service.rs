//! The Service: created, or patched as little as possible.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};

use super::{Desired, Identity, metadata};
use crate::check::{ClusterIp, Definition, Port};
use crate::endpoints::{Family, Slice};

/// The families that the addresses of the slices have.
pub fn families(slices: &[Slice]) -> Vec<Family> {
    [Family::V4, Family::V6].into_iter().filter(|f| slices.iter().any(|s| s.family == *f)).collect()
}

/// The family that Endpoints are written in, for they know only one: the first of the Service that any
/// host has.
pub fn primary_family(service: Option<&Service>, slices: &[Slice]) -> Family {
    let of_hosts = families(slices);
    let of_service = service.and_then(|s| s.spec.as_ref()?.ip_families.as_ref()).into_iter().flatten();
    let shared = of_service.filter_map(|family| Family::parse(family)).find(|f| of_hosts.contains(f));
    shared.or_else(|| of_hosts.first().copied()).unwrap_or(Family::V4)
}

/// A new Service; one that was deleted by hand comes back as it was, with its address.
pub(super) fn create(desired: &Desired<'_>, remembered: Option<&Service>) -> Service {
    let identity = desired.identity;
    let former = remembered.and_then(|service| service.spec.clone()).unwrap_or_default();
    let ports = ports(desired.definition, former.ports.as_deref().unwrap_or_default());
    let mut service = Service {
        metadata: identity.metadata(&identity.key.name),
        spec: Some(ServiceSpec { ports: Some(ports), selector: None, ..former }),
        status: None,
    };
    if let Some(spec) = service.spec.as_mut() {
        spec.type_.get_or_insert_with(|| "ClusterIP".to_owned());
        match desired.definition.cluster_ip {
            ClusterIp::Allocated => {}
            ClusterIp::Headless => spec.cluster_ip = Some("None".to_owned()),
            ClusterIp::Fixed(ip) => spec.cluster_ip = Some(ip.to_string()),
        }
        match families(desired.slices).as_slice() {
            _ if spec.ip_families.is_some() => {}
            [Family::V4, Family::V6] => spec.ip_family_policy = Some("PreferDualStack".to_owned()),
            // The cluster's first family may be another one than that of the hosts.
            [Family::V6] if desired.definition.cluster_ip == ClusterIp::Allocated => {
                spec.ip_family_policy = Some("PreferDualStack".to_owned());
            }
            _ => {}
        }
    }
    if let Some(former) = remembered {
        service.metadata.labels = former.metadata.labels.clone();
        service.metadata.annotations = former.metadata.annotations.clone();
    }
    metadata::merge(&mut service.metadata, identity, &[], &[identity.owner_reference()]);
    service
}

/// A merge patch that brings an existing Service to what it should be; `None` if it is.
pub(super) fn patch(desired: &Desired<'_>, existing: &Service, owned: bool) -> Option<Value> {
    let identity = desired.identity;
    let spec = existing.spec.clone().unwrap_or_default();
    let mut spec_patch = Map::new();

    let mut wanted = existing.metadata.clone();
    let owners: Vec<_> = owned.then(|| identity.owner_reference()).into_iter().collect();
    metadata::merge(&mut wanted, identity, &[], &owners);
    let current = spec.ports.as_deref().unwrap_or_default();
    let ports = ports(desired.definition, current);
    if !same_ports(current, &ports) {
        spec_patch.insert("ports".into(), json!(ports));
    }
    if owned && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()) {
        spec_patch.insert("selector".into(), Value::Null);
    }
    guarded(&existing.metadata, &wanted, spec_patch)
}

/// A merge patch that takes off an adopted Service what came from the cep; `None` if nothing is left.
pub(super) fn release(existing: &Service, identity: &Identity) -> Option<Value> {
    let mut wanted = existing.metadata.clone();
    metadata::release(&mut wanted, identity, &[]);
    guarded(&existing.metadata, &wanted, Map::new())
}

/// A merge patch to these metadata and this part of the spec, guarded by the resourceVersion.
fn guarded(existing: &ObjectMeta, wanted: &ObjectMeta, spec: Map<String, Value>) -> Option<Value> {
    let mut meta = Map::new();
    if existing.labels != wanted.labels {
        meta.insert("labels".into(), diff(existing.labels.as_ref(), wanted.labels.as_ref()));
    }
    if existing.annotations != wanted.annotations {
        meta.insert("annotations".into(), diff(existing.annotations.as_ref(), wanted.annotations.as_ref()));
    }
    if existing.owner_references != wanted.owner_references {
        meta.insert("ownerReferences".into(), json!(wanted.owner_references));
    }
    if meta.is_empty() && spec.is_empty() {
        return None;
    }
    meta.insert("resourceVersion".into(), json!(existing.resource_version));
    let mut patch = json!({ "metadata": meta });
    if !spec.is_empty() {
        patch["spec"] = Value::Object(spec);
    }
    Some(patch)
}

/// The part of a merge patch that turns one map into the other: `null` removes.
fn diff(from: Option<&BTreeMap<String, String>>, to: Option<&BTreeMap<String, String>>) -> Value {
    let empty = BTreeMap::new();
    let (from, to) = (from.unwrap_or(&empty), to.unwrap_or(&empty));
    let gone = from.keys().filter(|k| !to.contains_key(*k)).map(|k| (k.clone(), Value::Null));
    let set = to.iter().filter(|(k, v)| from.get(*k) != Some(v)).map(|(k, v)| (k.clone(), json!(v)));
    Value::Object(gone.chain(set).collect())
}

/// The whole list of ports. What the spec does not speak of (nodePort, appProtocol) is kept from the
/// port of the same number and protocol, so that a rename changes no nodePort.
fn ports(definition: &Definition, existing: &[ServicePort]) -> Vec<ServicePort> {
    let port = |port: &Port| {
        let protocol = port.protocol.as_str();
        let former = existing
            .iter()
            .find(|p| p.port == i32::from(port.port) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
        ServicePort {
            name: port.name.clone(),
            port: i32::from(port.port),
            protocol: Some(protocol.to_owned()),
            target_port: Some(IntOrString::Int(i32::from(port.target_port))),
            node_port: former.and_then(|p| p.node_port),
            app_protocol: former.and_then(|p| p.app_protocol.clone()),
        }
    };
    definition.ports.iter().map(port).collect()
}

fn same_ports(a: &[ServicePort], b: &[ServicePort]) -> bool {
    let essence = |p: &ServicePort| {
        let name = p.name.clone().unwrap_or_default();
        let target = p.target_port.clone().unwrap_or(IntOrString::Int(p.port));
        (name, p.port, p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), target)
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| essence(a) == essence(b))
}
