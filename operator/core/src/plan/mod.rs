//! Desired against observed: the ordered writes that lead from one to the other.
//!
//! The order matters to clients that connect meanwhile. Each rule was found by connecting every few
//! milliseconds while the writes happened:
//!
//! - Our slices exist before the Service or anybody else's slices change: kube-proxy matches slices to
//!   Service ports by *name*, so a renamed port needs its new slice first.
//! - The Service changes before slices of old names go.
//! - The Endpoints are marked `skip-mirror` only then, which makes the mirrored slices go.
//! - The label `kubernetes.io/service-name` of a slice never changes in place: kube-proxy would keep
//!   the old endpoints for good. Such a slice is deleted and made anew.

mod claim;
mod hand_back;
mod metadata;
mod service;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

pub use claim::{Claim, Refusal, claim, hosts_are_known};
pub use hand_back::{HandBack, hand_back};
pub use metadata::{Identity, copied_labels};
pub use service::{families, primary_family};

use crate::check::Definition;
use crate::endpoints::{Slice, Subset, subsets};

/// Field manager, and the base of other names.
pub const MANAGER: &str = "endpoints-operator";
/// Value of `endpointslice.kubernetes.io/managed-by` on our slices and Endpoints.
pub const MANAGED_BY: &str = "endpoints-operator.sealyun.com";
/// The label that says who manages a slice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// The label that ties a slice to its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label that keeps the mirroring controller away from Endpoints.
pub const SKIP_MIRROR_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// On ceps whose Service existed before them: it is handed back when the cep goes.
pub const FINALIZER: &str = "endpoints-operator.sealyun.com/hand-back";
/// Who mirrors Endpoints into slices.
pub const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";

/// What exists now.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The Service of the cep's name.
    pub service: Option<Service>,
    /// Slices with our `managed-by` that belong to this cep, by name or owner or Service.
    pub slices: Vec<EndpointSlice>,
    /// Slices of the Service that are not ours.
    pub foreign: Vec<ForeignSlice>,
    /// The Endpoints of the cep's name.
    pub endpoints: Option<Endpoints>,
    /// The Service as it was last seen, when it is gone now: it comes back with the same address.
    pub remembered: Option<Service>,
}

/// A slice of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignSlice {
    /// Its name.
    pub name: String,
    /// Its `managed-by` label.
    pub managed_by: Option<String>,
}

/// What should exist.
#[derive(Clone, Debug)]
pub struct Desired<'a> {
    /// Whose objects these are.
    pub identity: &'a Identity,
    /// For the ports and the cluster IP of the Service.
    pub definition: &'a Definition,
    /// The content of every slice.
    pub slices: &'a [Slice],
    /// Whether Endpoints are kept as well.
    pub write_endpoints: bool,
}

/// One request to the API server.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a plan holds a handful of them for a moment")]
pub enum Write {
    /// Put our finalizer on the cep.
    AddFinalizer,
    /// Take our finalizer off the cep.
    RemoveFinalizer,
    /// Create the Service.
    CreateService(Service),
    /// Merge-patch the Service, guarded by its resourceVersion.
    PatchService(Value),
    /// Create a slice.
    CreateSlice(EndpointSlice),
    /// Replace a slice, guarded by its resourceVersion.
    ReplaceSlice(EndpointSlice),
    /// Delete a slice.
    DeleteSlice(String),
    /// Create the Endpoints.
    CreateEndpoints(Endpoints),
    /// Replace the Endpoints, guarded by their resourceVersion.
    ReplaceEndpoints(Endpoints),
    /// Delete the Endpoints.
    DeleteEndpoints,
}

impl Write {
    /// All that [`Write::object`] returns.
    pub const OBJECTS: [&str; 4] = ["clusterendpoint", "service", "endpointslice", "endpoints"];

    /// What it writes: a metric label.
    pub fn object(&self) -> &'static str {
        match self {
            Write::AddFinalizer | Write::RemoveFinalizer => "clusterendpoint",
            Write::CreateService(_) | Write::PatchService(_) => "service",
            Write::CreateSlice(_) | Write::ReplaceSlice(_) | Write::DeleteSlice(_) => "endpointslice",
            Write::CreateEndpoints(_) | Write::ReplaceEndpoints(_) | Write::DeleteEndpoints => "endpoints",
        }
    }
}

