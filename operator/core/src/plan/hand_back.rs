//! An adopted Service is given back when its cep goes: the reverse of adoption.
//!
//! The Endpoints list *all* hosts again, also those that are out — nobody will probe them any more, and
//! a host left in `notReadyAddresses` would stay out for ever — and lose `skip-mirror`; when the
//! mirroring controller has made its slices, ours go.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{
    Identity, MANAGED_BY, MANAGED_BY_LABEL, MIRRORING, Observed, SKIP_MIRROR_LABEL, Write, endpoints,
    metadata, primary_family, service,
};
use crate::endpoints::{Family, NAMES_ANNOTATION, Slice, Subset, subsets};

/// The next steps of a hand-back.
#[derive(Clone, Debug, PartialEq)]
pub enum HandBack {
    /// Do this, then look again.
    Write(Vec<Write>),
    /// Wait until the mirroring controller has done its part.
    AwaitMirror,
}

/// Decides the next steps. `patient` is false once waiting for the mirroring controller has taken too
/// long (a cluster may run without it): our slices are then left behind as hand-made ones.
///
/// It may be called anew after any of its writes, by another process too: Endpoints without
/// `skip-mirror` are how far it has come.
pub fn hand_back(identity: &Identity, observed: &Observed, patient: bool) -> HandBack {
    let Some(service) = &observed.service else {
        // Deleted by hand meanwhile: nothing to hand back to; what is ours goes with the cep.
        return HandBack::Write(vec![Write::RemoveFinalizer]);
    };
    let farewell = service::release(service, identity).map(Write::PatchService);
    let farewell = farewell.into_iter().chain([Write::RemoveFinalizer]);
    let spec = service.spec.as_ref();
    let of_pods = spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty());
    if of_pods || spec.is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName")) {
        // It has moved on to Pods or to a name: our hosts have no business in it any more, and its
        // Endpoints are Kubernetes' own.
        let names = observed.slices.iter().filter_map(|slice| slice.metadata.name.clone());
        return HandBack::Write(names.map(Write::DeleteSlice).chain(farewell).collect());
    }
    let own: Vec<Slice> = observed.slices.iter().filter_map(Slice::read).map(all_ready).collect();
    let family = primary_family(Some(service), &own);
    match release_endpoints(identity, observed, &own, family) {
        Some(Release::Write(write)) => HandBack::Write(vec![*write]),
        Some(Release::Done { mirrored }) if mirrored > count_mirrored(observed) && patient => {
            HandBack::AwaitMirror
        }
        // Endpoints know one family only; slices of the other one stay, as hand-made ones.
        Some(Release::Done { mirrored }) if mirrored <= count_mirrored(observed) => {
            let writes = observed.slices.iter().map(|slice| match &slice.metadata.name {
                Some(name) if slice.address_type == family.as_str() => Write::DeleteSlice(name.clone()),
                _ => orphan(identity, slice),
            });
            HandBack::Write(writes.chain(farewell).collect())
        }
        _ => {
            let writes = observed.slices.iter().map(|slice| orphan(identity, slice));
            HandBack::Write(writes.chain(farewell).collect())
        }
    }
}

fn count_mirrored(observed: &Observed) -> usize {
    observed.foreign.iter().filter(|slice| slice.managed_by.as_deref() == Some(MIRRORING)).count()
}

/// How the Endpoints come to be mirrored again.
enum Release {
    /// By this write.
    Write(Box<Write>),
    /// They may be mirrored, into at least so many slices.
    Done { mirrored: usize },
}

/// `None` when there are more addresses than Endpoints can hold.
fn release_endpoints(
    identity: &Identity,
    observed: &Observed,
    own: &[Slice],
    family: Family,
) -> Option<Release> {
    let existing = observed.endpoints.as_ref();
    let skipped = existing.is_none_or(|endpoints| {
        endpoints.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(SKIP_MIRROR_LABEL))
    });
    if let Some(existing) = existing.filter(|_| !skipped) {
        return Some(Release::Done { mirrored: port_sets(existing) });
    }
    let mut wanted = subsets(own, family)?;
    if own.is_empty() {
        // Our slices were deleted by hand: the Endpoints still know all hosts.
        wanted = existing.and_then(Subset::read).unwrap_or_default().into_iter().map(all_addresses).collect();
    }
    Some(Release::Write(Box::new(match existing {
        None => Write::CreateEndpoints(endpoints(identity, &wanted)),
        Some(existing) => {
            let mut released = existing.clone();
            let fixed = [(SKIP_MIRROR_LABEL, "true"), (MANAGED_BY_LABEL, MANAGED_BY)];
            metadata::release(&mut released.metadata, identity, &fixed);
            released.subsets = Some(wanted.iter().map(Subset::write).collect());
            Write::ReplaceEndpoints(released)
        }
    })))
}

/// How many sets of ports there are: the mirroring controller makes a slice for each.
fn port_sets(endpoints: &Endpoints) -> usize {
    let subsets = endpoints.subsets.iter().flatten().filter(|subset| subset.addresses.is_some());
    let sets: BTreeSet<_> = subsets
        .map(|subset| {
            let ports = subset.ports.iter().flatten();
            let mut set: Vec<_> = ports.map(|p| (&p.name, p.port, &p.protocol)).collect();
            set.sort();
            set
        })
        .collect();
    sets.len()
}

fn all_ready(mut slice: Slice) -> Slice {
    slice.endpoints.iter_mut().for_each(|(_, ready): &mut (IpAddr, bool)| *ready = true);
    slice
}

fn all_addresses(mut subset: Subset) -> Subset {
    subset.ready.append(&mut subset.not_ready);
    subset
}

/// Turns one of our slices into a hand-made one with every host ready.
fn orphan(identity: &Identity, slice: &EndpointSlice) -> Write {
    let mut slice = slice.clone();
    metadata::release(&mut slice.metadata, identity, &[]);
    if let Some(annotations) = slice.metadata.annotations.as_mut() {
        annotations.remove(NAMES_ANNOTATION);
    }
    let labels = slice.metadata.labels.get_or_insert_default();
    labels.insert(MANAGED_BY_LABEL.to_owned(), "staff".to_owned());
    for endpoint in slice.endpoints.iter_mut().flatten() {
        let conditions = endpoint.conditions.get_or_insert_default();
        conditions.ready = Some(true);
        conditions.serving = Some(true);
    }
    Write::ReplaceSlice(slice)
}
