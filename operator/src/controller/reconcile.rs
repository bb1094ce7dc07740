//! One reconcile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cep_core::api::v1beta1::ClusterEndpoint;
use cep_core::check::{Definition, FieldError, Materials, Problem, parse};
use cep_core::endpoints::{Family, Slice, slices};
use cep_core::fail_open::serve;
use cep_core::health::Verdict;
use cep_core::plan::{Claim, Desired, FINALIZER, Identity, Observed, claim, families, hosts_are_known, plan};
use cep_core::snapshot::{Seeds, Snapshot};
use cep_core::status::{Notice, Progress, recall, told_otherwise};
use kube::Resource;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;

use super::apply::{apply, has_orphaned_finalizer, set_finalizer};
use super::context::{Context, Guarded};
use super::error::Error;
use super::memory::Memory;
use super::status::report;
use super::{dereference, retire};
use crate::error_chain::Chain;
use crate::metrics::ReconcileResult;

/// Brings one cep's objects to what they should be, when its turn has come.
pub(super) async fn reconcile(cep: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    context.caches.ready().await;
    // It is never closed.
    let _turn = context.turns.acquire().await;
    // It may have changed or gone meanwhile.
    let Some(cep) = context.caches.ceps.get(&ObjectRef::from_obj(&*cep)) else {
        return Ok(Action::await_change());
    };
    // Boxed because thousands may wait for their turn, and so far need next to nothing.
    Box::pin(now(&cep, &context)).await
}

async fn now(cep: &Guarded, context: &Context) -> Result<Action, Error> {
    let started = Instant::now();
    let result = match &cep.0 {
        Ok(cep) => one(cep, context).await,
        // What is wrong with its spec must not keep an object from going.
        Err(invalid) if invalid.metadata.deletion_timestamp.is_some() => {
            let metadata = invalid.metadata.clone();
            one(&ClusterEndpoint { metadata, ..ClusterEndpoint::default() }, context).await
        }
        Err(invalid) => Ok((malformed(invalid, context), ReconcileResult::Refused)),
    };
    let label = match &result {
        Ok((_, result)) => *result,
        Err(error) => {
            context.metrics.reconcile_failed(error.step());
            ReconcileResult::Error
        }
    };
    context.metrics.reconcile_done(label, started.elapsed());
    result.map(|(action, _)| action)
}

/// How soon a Service that was deleted is tried again with its former address.
const ADDRESS_RETRY: Duration = Duration::from_millis(100);

/// What happens after an error.
pub(super) fn error_policy(cep: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    let meta = cep.meta();
    let key = cep_core::snapshot::CepKey::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    );
    let memory = context.recall(&key);
    let mut memory = memory.as_ref().and_then(|memory| memory.try_lock().ok());
    let failures = memory.as_mut().map_or(1, |memory| {
        memory.failures = memory.failures.saturating_add(1);
        memory.failures
    });
    let address_awaited = memory.is_some_and(|memory| memory.refused_since.is_some());
    let again = if address_awaited { ADDRESS_RETRY } else { error.retry_in(failures) };
    if error.api().is_lost_race() && failures < 5 {
        tracing::debug!(cep = %key, error = %Chain(error), "somebody else wrote first");
    } else if failures.is_power_of_two() {
        tracing::warn!(cep = %key, failures, error = %Chain(error), "reconcile failed, will try again");
    }
    Action::requeue(again)
}

/// A stored object that the types cannot read: told, and left alone with all that belongs to it.
fn malformed(invalid: &InvalidObject, context: &Context) -> Action {
    let name = invalid.metadata.name.clone().unwrap_or_default();
    let namespace = invalid.metadata.namespace.clone().unwrap_or_default();
    tracing::warn!(cep = %format!("{namespace}/{name}"), error = %invalid.error, "a stored ClusterEndpoint cannot be read");
    if context.leads() {
        let note = format!(
            "the stored object cannot be read ({}); correct it, its Service stays as it is meanwhile",
            invalid.error
        );
        let recipient = k8s_openapi::api::core::v1::ObjectReference {
            api_version: Some(cep_core::api::v1beta1::API_VERSION.to_owned()),
            kind: Some(cep_core::api::v1beta1::KIND.to_owned()),
            name: Some(name),
            namespace: Some(namespace),
            uid: invalid.metadata.uid.clone(),
            ..Default::default()
        };
        context.events.publish(&recipient, Notice::new(true, "InvalidObject", "Reconcile", note));
    }
    Action::await_change()
}

