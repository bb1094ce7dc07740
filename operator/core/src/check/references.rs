//! Values that live in Secrets and ConfigMaps: what a spec needs, and how to say that it is missing.

use std::collections::BTreeMap;

use crate::api::v1beta1::{ClusterEndpointSpec, ServicePort, ValueFrom};

use super::Text;

/// A place in the namespace of the `ClusterEndpoint`, never in another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// One key of a Secret.
    SecretKey {
        /// Of the Secret.
        name: String,
        /// In its data.
        key: String,
    },
    /// One key of a ConfigMap.
    ConfigMapKey {
        /// Of the ConfigMap.
        name: String,
        /// In its data.
        key: String,
    },
}

/// A reference and the field that makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Like `ports[0].tls.caFrom`.
    pub field: String,
    /// What it refers to.
    pub reference: Reference,
}

/// What was found at a [`Reference`].
pub type Material = Result<Text, Absent>;

/// Everything that a spec refers to, as far as it was found.
pub type Materials = BTreeMap<Reference, Material>;

/// Why a referenced value is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// No such object.
    Object,
    /// The object has no such key.
    Key,
    /// The value is not UTF-8 text.
    NotText,
    /// The API server does not let the operator read it.
    Forbidden,
    /// It could not be read now; it is tried again.
    Unavailable(String),
}

impl Reference {
    /// What to tell the author of the spec.
    pub(super) fn complaint(&self, absent: &Absent, namespace: &str) -> String {
        let (kind, name, key, value) = match self {
            Reference::SecretKey { name, key } => ("Secret", name, key, "rbac.secrets"),
            Reference::ConfigMapKey { name, key } => ("ConfigMap", name, key, "rbac.configMaps"),
        };
        match absent {
            Absent::Object => {
                format!("no {kind} {name} in namespace {namespace}; create it or change the reference")
            }
            Absent::Key => format!("{kind} {name} has no key {key}; add it or change the reference"),
            Absent::NotText => format!("key {key} of {kind} {name} is not text"),
            Absent::Forbidden => format!(
                "the operator may not read {kind}s in namespace {namespace}; grant it \"get\" on them \
                 (Helm value {value})"
            ),
            Absent::Unavailable(error) => format!("{kind} {name} could not be read, will try again: {error}"),
        }
    }
}

/// Everything that must be fetched before [`super::parse`] can do its work.
pub fn references(spec: &ClusterEndpointSpec) -> Vec<Wanted> {
    spec.ports.iter().enumerate().flat_map(|(i, port)| of_port(port, &format!("ports[{i}]"))).collect()
}

fn of_port(port: &ServicePort, field: &str) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    if let Some(tls) = &port.tls {
        if let Some(reference) = tls.ca_from.as_ref().and_then(reference) {
            wanted.push(Wanted { field: format!("{field}.tls.caFrom"), reference });
        }
        if let Some(client) = &tls.client_cert_from {
            for key in [CERTIFICATE, KEY] {
                let reference =
                    Reference::SecretKey { name: client.secret_ref.name.clone(), key: key.to_owned() };
                wanted.push(Wanted { field: format!("{field}.tls.clientCertFrom"), reference });
            }
        }
    }
    for (i, from) in port.probe.iter().flat_map(|p| p.config_from.iter().flatten()).enumerate() {
        if let Some(reference) = reference(&from.value_from) {
            wanted.push(Wanted { field: format!("{field}.probe.configFrom[{i}]"), reference });
        }
    }
    wanted
}

/// The certificate chain in a Secret of type kubernetes.io/tls.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// The key in a Secret of type kubernetes.io/tls.
pub(super) const KEY: &str = "tls.key";

/// The reference of a `valueFrom`-like field, if it makes exactly one.
pub(super) fn reference(from: &ValueFrom) -> Option<Reference> {
    match (&from.secret_key_ref, &from.config_map_key_ref) {
        (Some(r), None) => Some(Reference::SecretKey { name: r.name.clone(), key: r.key.clone() }),
        (None, Some(r)) => Some(Reference::ConfigMapKey { name: r.name.clone(), key: r.key.clone() }),
        _ => None,
    }
}
