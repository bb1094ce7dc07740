//! What to do next about one object, given what is found in the cluster.
//!
//! There is no state but the cluster's: the next step is decided from an observation, carried out, and
//! the cluster observed again. That is what makes an interrupted migration go on where it stopped.
//!
//! The order of the steps keeps the Service alive at every moment: it is looked after by the new object
//! before the old one lets go of it, and nothing refers to the old object when that is removed.

use std::fmt;

use cep_core::api::v1beta1::{ClusterEndpoint, SYNC_ENDPOINT_READY, SYNC_SERVICE_READY};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Group of the old objects that are handed over.
pub(super) const OLD_GROUP: &str = "sealos.io";
/// Finalizers of the original operator, of its early and its later releases.
pub(super) const OLD_FINALIZERS: [&str; 2] =
    ["sealos.io/cluster-endpoints.finalizers", "sealyun.com/cluster-endpoints.finalizers"];
/// The API server's own finalizer for "dependents first".
const FOREGROUND: &str = "foregroundDeletion";
/// Reasons of `SyncEndpointReady` that speak of hosts: the endpoints themselves are written.
const WRITTEN: [&str; 2] = ["EndpointSyncPortError", "Probing"];

/// What is found in the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observed {
    pub(super) old: Option<Old>,
    pub(super) new: Option<New>,
    /// Service, Endpoints and slices that have owners.
    pub(super) dependents: Vec<Dependent>,
    /// Whether for a period nobody has touched the old object or put references to it back.
    pub(super) quiet: bool,
}

impl Observed {
    /// Whether anything still refers to an old object.
    pub(super) fn is_referred_to(&self) -> bool {
        self.dependents.iter().any(|dependent| dependent.without_old().is_some())
    }
}

/// The old object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Old {
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
}

impl Old {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }
}

/// The new object: what is still missing until the operator looks after the Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct New {
    pub(super) missing: Vec<String>,
}

impl New {
    pub(super) fn of(cep: &ClusterEndpoint) -> Self {
        let status = cep.status.clone().unwrap_or_default();
        if status.observed_generation.is_none() || status.observed_generation < cep.metadata.generation {
            return Self { missing: vec!["the operator has not worked off the new object".to_owned()] };
        }
        let conditions = status.conditions.unwrap_or_default();
        let mut missing = Vec::new();
        for type_ in [SYNC_SERVICE_READY, SYNC_ENDPOINT_READY] {
            let Some(condition) = conditions.iter().find(|condition| condition.type_ == type_) else {
                missing.push(format!("{type_} is not there"));
                continue;
            };
            let reason = condition.reason.as_deref().unwrap_or_default();
            if condition.status != "True" && !WRITTEN.contains(&reason) {
                let message = condition.message.as_deref().unwrap_or_default();
                missing.push(format!("{type_} is {}: {reason}: {message}", condition.status));
            }
        }
        Self { missing }
    }
}

/// An object that names its owners.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dependent {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) resource_version: String,
    pub(super) owners: Vec<OwnerReference>,
}

impl Dependent {
    pub(super) fn of(kind: &'static str, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            name: meta.name.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
        }
    }

    /// The owners that stay, if any has to go.
    fn without_old(&self) -> Option<Vec<OwnerReference>> {
        let kept: Vec<_> = self.owners.iter().filter(|owner| !is_old(owner)).cloned().collect();
        (kept.len() < self.owners.len()).then_some(kept)
    }
}

