//! Fetching: values that a spec refers to, and verdicts that exist already.

use std::time::{Duration, Instant};

use cep_core::api::v1beta1::ClusterEndpoint;
use cep_core::check::{Absent, Material, Materials, Reference, Text, references};
use cep_core::endpoints::{Slice, Subset};
use cep_core::health::Verdict;
use cep_core::plan::{Identity, Observed, SERVICE_NAME_LABEL};
use cep_core::snapshot::{Seed, Seeds};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;

use super::context::Context;
use super::error::{ApiError, Error, request};
use super::memory::Memory;

/// How often values in Secrets and ConfigMaps are read again: they are not watched, because a watch
/// would need the right to list them.
pub(super) const REREAD: Duration = Duration::from_secs(60);
/// The same while one is missing.
pub(super) const REREAD_MISSING: Duration = Duration::from_secs(10);

/// Everything that the spec refers to, each object read once, by name, in the cep's own namespace. What
/// was read lately is not read again: a transition must not wait for it. A value that cannot be read
/// now, because the API server does not answer, stays what it was.
pub(super) async fn materials(context: &Context, cep: &ClusterEndpoint, memory: &mut Memory) -> Materials {
    let wanted = references(&cep.spec);
    if wanted.is_empty() {
        memory.materials = None;
        return Materials::new();
    }
    let generation = cep.metadata.generation;
    let former = match &memory.materials {
        Some((of, at, materials)) if *of == generation => {
            let complete = materials.values().all(Result::is_ok);
            if at.elapsed() < if complete { REREAD } else { REREAD_MISSING } - SLACK {
                return materials.clone();
            }
            materials.clone()
        }
        _ => Materials::new(),
    };
    let namespace = cep.metadata.namespace.as_deref().unwrap_or_default();
    let mut materials = Materials::new();
    for wanted in wanted {
        if materials.contains_key(&wanted.reference) {
            continue;
        }
        let mut material = fetch(context, namespace, &wanted.reference).await;
        if let (Err(Absent::Unavailable(_)), Some(Ok(known))) = (&material, former.get(&wanted.reference)) {
            material = Ok(known.clone());
        }
        materials.insert(wanted.reference, material);
    }
    memory.materials = Some((generation, Instant::now(), materials.clone()));
    materials
}

/// A timer may fire a little early.
const SLACK: Duration = Duration::from_secs(1);

async fn fetch(context: &Context, namespace: &str, reference: &Reference) -> Material {
    match reference {
        Reference::SecretKey { name, key } => {
            let secret = request(context.api::<Secret>(namespace).get(name)).await.map_err(absent)?;
            let value = secret.data.unwrap_or_default().remove(key).ok_or(Absent::Key)?;
            String::from_utf8(value.0).map(Text::new).map_err(|_| Absent::NotText)
        }
        Reference::ConfigMapKey { name, key } => {
            let map = request(context.api::<ConfigMap>(namespace).get(name)).await.map_err(absent)?;
            map.data.unwrap_or_default().remove(key).map(Text::new).ok_or(Absent::Key)
        }
    }
}

fn absent(error: ApiError) -> Absent {
    match () {
        () if error.is_not_found() => Absent::Object,
        () if error.is_forbidden() => Absent::Forbidden,
        () => Absent::Unavailable(error.to_string()),
    }
}

/// Verdicts to start from: our own slices if there are any (a restart, a handover), else what somebody
/// made by hand (an adoption).
pub(super) async fn seeds(
    context: &Context,
    identity: &Identity,
    observed: &Observed,
) -> Result<Seeds, Error> {
    let mut seeds = Seeds::default();
    for slice in observed.slices.iter().filter_map(Slice::read) {
        for (address, ready) in &slice.endpoints {
            let name = Some(slice.port.name.as_str());
            seeds.insert(name, slice.port.number, *address, seed(*ready));
        }
        slice.names.iter().for_each(|(name, addresses)| seeds.resolve(name, addresses));
    }
    if !seeds.is_empty() || observed.service.is_none() {
        return Ok(seeds);
    }
    if let Some(endpoints) = &observed.endpoints {
        seed_from_endpoints(endpoints, &mut seeds);
    }
    if !observed.foreign.is_empty() {
        seed_from_slices(context, identity, &mut seeds).await?;
    }
    Ok(seeds)
}

