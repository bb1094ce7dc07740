//! Watches, and what they wake up.
//!
//! Everything that can make a cep's objects differ from what they should be ends up as its name in
//! one queue: the cep itself, its Service, slices and Endpoints, a verdict, the Lease. A watch that had
//! to start over looks at every cep again, for deletions in between are never announced.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use cep_core::plan::{MANAGED_BY, MANAGED_BY_LABEL, SERVICE_NAME_LABEL, Write};
use cep_core::snapshot::CepKey;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Config as ApplierConfig;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, Event, ExponentialBackoff, watcher};
use kube::runtime::{WatchStreamExt, applier};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use strum::VariantNames;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::context::{Caches, Context, Guarded, SliceNames};
use super::{Error, Events, HealthSource, Options, reconcile};
use crate::error_chain::Chain;
use crate::metrics::Metrics;

type Queue = mpsc::UnboundedSender<ObjectRef<Guarded>>;

/// Runs the controller until `shutdown` resolves. `changed` brings ceps whose snapshot has changed, with
/// the moment; `ready` is called when all caches have been filled once.
#[expect(clippy::too_many_arguments, reason = "called once, by the wiring")]
pub async fn run(
    client: Client,
    health: Arc<dyn HealthSource>,
    options: Options,
    metrics: Arc<Metrics>,
    events: Events,
    leader: watch::Receiver<bool>,
    changed: impl Stream<Item = (CepKey, Instant)> + Send + 'static,
    ready: impl Fn() + Send + 'static,
    shutdown: impl Future<Output = ()> + Send,
) {
    metrics.expect(Error::VARIANTS, &Write::OBJECTS);
    let (queue, requests) = mpsc::unbounded_channel();
    let (services, services_writer) = reflector::store::<Service>();
    let (endpoints, endpoints_writer) = reflector::store::<Endpoints>();
    let (slices, slices_writer) = reflector::store::<EndpointSlice>();
    let (foreign, foreign_writer) = reflector::store();
    let (ceps, ceps_writer) = reflector::store::<Guarded>();
    let caches =
        Caches { ceps: ceps.clone(), services, endpoints, slices, foreign, names: SliceNames::default() };
    let context = Arc::new(Context::new(
        client.clone(),
        health,
        options.clone(),
        metrics,
        events,
        leader.clone(),
        caches,
    ));

    let scope = options.namespace.as_deref();
    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
    let others = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}!={MANAGED_BY}"));
    let every = watcher::Config::default();
    let mut tasks = tokio::task::JoinSet::new();
    {
        let stream = watcher(api::<Service>(&client, scope), every.clone());
        let wake = wake_namesakes(&context, &queue);
        tasks.spawn(follow("Services", slim(stream), services_writer, wake, resync(&context, &queue)));
        let stream = watcher(api::<Endpoints>(&client, scope), ours.clone());
        let wake = wake_namesakes(&context, &queue);
        tasks.spawn(follow("Endpoints", slim(stream), endpoints_writer, wake, resync(&context, &queue)));
        let stream = watcher(api::<EndpointSlice>(&client, scope), ours);
        let wake = wake_by_slice(&context, &queue);
        tasks.spawn(follow("EndpointSlices", slim(stream), slices_writer, wake, resync(&context, &queue)));
        let stream = watcher(api::<PartialObjectMeta<EndpointSlice>>(&client, scope), others);
        let wake = wake_by_slice(&context, &queue);
        let name = "EndpointSlices of others";
        tasks.spawn(follow(name, slim(stream), foreign_writer, wake, resync(&context, &queue)));
        let stream = watcher(api::<Guarded>(&client, scope), every);
        let wake = wake_cep(&context, &queue);
        tasks.spawn(follow("ClusterEndpoints", slim(stream), ceps_writer, wake, sweep(&context, &queue)));
    }
    {
        let (context, queue) = (context.clone(), queue.clone());
        tasks.spawn(async move {
            let mut changed = std::pin::pin!(changed);
            while let Some((key, at)) = changed.next().await {
                context.note_change(key.clone(), at);
                enqueue(&queue, &key);
            }
        });
    }
    {
        let (context, queue, mut leader) = (context.clone(), queue.clone(), leader);
        tasks.spawn(async move {
            while leader.changed().await.is_ok() {
                if *leader.borrow_and_update() {
                    enqueue_all(&context, &queue);
                }
            }
        });
    }
    {
        let context = context.clone();
        tasks.spawn(async move {
            context.caches.ready().await;
            let _ = context.caches.ceps.wait_until_ready().await;
            ready();
        });
    }
    drop(queue);
    let requests = UnboundedReceiverStream::new(requests).map(Ok::<_, std::convert::Infallible>);
    // Its own limit would take whatever comes first in a hash set, and let some wait as long as others
    // come: `Context::turns` is fair.
    let config = ApplierConfig::default();
    let work = applier(
        |cep, context| Box::pin(reconcile::reconcile(cep, context)),
        reconcile::error_policy,
        context,
        ceps,
        Box::pin(requests),
        config,
    )
    .for_each(|_| std::future::ready(()));
    tokio::select! {
        () = work => {}
        () = shutdown => {}
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Drops what nobody here reads and what is often larger than the rest of an object.
fn slim<K: Resource + Clone>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
) -> impl Stream<Item = watcher::Result<Event<K>>> {
    stream.modify(|object| object.meta_mut().managed_fields = None)
}

