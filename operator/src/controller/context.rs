//! What every reconcile has at hand.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cep_core::address_policy::AddressPolicy;
use cep_core::api::v1beta1::ClusterEndpoint;
use cep_core::plan::{ForeignSlice, Identity, MANAGED_BY_LABEL, Observed, SERVICE_NAME_LABEL};
use cep_core::snapshot::CepKey;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Preconditions;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::{Semaphore, watch};

use super::memory::{Memory, Written};
use super::{Events, HealthSource};
use crate::metrics::Metrics;

/// A cep, or why it could not be read: one malformed object must not stop the watch.
pub(super) type Guarded = DeserializeGuard<ClusterEndpoint>;

/// How the controller behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only ceps of this namespace; all otherwise.
    pub namespace: Option<String>,
    /// Whether Endpoints are kept beside EndpointSlices.
    pub write_endpoints: bool,
    /// Which addresses may be listed.
    pub policy: AddressPolicy,
}

/// Reconciles at a time: enough to hide the latency of the API server, few enough not to flood it.
const CONCURRENCY: usize = 16;

/// What every reconcile has at hand.
pub struct Context {
    pub(super) client: Client,
    pub(super) health: Arc<dyn HealthSource>,
    pub(super) options: Options,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: Events,
    pub(super) leader: watch::Receiver<bool>,
    pub(super) caches: Caches,
    /// Who waits longest is next.
    pub(super) turns: Semaphore,
    memories: Mutex<HashMap<CepKey, Arc<tokio::sync::Mutex<Memory>>>>,
    /// The first change since the last write, by cep: for measuring how long a write takes.
    changed: Mutex<HashMap<CepKey, Instant>>,
}

/// Read sides of the watches.
pub(super) struct Caches {
    pub(super) ceps: Store<Guarded>,
    pub(super) services: Store<Service>,
    pub(super) endpoints: Store<Endpoints>,
    pub(super) slices: Store<EndpointSlice>,
    pub(super) foreign: Store<PartialObjectMeta<EndpointSlice>>,
    pub(super) names: SliceNames,
}

impl Context {
    pub(super) fn new(
        client: Client,
        health: Arc<dyn HealthSource>,
        options: Options,
        metrics: Arc<Metrics>,
        events: Events,
        leader: watch::Receiver<bool>,
        caches: Caches,
    ) -> Self {
        let (memories, changed) = (Mutex::default(), Mutex::default());
        let turns = Semaphore::new(CONCURRENCY);
        Self { client, health, options, metrics, events, leader, caches, turns, memories, changed }
    }

    pub(super) fn leads(&self) -> bool {
        *self.leader.borrow()
    }

    pub(super) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The memory of a cep. Reconciles of one cep never overlap, so the lock never waits.
    pub(super) fn memory(&self, key: &CepKey) -> Arc<tokio::sync::Mutex<Memory>> {
        lock(&self.memories).entry(key.clone()).or_default().clone()
    }

    /// The same, of a cep that is not forgotten.
    pub(super) fn recall(&self, key: &CepKey) -> Option<Arc<tokio::sync::Mutex<Memory>>> {
        lock(&self.memories).get(key).cloned()
    }

    pub(super) fn forget(&self, key: &CepKey) {
        lock(&self.memories).remove(key);
        lock(&self.changed).remove(key);
        self.health.forget(key.clone());
    }

    /// Ceps that are probed, whether they still exist or not.
    pub(super) fn known(&self) -> Vec<CepKey> {
        lock(&self.memories).keys().cloned().collect()
    }

    /// A deciding outcome arrived at this moment.
    pub(super) fn note_change(&self, key: CepKey, at: Instant) {
        // Of a cep that is forgotten, or that somebody else writes, nobody would take it out again.
        if self.leads() && lock(&self.memories).contains_key(&key) {
            lock(&self.changed).entry(key).or_insert(at);
        }
    }

    /// Whether this very cep exists, by the cache.
    pub(super) fn exists(&self, identity: &Identity) -> bool {
        let reference = ObjectRef::new(&identity.key.name).within(&identity.key.namespace);
        self.caches.ceps.get(&reference).is_some_and(|cep| cep.meta().uid.as_deref() == Some(&*identity.uid))
    }

    /// A slice as we know it, for deleting that one and no other.
    pub(super) fn seen(&self, namespace: &str, name: &str, memory: &Memory) -> Option<Preconditions> {
        let written = memory.slices.get(name).and_then(Written::ahead).map(|slice| slice.metadata.clone());
        let ours = || self.caches.slices.get(&ObjectRef::new(name).within(namespace));
        let foreign = || self.caches.foreign.get(&ObjectRef::new(name).within(namespace));
        let meta = written
            .or_else(|| ours().map(|slice| slice.metadata.clone()))
            .or_else(|| foreign().map(|slice| slice.metadata.clone()))?;
        Some(Preconditions { uid: meta.uid, resource_version: meta.resource_version })
    }

    pub(super) fn take_change(&self, key: &CepKey) -> Option<Instant> {
        lock(&self.changed).remove(key)
    }