async fn one(cep: &ClusterEndpoint, context: &Context) -> Result<(Action, ReconcileResult), Error> {
    let identity = Identity::of(cep);
    let memory = context.memory(&identity.key);
    let mut memory = memory.lock().await;
    let memory = &mut *memory;
    if memory.uid != identity.uid {
        // Another cep of the same name: nothing that was known of the former one holds.
        context.health.forget(identity.key.clone());
        *memory = Memory { uid: identity.uid.clone(), ..Memory::default() };
    }
    if cep.metadata.deletion_timestamp.is_some() {
        return Ok((retire::retire(context, &identity, cep, memory).await?, ReconcileResult::Success));
    }
    if memory.namespace_terminating {
        return Ok((Action::await_change(), ReconcileResult::Success));
    }
    let materials = dereference::materials(context, cep, memory).await;
    let parsed = parse(&identity.key.namespace, &cep.spec, &materials, &context.options.policy);
    let (definition, refused) = match (parsed, &memory.definition) {
        (Ok(definition), _) => (definition, Vec::new()),
        // The spec is refused, but hosts go on dying: the last good one is carried out meanwhile.
        (Err(errors), Some(last_good)) => ((**last_good).clone(), errors),
        (Err(errors), None) => {
            if context.leads() {
                report(context, &identity, cep, memory, &Progress::SpecRefused(&errors, None), None).await?;
            }
            return Ok((after(&materials, &errors), ReconcileResult::Refused));
        }
    };
    let afterwards = after(&materials, &refused);
    let mut observed = context.observe(&identity, memory);
    let Some(snapshot) = watch(context, &identity, cep, memory, definition, &mut observed).await? else {
        return Ok((Action::await_change(), ReconcileResult::Success));
    };
    if !context.exists(&identity) {
        // Deleted while we were reading: whoever noticed has made everybody forget it before we asked.
        context.forget(&identity.key);
        return Ok((Action::await_change(), ReconcileResult::Success));
    }
    if !context.leads() {
        memory.applied = None;
    }
    let snapshot = settle(context, &identity, cep, memory, snapshot).await;
    if !context.leads() {
        return Ok((afterwards, ReconcileResult::Success));
    }
    if has_orphaned_finalizer(cep) {
        let ours = cep.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
        set_finalizer(context, cep, ours)
            .await
            .map_err(|source| Error::Apply { object: "clusterendpoint", source })?;
        return Ok((Action::requeue(Duration::ZERO), ReconcileResult::Success));
    }
    if snapshot.is_looking_up() {
        // The prober speaks up when it has an answer or none, within seconds.
        return Ok((afterwards, ReconcileResult::Success));
    }
    if let Some(wait) = too_soon(memory, &snapshot) {
        return Ok((Action::requeue(wait), ReconcileResult::Success));
    }
    let (action, result) = write(context, &identity, cep, memory, &snapshot, &mut observed, &refused).await?;
    memory.failures = 0;
    let action = action.or(memory.look_again.map(Action::requeue));
    Ok((action.unwrap_or(afterwards), result))
}

/// What comes after a reconcile that has nothing more to do: values in Secrets and ConfigMaps are read
/// again now and then, sooner while one is missing.
fn after(materials: &Materials, errors: &[FieldError]) -> Action {
    match () {
        () if errors.iter().any(|error| error.problem == Problem::ReferenceNotReady) => {
            Action::requeue(dereference::REREAD_MISSING)
        }
        () if !materials.is_empty() => Action::requeue(dereference::REREAD),
        () => Action::await_change(),
    }
}

