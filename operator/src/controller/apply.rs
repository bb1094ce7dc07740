//! Carries out a plan. There is nothing to decide here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cep_core::api::v1beta1::ClusterEndpoint;
use cep_core::plan::{FINALIZER, Identity, MANAGER, Write};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::context::Context;
use super::error::{ApiError, Error, request};
use super::memory::Memory;

/// How long a Service that was deleted by hand is tried to be brought back with its former address.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);

/// Carries out the writes in their order; stops at the first that fails. `changed` is the moment of the
/// outcome that made the plan necessary, for measuring.
pub(super) async fn apply(
    context: &Context,
    identity: &Identity,
    cep: &ClusterEndpoint,
    memory: &mut Memory,
    writes: Vec<Write>,
    changed: Option<Instant>,
) -> Result<(), Error> {
    for write in writes {
        let object = write.object();
        tracing::debug!(cep = %identity.key, write = name_of(&write), "write");
        if !context.leads() {
            return Err(Error::Apply { object, source: ApiError::NotLeading });
        }
        let is_slice = matches!(write, Write::CreateSlice(_) | Write::ReplaceSlice(_));
        one(context, identity, cep, memory, write).await.map_err(|source| Error::Apply { object, source })?;
        context.metrics.api_write(object);
        memory.last_write = Some(Instant::now());
        if is_slice && let Some(changed) = changed {
            context.metrics.write_delay(changed.elapsed());
        }
    }
    Ok(())
}

fn name_of(write: &Write) -> String {
    match write {
        Write::CreateSlice(slice) => format!("create slice {}", slice.metadata.name.as_deref().unwrap_or("")),
        Write::ReplaceSlice(slice) => {
            format!("replace slice {}", slice.metadata.name.as_deref().unwrap_or(""))
        }
        Write::DeleteSlice(name) => format!("delete slice {name}"),
        Write::PatchService(patch) => format!("patch service {patch}"),
        Write::CreateService(_) => "create service".to_owned(),
        Write::CreateEndpoints(_) => "create endpoints".to_owned(),
        Write::ReplaceEndpoints(_) => "replace endpoints".to_owned(),
        Write::DeleteEndpoints => "delete endpoints".to_owned(),
        Write::AddFinalizer => "add finalizer".to_owned(),
        Write::RemoveFinalizer => "remove finalizer".to_owned(),
    }
}

async fn one(
    context: &Context,
    identity: &Identity,
    cep: &ClusterEndpoint,
    memory: &mut Memory,
    write: Write,
) -> Result<(), ApiError> {
    let (namespace, name) = (&*identity.key.namespace, &*identity.key.name);
    let post = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let patching = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match write {
        Write::AddFinalizer => set_finalizer(context, cep, true).await?,
        Write::RemoveFinalizer => set_finalizer(context, cep, false).await?,
        Write::CreateService(service) => {
            let api = context.api::<Service>(namespace);
            let created = match request(api.create(&post, &service)).await {
                // The API server gives a deleted Service's address free a moment after the deletion is seen.
                // Should it have been given away, another one is better than none.
                Err(error) if error.is_invalid() && memory.last_seen.is_some() => {
                    let since = *memory.refused_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > ADDRESS_PATIENCE {
                        (memory.last_seen, memory.refused_since) = (None, None);
                    }
                    return Err(error);
                }
                other => other?,
            };
            memory.refused_since = None;
            memory.last_seen = Some(Arc::new(created.clone()));
            memory.service.note(created);
        }
        Write::PatchService(patch) => {
            let api = context.api::<Service>(namespace);
            memory.service.note(request(api.patch(name, &patching, &Patch::Merge(&patch))).await?);
        }
        Write::CreateSlice(slice) => {
            let api = context.api::<EndpointSlice>(namespace);
            let created = request(api.create(&post, &slice)).await?;
            note_slice(memory, created);
        }
        Write::ReplaceSlice(slice) => {
            let api = context.api::<EndpointSlice>(namespace);
            let name = slice.metadata.name.clone().unwrap_or_default();
            let replaced = request(api.replace(&name, &post, &slice)).await?;
            note_slice(memory, replaced);
        }
        Write::DeleteSlice(name) => {
            let api = context.api::<EndpointSlice>(namespace);
            let unchanged =
                DeleteParams { preconditions: context.seen(namespace, &name, memory), ..Default::default() };
            gone(request(api.delete(&name, &unchanged)).await)?;
            memory.slices.remove(&name);
        }
        Write::CreateEndpoints(endpoints) => {
            let api = context.api::<Endpoints>(namespace);
            memory.endpoints.note(request(api.create(&post, &endpoints)).await?);
        }
        Write::ReplaceEndpoints(endpoints) => {
            let api = context.api::<Endpoints>(namespace);
            memory.endpoints.note(request(api.replace(name, &post, &endpoints)).await?);
        }
        Write::DeleteEndpoints => {
            let api = context.api::<Endpoints>(namespace);
            gone(request(api.delete(name, &DeleteParams::default())).await)?;
            memory.endpoints.clear();
        }
    }
    Ok(())
}

fn note_slice(memory: &mut Memory, slice: EndpointSlice) {
    let name = slice.metadata.name.clone().unwrap_or_default();
    memory.slices.entry(name).or_default().note(slice);
}

/// Deleting what is gone already is what was wanted.
fn gone<T>(result: Result<T, ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Finalizers that the operator of 2022 left; nobody else would ever remove them.
fn is_orphaned(finalizer: &str) -> bool {
    finalizer.starts_with("sealyun.com/") || finalizer == "sealos.io/cluster-endpoints.finalizers"
}

/// Whether the cep carries finalizers of the operator of 2022.
pub(super) fn has_orphaned_finalizer(cep: &ClusterEndpoint) -> bool {
    cep.metadata.finalizers.iter().flatten().any(|f| is_orphaned(f))
}

/// Sets the list of finalizers to what it should be, guarded by the resourceVersion.
pub(super) async fn set_finalizer(
    context: &Context,
    cep: &ClusterEndpoint,
    ours: bool,
) -> Result<(), ApiError> {
    let mut finalizers: Vec<String> = cep.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|f| f != FINALIZER && !is_orphaned(f));
    if ours {
        finalizers.push(FINALIZER.to_owned());
    }
    let patch = json!({
        "metadata": { "finalizers": finalizers, "resourceVersion": cep.metadata.resource_version }
    });
    let namespace = cep.metadata.namespace.as_deref().unwrap_or_default();
    let name = cep.metadata.name.as_deref().unwrap_or_default();
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let api = context.api::<ClusterEndpoint>(namespace);
    let patched = request(api.patch(name, &params, &Patch::Merge(&patch))).await;
    // A cep that is gone needs no finalizer removed; but one that cannot be given any must not go on to
    // adopt, for nobody would ever hand its Service back.
    if ours { patched.map(|_| ()) } else { gone(patched) }
}