/// The ordered writes. `claim` comes from [`claim()`] and was not refused.
pub fn plan(claim: Claim, desired: &Desired<'_>, observed: &Observed) -> Vec<Write> {
    let mut writes = Vec::new();
    match claim {
        Claim::Adopt { finalizer: false } => writes.push(Write::AddFinalizer),
        Claim::Create { finalizer: true } | Claim::Own { finalizer: true } => {
            writes.push(Write::RemoveFinalizer);
        }
        _ => {}
    }
    let owned = !matches!(claim, Claim::Adopt { .. });
    if observed.service.is_none() {
        let former = observed.remembered.as_ref().filter(|former| may_return(desired, former));
        writes.push(Write::CreateService(service::create(desired, former)));
    }
    for slice in desired.slices {
        plan_slice(slice, desired.identity, observed, &mut writes);
    }
    if let Some(existing) = &observed.service
        && let Some(patch) = service::patch(desired, existing, owned)
    {
        writes.push(Write::PatchService(patch));
    }
    plan_endpoints(desired, observed, owned, &mut writes);
    let is_desired = |name: &str| desired.slices.iter().any(|slice| slice.name == name);
    for slice in observed.foreign.iter().filter(|slice| claim::is_left_over(slice)) {
        if !is_desired(&slice.name) {
            writes.push(Write::DeleteSlice(slice.name.clone()));
        }
    }
    for name in observed.slices.iter().filter_map(|slice| slice.metadata.name.as_deref()) {
        if !is_desired(name) {
            writes.push(Write::DeleteSlice(name.to_owned()));
        }
    }
    writes
}

/// Whether a Service that is gone was one of ours to bring back: one that was refused (for its type, its
/// selector, its cluster IP) was deleted to make room for another.
fn may_return(desired: &Desired<'_>, former: &Service) -> bool {
    let former = Observed { service: Some(former.clone()), ..Observed::default() };
    claim(desired.identity, &[], desired.definition, &former).is_ok()
}

fn plan_slice(slice: &Slice, identity: &Identity, observed: &Observed, writes: &mut Vec<Write>) {
    let labels = [(SERVICE_NAME_LABEL, identity.key.name.as_ref()), (MANAGED_BY_LABEL, MANAGED_BY)];
    let owners = vec![identity.owner_reference()];
    let create = || {
        let mut object = EndpointSlice { metadata: identity.metadata(&slice.name), ..Default::default() };
        metadata::merge(&mut object.metadata, identity, &labels, &owners);
        slice.write(&mut object);
        Write::CreateSlice(object)
    };
    let Some(existing) = observed.slices.iter().find(|s| s.metadata.name.as_ref() == Some(&slice.name))
    else {
        // Somebody took our label off a slice of ours: its name is not free.
        if observed.foreign.iter().any(|foreign| foreign.name == slice.name) {
            writes.push(Write::DeleteSlice(slice.name.clone()));
        }
        writes.push(create());
        return;
    };
    let service = existing.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME_LABEL));
    if service.map(String::as_str) != Some(identity.key.name.as_ref())
        || existing.address_type != slice.family.as_str()
    {
        writes.push(Write::DeleteSlice(slice.name.clone()));
        writes.push(create());
        return;
    }
    let mut wanted = existing.clone();
    let relabelled = metadata::merge(&mut wanted.metadata, identity, &labels, &owners);
    if relabelled || Slice::read(existing).as_ref() != Some(slice) {
        slice.write(&mut wanted);
        writes.push(Write::ReplaceSlice(wanted));
    }
}

fn plan_endpoints(desired: &Desired<'_>, observed: &Observed, owned: bool, writes: &mut Vec<Write>) {
    let identity = desired.identity;
    let family = primary_family(observed.service.as_ref(), desired.slices);
    let subsets = subsets(desired.slices, family).filter(|_| desired.write_endpoints);
    let labels = [(SKIP_MIRROR_LABEL, "true"), (MANAGED_BY_LABEL, MANAGED_BY)];
    let owners: Vec<OwnerReference> = owned.then(|| identity.owner_reference()).into_iter().collect();
    match (&observed.endpoints, subsets) {
        (None, None) => {}
        (None, Some(subsets)) => {
            let mut object = endpoints(identity, &subsets);
            metadata::merge(&mut object.metadata, identity, &labels, &owners);
            writes.push(Write::CreateEndpoints(object));
        }
        // Too many addresses, or not wanted: stale ones would mislead their readers, and be mirrored.
        (Some(_), None) => writes.push(Write::DeleteEndpoints),
        (Some(existing), Some(subsets)) => {
            let mut wanted = existing.clone();
            let relabelled = metadata::merge(&mut wanted.metadata, identity, &labels, &owners);
            if relabelled || Subset::read(existing).as_ref() != Some(&subsets) {
                wanted.subsets = Some(subsets.iter().map(Subset::write).collect());
                writes.push(Write::ReplaceEndpoints(wanted));
            }
        }
    }
}

fn endpoints(identity: &Identity, subsets: &[Subset]) -> Endpoints {
    Endpoints {
        metadata: identity.metadata(&identity.key.name),
        subsets: Some(subsets.iter().map(Subset::write).collect()),
    }
}

#[cfg(test)]
mod tests;