/// Hands the definition to the prober, with what exists as a start if it is new.
async fn watch(
    context: &Context,
    identity: &Identity,
    cep: &ClusterEndpoint,
    memory: &mut Memory,
    definition: Definition,
    observed: &mut Observed,
) -> Result<Option<Arc<Snapshot>>, Error> {
    let (definition, seeds) = match &memory.definition {
        Some(known) if **known == definition => (known.clone(), Seeds::default()),
        _ => {
            dereference::live_service(context, observed, identity).await?;
            if observed.service.is_some() {
                dereference::unlabelled_endpoints(context, observed, identity, memory).await?;
            }
            let mut seeds = dereference::seeds(context, identity, observed).await?;
            recall(&mut seeds, cep.status.as_ref(), &definition);
            (Arc::new(definition), seeds)
        }
    };
    memory.definition = Some(definition.clone());
    Ok(context.health.watch(identity.key.clone(), definition, seeds).await)
}

/// Until this process has told about a cep itself, the stored status has the say since when and why a
/// verdict holds: other replicas come to the same verdict at other moments, and a handover must write
/// nothing.
async fn settle(
    context: &Context,
    identity: &Identity,
    cep: &ClusterEndpoint,
    memory: &Memory,
    snapshot: Arc<Snapshot>,
) -> Arc<Snapshot> {
    let Some(status) = cep.status.as_ref().filter(|_| memory.applied.is_none()) else { return snapshot };
    let told = told_otherwise(status, &snapshot);
    if told.is_empty() {
        return snapshot;
    }
    context.health.settle(identity.key.clone(), told).await.unwrap_or(snapshot)
}

/// While many endpoints are being judged for the first time, their slices are written in bundles: a
/// thousand endpoints a slice, each written again for every one of them, would be a million.
fn too_soon(memory: &Memory, snapshot: &Snapshot) -> Option<Duration> {
    const SMALL: usize = 100;
    let pending = snapshot.endpoints.iter().filter(|e| e.verdict == Verdict::Unknown).count();
    let pause = match () {
        () if snapshot.endpoints.len() <= SMALL => return None,
        () if pending > 0 => Duration::from_millis(500),
        () => Duration::from_micros(100) * u32::try_from(snapshot.endpoints.len()).unwrap_or(u32::MAX),
    };
    let since = memory.last_write?.elapsed();
    pause.checked_sub(since).filter(|wait| !wait.is_zero())
}

/// Failures in a row after which the condition tells of them, whatever they are.
const LASTING: u32 = 8;

