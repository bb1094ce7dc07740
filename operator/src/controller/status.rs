//! Writes the status, when it differs.

use cep_core::api::v1beta1::{API_VERSION, ClusterEndpoint, ClusterEndpointStatus, KIND};
use cep_core::plan::{Identity, MANAGER};
use cep_core::snapshot::Snapshot;
use cep_core::status::{Notice, Progress, changes, notice_of_refusal, status};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::context::Context;
use super::error::{Error, request};
use super::memory::{Applied, Memory};

/// Computes the status, writes it if it differs from the stored one, and tells as Events what is new.
pub(super) async fn report(
    context: &Context,
    identity: &Identity,
    cep: &ClusterEndpoint,
    memory: &mut Memory,
    progress: &Progress<'_>,
) -> Result<(), Error> {
    let previous = latest(cep, memory);
    let now = status(previous.as_ref(), cep.metadata.generation, progress, Timestamp::now());
    for notice in notices(previous.as_ref(), &now, progress, memory) {
        context.events.publish(&cep.object_ref(&()), notice);
    }
    if let Some(snapshot) = written_by(progress) {
        memory.applied = Some(Applied {
            generation: cep.metadata.generation,
            labels: identity.labels.clone(),
            snapshot: std::sync::Arc::new(snapshot.clone()),
        });
    }
    if previous.as_ref() == Some(&now) {
        return Ok(());
    }
    let patch = json!({ "apiVersion": API_VERSION, "kind": KIND, "status": now });
    let params = PatchParams::apply(MANAGER).force();
    let api = context.api::<ClusterEndpoint>(&identity.key.namespace);
    let written = request(api.patch_status(&identity.key.name, &params, &Patch::Apply(&patch))).await;
    let written = match written {
        Err(error) if error.is_not_found() || error.is_namespace_terminating() => return Ok(()),
        other => other.map_err(Error::Status)?,
    };
    context.metrics.api_write("clusterendpoint");
    let stored = written.status.clone().unwrap_or_default();
    memory.status = written.resource_version().map(|version| (version, stored));
    Ok(())
}

/// The snapshot that the slices are written by now.
fn written_by<'a>(progress: &Progress<'a>) -> Option<&'a Snapshot> {
    match progress {
        Progress::Applied { .. } | Progress::SpecRefused(..) => progress.snapshot(),
        Progress::ServiceRefused(..) | Progress::WriteFailed { .. } => None,
    }
}

/// The stored status, unless the cache lags behind our own write.
fn latest(cep: &ClusterEndpoint, memory: &Memory) -> Option<ClusterEndpointStatus> {
    let version = |text: &str| text.parse::<u64>().unwrap_or(0);
    let cached = version(cep.metadata.resource_version.as_deref().unwrap_or_default());
    match &memory.status {
        Some((written, status)) if version(written) > cached => Some(status.clone()),
        _ => cep.status.clone(),
    }
}

fn notices(
    previous: Option<&ClusterEndpointStatus>,
    now: &ClusterEndpointStatus,
    progress: &Progress<'_>,
    memory: &Memory,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    if let (Some(snapshot), Some(applied)) = (written_by(progress), &memory.applied) {
        notices.extend(changes(&applied.snapshot, snapshot));
    }
    notices.extend(notice_of_refusal(previous, now, progress));
    notices
}