/// Follows one watch for good: fills the cache, wakes what an object concerns, and resynchronizes when
/// the watch had to start over.
async fn follow<K>(
    what: &'static str,
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    writer: reflector::store::Writer<K>,
    wake: impl Fn(&K, bool) + Send + 'static,
    resync: impl Fn() + Send + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    // An API server that comes back is noticed within a second; with the usual cap of 30 s the slices
    // would be wrong for that long.
    let pace = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times();
    let mut events = Box::pin(reflector::reflector(writer, stream).backoff(ExponentialBackoff::from(pace)));
    let mut failing = false;
    loop {
        match events.try_next().await {
            Ok(Some(Event::Apply(object) | Event::InitApply(object))) => wake(&object, false),
            Ok(Some(Event::Delete(object))) => wake(&object, true),
            Ok(Some(Event::Init)) => {}
            Ok(Some(Event::InitDone)) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(what, "watch is back");
                }
                resync();
            }
            Ok(None) => return,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(what, error = %Chain(&error), "watch failed; trying again until it works");
            }
            Err(error) => tracing::debug!(what, error = %Chain(&error), "watch still fails"),
        }
    }
}

fn enqueue(queue: &Queue, key: &CepKey) {
    // The queue ends with the process.
    let _ = queue.send(ObjectRef::new(&key.name).within(&key.namespace));
}

fn enqueue_all(context: &Context, queue: &Queue) {
    for cep in context.caches.ceps.state() {
        let _ = queue.send(ObjectRef::from_obj(&*cep));
    }
}

fn resync(context: &Arc<Context>, queue: &Queue) -> impl Fn() + use<> {
    let (context, queue) = (context.clone(), queue.clone());
    move || enqueue_all(&context, &queue)
}

/// A list of all ceps has come in: those that are not in it are gone.
fn sweep(context: &Arc<Context>, queue: &Queue) -> impl Fn() + use<> {
    let (context, queue) = (context.clone(), queue.clone());
    move || {
        for key in context.known() {
            let reference = ObjectRef::<Guarded>::new(&key.name).within(&key.namespace);
            if context.caches.ceps.get(&reference).is_none() {
                context.forget(&key);
            }
        }
        enqueue_all(&context, &queue);
    }
}

fn key_of(object: &impl ResourceExt) -> CepKey {
    CepKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

fn wake_cep(context: &Arc<Context>, queue: &Queue) -> impl Fn(&Guarded, bool) + use<> {
    let (context, queue) = (context.clone(), queue.clone());
    move |cep, deleted| {
        let key = key_of(cep);
        if deleted {
            context.forget(&key);
        } else {
            enqueue(&queue, &key);
        }
    }
}

/// Services and Endpoints belong to the cep of their own name, if there is one.
fn wake_namesakes<K: ResourceExt>(context: &Arc<Context>, queue: &Queue) -> impl Fn(&K, bool) + use<K> {
    let (context, queue) = (context.clone(), queue.clone());
    move |object, _| {
        let key = key_of(object);
        let cep = ObjectRef::<Guarded>::new(&key.name).within(&key.namespace);
        if context.caches.ceps.get(&cep).is_some() {
            enqueue(&queue, &key);
        }
    }
}

/// Slices belong to the cep that their label names, and to the one that owns them: somebody may have
/// edited the label.
fn wake_by_slice<K: ResourceExt>(context: &Arc<Context>, queue: &Queue) -> impl Fn(&K, bool) + use<K> {
    let (context, queue) = (context.clone(), queue.clone());
    move |slice, deleted| {
        let namespace = slice.namespace().unwrap_or_default();
        let label = slice.labels().get(SERVICE_NAME_LABEL).cloned();
        let owner = slice.owner_references().iter().find(|o| o.kind == cep_core::api::v1beta1::KIND);
        let mut names: Vec<String> = label.into_iter().chain(owner.map(|o| o.name.clone())).collect();
        names.dedup();
        for name in names {
            let (caches, slice) = (&context.caches, slice.name_any());
            if deleted {
                caches.names.drop(&namespace, &name, &slice, || !caches.hold_slice(&namespace, &slice));
            } else {
                caches.names.note(&namespace, &name, &slice);
            }
            let cep = ObjectRef::<Guarded>::new(&name).within(&namespace);
            if context.caches.ceps.get(&cep).is_some() {
                enqueue(&queue, &CepKey::new(namespace.as_str(), name));
            }
        }
    }
}