/// Plans, applies and reports. `refused` is what is wrong with the spec, when the snapshot is that of the
/// last good one. `Some` action: come back for more.
async fn write(
    context: &Context,
    identity: &Identity,
    cep: &ClusterEndpoint,
    memory: &mut Memory,
    snapshot: &Arc<Snapshot>,
    observed: &mut Observed,
    refused: &[FieldError],
) -> Result<(Option<Action>, ReconcileResult), Error> {
    let definition = &snapshot.definition;
    let finalizers = cep.metadata.finalizers.as_deref().unwrap_or_default();
    let claim = claim(identity, finalizers, definition, observed);
    let claim = match claim.and_then(|claim| hosts_are_known(claim, snapshot).map(|()| claim)) {
        Ok(claim) => claim,
        Err(refusal) => {
            let progress = Progress::ServiceRefused(&refusal, snapshot);
            report(context, identity, cep, memory, &progress, Some(snapshot)).await?;
            return Ok((None, ReconcileResult::Refused));
        }
    };
    dereference::unlabelled_endpoints(context, observed, identity, memory).await?;
    dereference::unlabelled_slices(context, observed, identity).await?;
    let serving = serve(snapshot);
    let slices = slices(&identity.key.name, snapshot, &serving);
    let desired =
        Desired { identity, definition, slices: &slices, write_endpoints: context.options.write_endpoints };
    let writes = plan(claim, &desired, observed);
    let changed = context.take_change(&identity.key);
    if is_repair(cep, identity, memory, snapshot) && !writes.is_empty() {
        if let Err(wait) = memory.repairs.admit(Instant::now()) {
            let note = format!(
                "somebody keeps changing the Service, EndpointSlices or Endpoints of this ClusterEndpoint; \
                 repaired again in {} s. Find who it is in their metadata.managedFields",
                wait.as_secs()
            );
            context
                .events
                .publish(&cep.object_ref(&()), Notice::new(true, "RepairsThrottled", "Repair", note));
            return Ok((Some(Action::requeue(wait)), ReconcileResult::Success));
        }
        writes.iter().for_each(|write| context.metrics.repair(write.object()));
        tracing::info!(cep = %identity.key, writes = writes.len(), "repairing what somebody else changed");
    }
    if let Claim::Adopt { finalizer: false } = claim {
        let note =
            "the Service existed before; it is adopted, and handed back when this ClusterEndpoint goes";
        context.events.publish(&cep.object_ref(&()), Notice::new(false, "ServiceAdopted", "Adopt", note));
    }
    if let Err(error) = apply(context, identity, cep, memory, writes, changed).await {
        if error.api().is_namespace_terminating() {
            memory.namespace_terminating = true;
            return Ok((None, ReconcileResult::Success));
        }
        if let Some(changed) = changed {
            context.note_change(identity.key.clone(), changed);
        }
        memory.no_endpoints = None;
        let lasting = error.api().is_invalid() || error.api().is_forbidden() || memory.failures >= LASTING;
        if lasting && memory.refused_since.is_none() && context.leads() {
            let service = matches!(&error, Error::Apply { object: "service", .. });
            let message = error.api().to_string();
            let progress = Progress::WriteFailed { service, message: &message, snapshot };
            report(context, identity, cep, memory, &progress, Some(snapshot)).await?;
        }
        return Err(error);
    }
    let warnings = warnings(observed, snapshot, &slices);
    let (progress, result) = if refused.is_empty() {
        let applied = Progress::Applied { snapshot, serving: &serving, warnings: &warnings };
        (applied, ReconcileResult::Success)
    } else {
        (Progress::SpecRefused(refused, Some(snapshot)), ReconcileResult::Refused)
    };
    report(context, identity, cep, memory, &progress, Some(snapshot)).await?;
    Ok((None, result))
}

/// Nothing that we know of has changed since everything was right, and yet it is not.
fn is_repair(cep: &ClusterEndpoint, identity: &Identity, memory: &Memory, snapshot: &Snapshot) -> bool {
    memory.applied.as_ref().is_some_and(|applied| {
        applied.generation == cep.metadata.generation
            && applied.labels == identity.labels
            && *applied.snapshot == *snapshot
    })
}

/// What works, but will surprise.
fn warnings(observed: &Observed, snapshot: &Snapshot, slices: &[Slice]) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = observed.service.as_ref().and_then(|service| service.spec.clone()).unwrap_or_default();
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        warnings.push(
            "internalTrafficPolicy: Local drops all traffic, for no host is on a node; set it to Cluster"
                .into(),
        );
    }
    if spec.external_traffic_policy.as_deref() == Some("Local") {
        warnings.push(
            "externalTrafficPolicy: Local drops traffic from outside, for no host is on a node; set it to Cluster"
                .into(),
        );
    }
    let of_service: Vec<Family> =
        spec.ip_families.iter().flatten().filter_map(|f| Family::parse(f)).collect();
    for family in families(slices) {
        if !of_service.is_empty() && !of_service.contains(&family) {
            warnings.push(format!(
                "some hosts have {0} addresses, which the Service does not forward to; add {0} to its ipFamilies",
                family.as_str()
            ));
        }
    }
    let panicking = cep_core::fail_open::panicking_ports(snapshot);
    for (port, _) in snapshot.definition.ports.iter().zip(&panicking).filter(|(_, panicking)| **panicking) {
        warnings.push(format!(
            "port {} is below its panicThreshold: all its hosts are served, healthy or not",
            port.label()
        ));
    }
    warnings
}
