//! Labels and owners of what we write.
//!
//! A label copied from the cep must go when the cep loses it, while labels that others put there stay.
//! An annotation lists what was copied, so that the difference is known after a restart too.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::v1beta1::{API_VERSION, ClusterEndpoint, GROUP, KIND};
use crate::snapshot::CepKey;

/// Lists the keys of labels that came from the cep, separated by commas.
const COPIED_ANNOTATION: &str = "endpoints-operator.sealyun.com/copied-labels";

/// Whose objects are written, and what they inherit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Namespace and name.
    pub key: CepKey,
    /// Of the cep.
    pub uid: String,
    /// Labels of the cep that are copied.
    pub labels: BTreeMap<String, String>,
}

impl Identity {
    /// Of a stored cep.
    pub fn of(cep: &ClusterEndpoint) -> Self {
        let meta = &cep.metadata;
        let name = meta.name.as_deref().unwrap_or_default();
        Self {
            key: CepKey::new(meta.namespace.as_deref().unwrap_or_default(), name),
            uid: meta.uid.clone().unwrap_or_default(),
            labels: copied_labels(meta.labels.as_ref()),
        }
    }

    pub(super) fn owner_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            name: self.key.name.to_string(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// Whether a reference is to this cep, or to the object of the original operator that it replaces.
    pub(super) fn is_owner(&self, reference: &OwnerReference) -> bool {
        let group = reference.api_version.split('/').next().unwrap_or_default();
        reference.uid == self.uid
            || (reference.kind == KIND
                && *reference.name == *self.key.name
                && (group == GROUP || group == "sealos.io"))
    }

    pub(super) fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.key.namespace.to_string()),
            ..ObjectMeta::default()
        }
    }
}

/// The labels of a cep that its objects get. Those of Kubernetes itself never are: on a slice
/// `service.kubernetes.io/headless` hides it from kube-proxy, and others steer controllers.
pub fn copied_labels(labels: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let of_kubernetes = |key: &str| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        ["kubernetes.io", "k8s.io"].iter().any(|k| domain == *k || domain.ends_with(&format!(".{k}")))
    };
    labels
        .into_iter()
        .flatten()
        .filter(|(k, _)| !of_kubernetes(k))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// Brings metadata to what it should be: copied labels, `fixed` labels, and exactly one of our owners
/// or none (then the object is adopted). Others' labels, annotations and owners stay. Says whether
/// anything changed.
pub(super) fn merge(
    meta: &mut ObjectMeta,
    identity: &Identity,
    fixed: &[(&str, &str)],
    owners: &[OwnerReference],
) -> bool {
    let before = meta.clone();
    remove_copied_labels(meta);
    let mut labels = meta.labels.take().unwrap_or_default();
    let mut copies = Vec::new();
    for (key, value) in &identity.labels {
        // On an adopted object, what is there now is somebody else's.
        if !owners.is_empty() || !labels.contains_key(key) {
            labels.insert(key.clone(), value.clone());
            copies.push(key.as_str());
        }
    }
    labels.extend(fixed.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    meta.labels = (!labels.is_empty()).then_some(labels);
    if !copies.is_empty() {
        let annotations = meta.annotations.get_or_insert_default();
        annotations.insert(COPIED_ANNOTATION.to_owned(), copies.join(","));
    }
    meta.owner_references = merge_owners(before.owner_references.as_deref(), identity, owners);
    *meta != before
}

/// Takes off what makes an object ours, because it outlives the cep: copied labels and the list of
/// them, `fixed` labels, the owner.
pub(super) fn release(meta: &mut ObjectMeta, identity: &Identity, fixed: &[(&str, &str)]) {
    remove_copied_labels(meta);
    if let Some(labels) = meta.labels.as_mut() {
        labels.retain(|key, value| !fixed.contains(&(key, value)));
    }
    meta.labels.take_if(|labels| labels.is_empty());
    meta.owner_references = merge_owners(meta.owner_references.as_deref(), identity, &[]);
}

/// Removes the labels that were copied from a cep, and the list of them.
fn remove_copied_labels(meta: &mut ObjectMeta) {
    let listed = meta.annotations.as_mut().and_then(|annotations| annotations.remove(COPIED_ANNOTATION));
    meta.annotations.take_if(|annotations| annotations.is_empty());
    if let (Some(listed), Some(labels)) = (listed, meta.labels.as_mut()) {
        labels.retain(|key, _| !listed.split(',').any(|copied| copied == key));
    }
}

fn merge_owners(
    existing: Option<&[OwnerReference]>,
    identity: &Identity,
    owners: &[OwnerReference],
) -> Option<Vec<OwnerReference>> {
    let others = existing.unwrap_or_default().iter().filter(|r| !identity.is_owner(r));
    let merged: Vec<OwnerReference> = others.chain(owners).cloned().collect();
    (!merged.is_empty()).then_some(merged)
}
