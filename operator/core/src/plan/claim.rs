//! Whether the Service of a cep's name may be written at all.

use k8s_openapi::api::core::v1::Service;

use super::{FINALIZER, ForeignSlice, Identity, MANAGED_BY, MIRRORING, Observed};
use crate::check::{ClusterIp, Definition};
use crate::snapshot::Snapshot;

/// How the cep relates to the Service. `finalizer` says whether the cep has ours now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// There is none: it is created, and goes with the cep.
    Create {
        /// Whether the cep has our finalizer.
        finalizer: bool,
    },
    /// It was created for this cep.
    Own {
        /// Whether the cep has our finalizer.
        finalizer: bool,
    },
    /// It existed before the cep: adopted now or earlier, handed back in the end.
    Adopt {
        /// Whether the cep has our finalizer.
        finalizer: bool,
    },
}

/// Why a Service is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the condition `SyncServiceReady`.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// Decides whether and how the Service is ours.
///
/// # Errors
/// The reason why nothing may be written.
pub fn claim(
    identity: &Identity,
    finalizers: &[String],
    definition: &Definition,
    observed: &Observed,
) -> Result<Claim, Refusal> {
    let finalizer = finalizers.iter().any(|f| f == FINALIZER);
    let Some(service) = &observed.service else { return Ok(Claim::Create { finalizer }) };
    let name = &identity.key.name;
    let owners = service.metadata.owner_references.as_deref().unwrap_or_default();
    let owned = owners.iter().any(|r| identity.is_owner(r));
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return refuse(
            "ServiceIsExternalName",
            format!(
                "Service {name} is of type ExternalName, which has no endpoints; delete it, and list {} in \
                 spec.hosts",
                spec.external_name.as_deref().unwrap_or("its name")
            ),
        );
    }
    if !owned && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()) {
        return refuse(
            "ServiceHasSelector",
            format!(
                "Service {name} has a selector: Kubernetes fills it with Pods; remove spec.selector from it, \
                 or give the ClusterEndpoint another name"
            ),
        );
    }
    if !owned && let Some(other) = owners.iter().find(|r| r.controller == Some(true)) {
        return refuse(
            "ServiceHasOwner",
            format!(
                "Service {name} is managed by {} {}; give the ClusterEndpoint another name",
                other.kind, other.name
            ),
        );
    }
    if let Some(message) = cluster_ip_mismatch(definition, service) {
        return refuse("ClusterIPMismatch", message);
    }
    if !owned
        && !finalizer
        && let Some(slice) = observed.foreign.iter().find(|slice| is_of_controller(slice))
    {
        return refuse(
            "ForeignEndpointSlices",
            format!(
                "EndpointSlice {} of Service {name} is managed by {}; stop that controller or give the \
                 ClusterEndpoint another name",
                slice.name,
                slice.managed_by.as_deref().unwrap_or("another controller")
            ),
        );
    }
    Ok(if owned { Claim::Own { finalizer } } else { Claim::Adopt { finalizer } })
}

/// An adoption replaces whom the Service serves now, so it waits until every host has an address: its
/// names may well be those that are served.
///
/// # Errors
/// The names without an address.
pub fn hosts_are_known(claim: Claim, snapshot: &Snapshot) -> Result<(), Refusal> {
    let Claim::Adopt { finalizer: false } = claim else { return Ok(()) };
    let mut names: Vec<String> = snapshot.unresolved().map(|endpoint| endpoint.host.to_string()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    refuse(
        "HostsNotResolved",
        format!(
            "the Service existed before; it is adopted when every host has an address, and none is known of \
             {}; correct spec.hosts or the name servers",
            names.join(", ")
        ),
    )
}

fn refuse<T>(reason: &'static str, message: String) -> Result<T, Refusal> {
    Err(Refusal { reason, message })
}

/// The API forbids to change a cluster IP; deleting the Service to get there would cut every client.
fn cluster_ip_mismatch(definition: &Definition, service: &Service) -> Option<String> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let spec = service.spec.as_ref()?;
    let current = spec.cluster_ip.as_deref().unwrap_or_default();
    let wanted = match definition.cluster_ip {
        ClusterIp::Headless if current != "None" => "None".to_owned(),
        ClusterIp::Allocated if current == "None" => "\"\"".to_owned(),
        ClusterIp::Fixed(ip) if current.parse().ok() != Some(ip) => ip.to_string(),
        _ => return None,
    };
    Some(format!(
        "Service {name} has clusterIP {current}, spec.clusterIP asks for {wanted}, and Kubernetes does not \
         let it change; set spec.clusterIP to what the Service has, or delete the Service yourself"
    ))
}

/// Slices that are not hand-made and not Kubernetes' own. The values for hand-made ones are those that
/// the Kubernetes documentation recommends ("EndpointSlices: Management").
fn is_of_controller(slice: &ForeignSlice) -> bool {
    !matches!(
        slice.managed_by.as_deref(),
        None | Some(
            "" | "staff" | "cluster-admins" | "endpointslice-controller.k8s.io" | MIRRORING | MANAGED_BY
        )
    )
}

/// Slices that an adopted Service must lose: hand-made ones, and what the endpoint slice controller
/// leaves behind when a selector is removed. Mirrored ones go by themselves.
pub(super) fn is_left_over(slice: &ForeignSlice) -> bool {
    !is_of_controller(slice) && slice.managed_by.as_deref() != Some(MIRRORING)
}