fn is_old(owner: &OwnerReference) -> bool {
    owner.kind == "ClusterEndpoint"
        && owner.api_version.split_once('/').is_some_and(|(group, _)| group == OLD_GROUP)
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Create the new object.
    Create,
    /// Wait for the operator.
    AwaitAdoption(Vec<String>),
    /// Take the references to the old object off this one.
    Release { kind: &'static str, name: String, resource_version: String, keep: Vec<OwnerReference> },
    /// See whether the original operator puts the references back, which it does once a period: with
    /// the old object gone, a reference to it would be the end of the Service.
    Settle,
    /// Set the finalizers of the old object to these.
    StripFinalizers { resource_version: String, keep: Vec<String> },
    /// Remove the old object, and nothing else.
    Remove { uid: String },
    /// Wait for the API server to be done with it.
    AwaitRemoval(Vec<String>),
    /// Nothing is left to do.
    Finished,
    /// There never was anything to do.
    NothingThere,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Create => write!(f, "create the new ClusterEndpoint"),
            Step::AwaitAdoption(missing) => {
                write!(f, "wait until the operator has adopted the Service ({})", missing.join("; "))
            }
            Step::Release { kind, name, .. } => {
                write!(f, "take the reference to the old object off {kind} {name}")
            }
            Step::Settle => write!(f, "watch for a period whether the original operator still runs"),
            Step::StripFinalizers { .. } => write!(f, "strip the original operator's finalizers"),
            Step::Remove { .. } => write!(f, "remove the old object (propagation policy Orphan)"),
            Step::AwaitRemoval(left) if left.is_empty() => write!(f, "wait until the old object is gone"),
            Step::AwaitRemoval(left) => {
                write!(f, "wait until the old object is gone (finalizers: {})", left.join(", "))
            }
            Step::Finished => write!(f, "migrated, nothing left to do"),
            Step::NothingThere => {
                write!(f, "there is neither an old nor a new ClusterEndpoint of this name: nothing to do")
            }
        }
    }
}

impl Step {
    /// Whether it only waits for others.
    pub(super) fn is_wait(&self) -> bool {
        matches!(self, Step::AwaitAdoption(_) | Step::Settle | Step::AwaitRemoval(_))
    }

    /// Whether nothing follows it.
    pub(super) fn is_last(&self) -> bool {
        matches!(self, Step::Finished | Step::NothingThere)
    }
}

/// The next step.
pub(super) fn next(observed: &Observed) -> Step {
    let release = observed.dependents.iter().find_map(|dependent| {
        Some(Step::Release {
            kind: dependent.kind,
            name: dependent.name.clone(),
            resource_version: dependent.resource_version.clone(),
            keep: dependent.without_old()?,
        })
    });
    let Some(old) = &observed.old else {
        // Nobody owns these any more: garbage collection would take them.
        return release.unwrap_or(match observed.new {
            Some(_) => Step::Finished,
            None => Step::NothingThere,
        });
    };
    // Somebody deletes the old object in the foreground: garbage collection is at its dependents now.
    let foreground = old.deleting && old.finalizers.iter().any(|finalizer| finalizer == FOREGROUND);
    if let (true, Some(release)) = (foreground, &release) {
        return release.clone();
    }
    match &observed.new {
        None => return Step::Create,
        Some(new) if !new.missing.is_empty() => return Step::AwaitAdoption(new.missing.clone()),
        Some(_) => {}
    }
    if let Some(release) = release {
        return release;
    }
    if !observed.quiet {
        return Step::Settle;
    }
    let is_theirs = |finalizer: &&String| OLD_FINALIZERS.contains(&finalizer.as_str());
    if old.finalizers.iter().any(|finalizer| is_theirs(&finalizer)) {
        let keep = old.finalizers.iter().filter(|finalizer| !is_theirs(finalizer)).cloned().collect();
        return Step::StripFinalizers { resource_version: old.resource_version.clone(), keep };
    }
    match old.deleting {
        false => Step::Remove { uid: old.uid.clone() },
        true => Step::AwaitRemoval(old.finalizers.clone()),
    }
}

/// What the cluster looks like after a step that went well, for a dry run.
pub(super) fn imagine(observed: &mut Observed, step: &Step) {
    match step {
        Step::Create => observed.new = Some(New { missing: vec!["it is not created yet".to_owned()] }),
        Step::AwaitAdoption(_) => observed.new = Some(New::default()),
        Step::Release { kind, name, keep, .. } => {
            for dependent in &mut observed.dependents {
                if dependent.kind == *kind && dependent.name == *name {
                    dependent.owners.clone_from(keep);
                }
            }
        }
        Step::Settle => observed.quiet = true,
        Step::StripFinalizers { keep, .. } => {
            if let Some(old) = &mut observed.old {
                old.finalizers.clone_from(keep);
            }
        }
        Step::Remove { .. } | Step::AwaitRemoval(_) => observed.old = None,
        Step::Finished | Step::NothingThere => {}
    }
}
