//! Writes the status, when it differs.

use std::sync::Arc;

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
/// `snapshot` is what the progress is about, if there is any.
pub(super) async fn report(
    context: &Context,
    identity: &Identity,
    cep: &ClusterEndpoint,
    memory: &mut Memory,
    progress: &Progress<'_>,
    snapshot: Option<&Arc<Snapshot>>,
) -> Result<(), Error> {
    let previous = latest(cep, memory);
    let now = status(previous.as_ref(), cep.metadata.generation, progress, Timestamp::now());
    let written = snapshot.filter(|_| is_written(progress));
    for notice in notices(previous.as_ref(), &now, progress, written, memory) {
        context.events.publish(&cep.object_ref(&()), notice);
    }
    if let Some(snapshot) = written {
        memory.applied = Some(Applied {
            generation: cep.metadata.generation,
            labels: identity.labels.clone(),
            snapshot: snapshot.clone(),
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

/// Whether the slices are as the snapshot wants them.
fn is_written(progress: &Progress<'_>) -> bool {
    match progress {
        Progress::Applied { .. } | Progress::SpecRefused(..) => true,
        Progress::ServiceRefused(..) | Progress::WriteFailed { .. } => false,
    }
}

/// The stored status, unless the cache lags behind our own write.
fn latest(cep: &ClusterEndpoint, memory: &mut Memory) -> Option<ClusterEndpointStatus> {
    let version = |text: &str| text.parse::<u64>().unwrap_or(0);
    let cached = version(cep.metadata.resource_version.as_deref().unwrap_or_default());
    memory.status.take_if(|(written, _)| version(written) <= cached);
    memory.status.as_ref().map(|(_, status)| status).or(cep.status.as_ref()).cloned()
}

fn notices(
    previous: Option<&ClusterEndpointStatus>,
    now: &ClusterEndpointStatus,
    progress: &Progress<'_>,
    written: Option<&Arc<Snapshot>>,
    memory: &Memory,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    if let (Some(snapshot), Some(applied)) = (written, &memory.applied) {
        notices.extend(changes(&applied.snapshot, snapshot));
    }
    notices.extend(notice_of_refusal(previous, now, progress));
    notices
}