    /// What exists of a cep's objects, by the caches and our own latest writes.
    pub(super) fn observe(&self, identity: &Identity, memory: &mut Memory) -> Observed {
        let (namespace, name) = (&*identity.key.namespace, &*identity.key.name);
        let cached = self.caches.services.get(&ObjectRef::new(name).within(namespace));
        let service = memory.service.freshest(cached.as_deref());
        memory.last_seen = match (&service, cached.filter(|_| memory.service.ahead().is_none())) {
            (_, Some(cached)) => Some(cached),
            (Some(written), None) => Some(Arc::new(written.clone())),
            (None, None) => memory.last_seen.take(),
        };
        let cached = self.caches.endpoints.get(&ObjectRef::new(name).within(namespace));
        let endpoints = memory.endpoints.freshest(cached.as_deref());
        let slices = self.own_slices(identity, memory);
        let lagging = memory.slices.values().map(Written::doubted_for);
        let lagging = lagging.chain([memory.service.doubted_for(), memory.endpoints.doubted_for()]);
        memory.look_again = lagging.flatten().min();
        Observed {
            remembered: memory.last_seen.as_deref().filter(|_| service.is_none()).cloned(),
            service,
            slices,
            foreign: self.foreign_slices(namespace, name),
            endpoints,
        }
    }

    fn own_slices(&self, identity: &Identity, memory: &mut Memory) -> Vec<EndpointSlice> {
        let (namespace, cep) = (&*identity.key.namespace, &*identity.key.name);
        let mut names = self.caches.names.of(namespace, cep);
        names.extend(memory.slices.keys().cloned());
        let mut slices: Vec<EndpointSlice> = Vec::new();
        for name in names {
            let cached = self.caches.slices.get(&ObjectRef::new(&name).within(namespace));
            let cached = cached.filter(|slice| {
                slice.labels().get(SERVICE_NAME_LABEL).map(String::as_str) == Some(cep)
                    || slice.owner_references().iter().any(|owner| owner.uid == identity.uid)
            });
            slices.extend(match memory.slices.get_mut(&name) {
                Some(written) => written.freshest(cached.as_deref()),
                None => cached.as_deref().cloned(),
            });
        }
        memory.slices.retain(|_, written| written.ahead().is_some());
        slices
    }

    /// Names of slices that this cep owns and that do not say any more that they are ours.
    pub(super) fn unlabelled_slices(&self, identity: &Identity) -> Vec<String> {
        let (namespace, cep) = (&*identity.key.namespace, &*identity.key.name);
        let of_others = |name: &String| self.caches.foreign.get(&ObjectRef::new(name).within(namespace));
        let is_owned = |name: &String| {
            of_others(name).is_some_and(|s| s.owner_references().iter().any(|o| o.uid == identity.uid))
        };
        self.caches.names.of(namespace, cep).into_iter().filter(is_owned).collect()
    }

    fn foreign_slices(&self, namespace: &str, service: &str) -> Vec<ForeignSlice> {
        let mut foreign: Vec<ForeignSlice> = self
            .caches
            .names
            .of(namespace, service)
            .iter()
            .filter_map(|name| self.caches.foreign.get(&ObjectRef::new(name).within(namespace)))
            .filter(|slice| slice.labels().get(SERVICE_NAME_LABEL).map(String::as_str) == Some(service))
            .map(|slice| ForeignSlice {
                name: slice.name_any(),
                managed_by: slice.labels().get(MANAGED_BY_LABEL).cloned(),
            })
            .collect();
        foreign.sort_by(|a, b| a.name.cmp(&b.name));
        foreign
    }
}

impl Caches {
    /// All caches have been filled once. Nothing is decided before: an object that is merely not known
    /// yet would be taken for missing.
    pub(super) async fn ready(&self) {
        // A writer that is dropped ends the process anyway.
        let _ = self.services.wait_until_ready().await;
        let _ = self.endpoints.wait_until_ready().await;
        let _ = self.slices.wait_until_ready().await;
        let _ = self.foreign.wait_until_ready().await;
    }

    /// Whether there is such a slice, of ours or of others.
    pub(super) fn hold_slice(&self, namespace: &str, name: &str) -> bool {
        self.slices.get(&ObjectRef::new(name).within(namespace)).is_some()
            || self.foreign.get(&ObjectRef::new(name).within(namespace)).is_some()
    }
}

/// Names of slices by namespace and Service (or owner), so that a reconcile need not look through all
/// slices of the cluster. It may name slices that are gone; the caches know.
#[derive(Debug, Default)]
pub(super) struct SliceNames(Mutex<HashMap<(String, String), BTreeSet<String>>>);

impl SliceNames {
    pub(super) fn note(&self, namespace: &str, service: &str, slice: &str) {
        let place = (namespace.to_owned(), service.to_owned());
        lock(&self.0).entry(place).or_default().insert(slice.to_owned());
    }

    /// A watch has lost a slice, which may be in the other one now: a label moves it. Whoever puts a slice
    /// in a cache notes it afterwards, so that no name is lost between the two.
    pub(super) fn drop(&self, namespace: &str, service: &str, slice: &str, is_gone: impl Fn() -> bool) {
        let place = (namespace.to_owned(), service.to_owned());
        let mut names = lock(&self.0);
        if !is_gone() {
            return;
        }
        if let Some(of_service) = names.get_mut(&place) {
            of_service.remove(slice);
            if of_service.is_empty() {
                names.remove(&place);
            }
        }
    }

    fn of(&self, namespace: &str, service: &str) -> BTreeSet<String> {
        lock(&self.0).get(&(namespace.to_owned(), service.to_owned())).cloned().unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map is whole after every statement above; a panic elsewhere does not make it wrong.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