fn seed(ready: bool) -> Seed {
    let verdict = if ready { Verdict::Healthy } else { Verdict::Unhealthy };
    Seed { verdict, since: None, cause: None }
}

fn seed_from_endpoints(endpoints: &Endpoints, seeds: &mut Seeds) {
    for subset in Subset::read(endpoints).unwrap_or_default() {
        for port in &subset.ports {
            let name = Some(port.name.as_str());
            // Out of Endpoints made by hand nobody is known to be unhealthy: only what is listed as ready counts.
            subset.ready.iter().for_each(|address| seeds.insert(name, port.number, *address, seed(true)));
        }
    }
}

async fn seed_from_slices(context: &Context, identity: &Identity, seeds: &mut Seeds) -> Result<(), Error> {
    let name = &identity.key.name;
    let of_service = ListParams::default().labels(&format!("{SERVICE_NAME_LABEL}={name}"));
    let api = context.api::<EndpointSlice>(&identity.key.namespace);
    let list = request(api.list(&of_service)).await.map_err(|source| Error::Dereference {
        what: format!("the EndpointSlices of Service {name}"),
        source,
    })?;
    for slice in list {
        for port in slice.ports.iter().flatten() {
            let Some(number) = port.port.and_then(|n| u16::try_from(n).ok()) else { continue };
            for endpoint in &slice.endpoints.clone().unwrap_or_default() {
                // "nil should be interpreted as true" (discovery.k8s.io/v1, EndpointConditions.ready).
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                for address in endpoint.addresses.iter().filter_map(|a| a.parse().ok()).filter(|_| ready) {
                    seeds.insert(port.name.as_deref(), number, address, seed(true));
                }
            }
        }
    }
    Ok(())
}

/// How long it is believed that there are no Endpoints. They are in no cache then, and asking for them before
/// every write would make each eviction wait.
const ABSENCE: Duration = Duration::from_secs(60);

/// Endpoints that do not carry our label are in no cache of ours: those of a Service about to be
/// adopted, and those from which somebody took the label.
pub(super) async fn unlabelled_endpoints(
    context: &Context,
    observed: &mut Observed,
    identity: &Identity,
    memory: &mut Memory,
) -> Result<(), Error> {
    if observed.endpoints.is_some() || memory.no_endpoints.is_some_and(|at| at.elapsed() < ABSENCE) {
        return Ok(());
    }
    let api = context.api::<Endpoints>(&identity.key.namespace);
    let found = request(api.get_opt(&identity.key.name)).await;
    observed.endpoints = found
        .map_err(|source| Error::Dereference { what: format!("Endpoints {}", identity.key.name), source })?;
    memory.no_endpoints = observed.endpoints.is_none().then(Instant::now);
    Ok(())
}

/// The Service of a new cep, when the cache does not have it: it may have been applied together with the
/// cep, and the verdicts to start from hang on it.
pub(super) async fn live_service(
    context: &Context,
    observed: &mut Observed,
    identity: &Identity,
) -> Result<(), Error> {
    if observed.service.is_some() {
        return Ok(());
    }
    let api = context.api::<Service>(&identity.key.namespace);
    observed.service = request(api.get_opt(&identity.key.name))
        .await
        .map_err(|source| Error::Dereference { what: format!("Service {}", identity.key.name), source })?;
    Ok(())
}

/// Slices of ours from which somebody took the label are in the cache of others' slices, which holds no
/// content.
pub(super) async fn unlabelled_slices(
    context: &Context,
    observed: &mut Observed,
    identity: &Identity,
) -> Result<(), Error> {
    let api = context.api::<EndpointSlice>(&identity.key.namespace);
    for name in context.unlabelled_slices(identity) {
        let slice = request(api.get_opt(&name))
            .await
            .map_err(|source| Error::Dereference { what: format!("EndpointSlice {name}"), source })?;
        observed.foreign.retain(|slice| slice.name != name);
        observed.slices.retain(|slice| slice.metadata.name.as_ref() != Some(&name));
        observed.slices.extend(slice);
    }
    Ok(())
}
