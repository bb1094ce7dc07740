//! What others edit or delete by hand is put right; what is not ours is left alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testbed::wait::always;
use testbed::{Cluster, Host, Server, eventually};

use crate::stage::{SOON, Stage};

/// Within this everything is right again.
const AT_ONCE: Duration = Duration::from_secs(1);

const OURS: &str = "endpoints-operator.sealyun.com";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

fn cep(name: &str) -> String {
    json!({
        "apiVersion": "sealyun.com/v1beta1",
        "kind": "ClusterEndpoint",
        "metadata": { "name": name, "labels": { "team": "shop" } },
        "spec": {
            "hosts": ["172.18.191.215", "172.18.191.216"],
            "periodSeconds": 1,
            "ports": [
                { "name": "web", "port": 80, "targetPort": 8080, "tcpSocket": { "enable": true } },
                { "name": "raw", "port": 81, "targetPort": 8081 },
            ],
        },
    })
    .to_string()
}

/// Everything about the three kinds of objects that matters, of one cep.
async fn essence(stage: &Stage, name: &str) -> Result<Value> {
    let service = stage.services().get_opt(name).await?.context("no Service")?;
    let spec = service.spec.context("no spec")?;
    let ports = spec.ports.context("no ports")?;
    let owner = |meta: &kube::api::ObjectMeta| {
        meta.owner_references.iter().flatten().map(|o| (o.kind.clone(), o.uid.clone())).collect::<Vec<_>>()
    };
    let of_service = ListParams::default().labels(&format!("{SERVICE_NAME}={name}"));
    let mut slices = stage.slices().list(&of_service).await?.items;
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let slices: Vec<Value> = slices
        .iter()
        .map(|slice| {
            json!({
                "name": slice.metadata.name, "labels": slice.metadata.labels, "owner": owner(&slice.metadata),
                "ports": slice.ports, "endpoints": slice.endpoints,
            })
        })
        .collect();
    let mut endpoints = stage.endpoints().get_opt(name).await?.context("no Endpoints")?;
    // What Kubernetes' own controller leaves there while the Service has a selector.
    endpoints.metadata.labels.get_or_insert_default().remove("endpoints.kubernetes.io/managed-by");
    Ok(json!({
        "service": {
            "labels": service.metadata.labels, "owner": owner(&service.metadata), "ports": ports,
            "clusterIP": spec.cluster_ip, "selector": spec.selector,
        },
        "slices": slices,
        "endpoints": {
            "labels": endpoints.metadata.labels, "owner": owner(&endpoints.metadata),
            "subsets": endpoints.subsets,
        },
    }))
}

/// A cep whose objects are all there.
struct Kept<'a> {
    stage: &'a Stage,
    name: &'static str,
    right: Value,
}

impl<'a> Kept<'a> {
    async fn new(stage: &'a Stage, name: &'static str) -> Result<Self> {
        stage.cluster.apply(&cep(name)).await?;
        stage.phase(name, "Healthy").await?;
        let ready =
            ["172.18.191.215:8080", "172.18.191.215:8081", "172.18.191.216:8080", "172.18.191.216:8081"];
        stage.until_ready(name, &ready).await?;
        // The Endpoints are written last.
        let right = eventually(SOON, "the Endpoints are written", async || {
            let essence = essence(stage, name).await?;
            ensure!(essence["slices"].as_array().is_some_and(|s| s.len() == 2), "{essence}");
            Ok(essence)
        })
        .await?;
        Ok(Self { stage, name, right })
    }

    fn slice(&self, port: &str) -> String {
        format!("{}.{port}-ipv4-0", self.name)
    }

    /// That what was just done is seen, and undone in time.
    async fn repaired(&self, what: &str) -> Result<()> {
        let begun = Instant::now();
        eventually(AT_ONCE, &format!("{}: {what} is put right", self.name), async || {
            let now = essence(self.stage, self.name).await?;
            ensure!(now == self.right, "{now}\nshould be\n{}", self.right);
            Ok(())
        })
        .await?;
        println!("{}: {what} put right in {:?}", self.name, begun.elapsed());
        Ok(())
    }

    async fn edit_service(&self, what: &str, patch: Value) -> Result<()> {
        let api = self.stage.services();
        api.patch(self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        self.repaired(what).await
    }

    async fn edit_slice(&self, what: &str, patch: Value) -> Result<()> {
        let api = self.stage.slices();
        api.patch(&self.slice("web"), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        self.repaired(what).await
    }

    async fn edit_endpoints(&self, what: &str, patch: Value) -> Result<()> {
        let api = self.stage.endpoints();
        api.patch(self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        self.repaired(what).await
    }
}

async fn servers(cluster: &Cluster) -> Result<Vec<(Host, Server)>> {
    let mut servers = Vec::new();
    for address in ["172.18.191.215", "172.18.191.216"] {
        let host = cluster.host(address)?;
        let server = Server::tcp(host.netns(), host.socket(8080)).await?;
        servers.push((host, server));
    }
    Ok(servers)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_edited_or_deleted_by_hand_is_right_again_within_a_second() -> Result<()> {
    let stage = Stage::on(Cluster::builder().ipv6(false).proxy(false).start().await?).await?;
    let _servers = servers(&stage.cluster).await?;
    let operator = stage.operator(&[]).await?;

    // A cep for each kind of object: beyond a handful of repairs of one cep they are paced.
    let service = Kept::new(&stage, "service").await?;
    let ports = json!([{ "name": "other", "port": 99, "targetPort": 99, "protocol": "TCP" }]);
    service.edit_service("other ports", json!({ "spec": { "ports": ports } })).await?;
    let target = json!([{ "name": "web", "port": 80, "targetPort": 1 }, { "name": "raw", "port": 81 }]);
    service.edit_service("other target ports", json!({ "spec": { "ports": target } })).await?;
    service.edit_service("a label edited", json!({ "metadata": { "labels": { "team": "x" } } })).await?;
    service.edit_service("a label gone", json!({ "metadata": { "labels": { "team": null } } })).await?;

    let service = Kept::new(&stage, "service-too").await?;
    service.edit_service("a selector", json!({ "spec": { "selector": { "app": "x" } } })).await?;
    stage.services().delete("service-too", &DeleteParams::default()).await?;
    service.repaired("the Service deleted, with its clusterIP").await?;

    let slice = Kept::new(&stage, "slice").await?;
    let endpoint = json!([{ "addresses": ["172.18.191.217"], "conditions": { "ready": true } }]);
    slice.edit_slice("other endpoints", json!({ "endpoints": endpoint })).await?;
    slice.edit_slice("no endpoints", json!({ "endpoints": [] })).await?;
    slice.edit_slice("another port", json!({ "ports": [{ "name": "web", "port": 1 }] })).await?;
    slice.edit_slice("another Service", json!({ "metadata": { "labels": { SERVICE_NAME: "x" } } })).await?;
    slice.edit_slice("no Service", json!({ "metadata": { "labels": { SERVICE_NAME: null } } })).await?;
    slice.edit_slice("no manager", json!({ "metadata": { "labels": { MANAGED_BY: null } } })).await?;
    slice.edit_slice("another manager", json!({ "metadata": { "labels": { MANAGED_BY: "x" } } })).await?;

    let slice = Kept::new(&stage, "slice-too").await?;
    stage.slices().delete(&slice.slice("web"), &DeleteParams::default()).await?;
    slice.repaired("a slice deleted").await?;
    let ours = ListParams::default().labels(&format!("{SERVICE_NAME}=slice-too,{MANAGED_BY}={OURS}"));
    stage.slices().delete_collection(&DeleteParams::default(), &ours).await?;
    slice.repaired("all slices deleted").await?;

    let endpoints = Kept::new(&stage, "endpoints").await?;
    let subset = json!([{ "addresses": [{ "ip": "172.18.191.217" }], "ports": [{ "port": 1 }] }]);
    endpoints.edit_endpoints("other subsets", json!({ "subsets": subset })).await?;
    endpoints.edit_endpoints("no subsets", json!({ "subsets": null })).await?;
    let patch = json!({ "metadata": { "labels": { SKIP_MIRROR: null } } });
    stage.endpoints().patch("endpoints", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    // Mirrored slices may come for a moment, and go by themselves.
    endpoints.repaired("the label skip-mirror gone").await?;
    endpoints.edit_endpoints("no manager", json!({ "metadata": { "labels": { MANAGED_BY: null } } })).await?;
    endpoints.edit_endpoints("no owner", json!({ "metadata": { "ownerReferences": [] } })).await?;
    stage.endpoints().delete("endpoints", &DeleteParams::default()).await?;
    endpoints.repaired("the Endpoints deleted").await?;

    // What others add and the spec does not speak of stays.
    let patch = json!({ "metadata": { "labels": { "theirs": "1" }, "annotations": { "theirs": "1" } } });
    stage.services().patch("endpoints", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    always(AT_ONCE, "a foreign label stays", async || {
        let labels = stage.services().get("endpoints").await?.metadata.labels.unwrap_or_default();
        ensure!(labels.contains_key("theirs"), "{labels:?}");
        Ok(())
    })
    .await?;
    for object in ["service", "endpointslice", "endpoints"] {
        let repairs = operator.metric("endpoints_operator_repairs_total", object).await?;
        ensure!(repairs >= 4.0, "{repairs} repairs of {object}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_keeps_applying_is_paced_and_told_about() -> Result<()> {
    let stage = Stage::on(Cluster::builder().ipv6(false).proxy(false).start().await?).await?;
    let _servers = servers(&stage.cluster).await?;
    let operator = stage.operator(&[]).await?;
    Kept::new(&stage, "fought-over").await?;
    let calm = Kept::new(&stage, "calm").await?;

    let theirs = json!({ "spec": { "ports": [{ "name": "theirs", "port": 9, "targetPort": 9 }] } });
    let before = stage.cluster.apiserver_write_counts().await?;
    let mut applied = 0;
    let begun = Instant::now();
    let reached = eventually(Duration::from_secs(60), "fifty rounds and an Event", async || {
        let patch = Patch::Merge(&theirs);
        stage.services().patch("fought-over", &PatchParams::default(), &patch).await?;
        // A tool on its own, which reads and writes for ever.
        tokio::time::sleep(Duration::from_millis(50)).await;
        applied += 1;
        let events = stage.events("fought-over").await?;
        let told = events.iter().any(|(reason, _)| reason == "RepairsThrottled");
        ensure!(told && applied >= 100, "applied {applied} times; {events:?}");
        Ok(events)
    })
    .await?;
    let took = begun.elapsed();
    let note = reached.iter().find(|(reason, _)| reason == "RepairsThrottled").context("told")?;
    ensure!(note.1.contains("managedFields"), "{}", note.1);
    let new = stage.cluster.apiserver_write_counts().await?.since(&before);
    let repairs = operator.metric("endpoints_operator_repairs_total", "service").await?;
    println!("applied {applied} times in {took:?}: {repairs} repairs, {new}");
    // Ten at once, then one every three seconds.
    let allowed = 10.0 + took.as_secs_f64() / 3.0 + 1.0;
    ensure!(repairs >= 5.0 && repairs <= allowed, "{repairs} repairs in {took:?}");
    ensure!(new.of("events") <= 12, "the Events are paced too: {new}");

    // The neighbour does not suffer, and in the end the spec wins.
    calm.edit_service("other ports", theirs.clone()).await?;
    eventually(Duration::from_secs(45), "the spec wins", async || {
        let service = stage.services().get("fought-over").await?;
        let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
        ensure!(ports.len() == 2, "{ports:?}");
        Ok(())
    })
    .await
}

/// What is there before the cep, and why it is left alone.
fn foreign() -> Vec<(&'static str, Value, &'static str)> {
    let ports = json!([{ "name": "web", "port": 80, "targetPort": 8080 }]);
    vec![
        ("selecting", json!({ "selector": { "app": "web" }, "ports": ports }), "ServiceHasSelector"),
        (
            "external",
            json!({ "type": "ExternalName", "externalName": "example.org", "ports": ports }),
            "ServiceIsExternalName",
        ),
        ("sliced", json!({ "ports": ports }), "ForeignEndpointSlices"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_others_is_refused_and_untouched() -> Result<()> {
    let stage = Stage::on(Cluster::builder().ipv6(false).proxy(false).start().await?).await?;
    let _servers = servers(&stage.cluster).await?;
    for (name, spec, _) in foreign() {
        let service: Service = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec }))?;
        stage.services().create(&PostParams::default(), &service).await?;
    }
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": { "name": "sliced-abc", "labels": { SERVICE_NAME: "sliced", MANAGED_BY: "mesh.example.org" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": ["172.18.191.217"], "conditions": { "ready": true } }],
        "ports": [{ "name": "web", "port": 8080, "protocol": "TCP" }],
    }))?;
    stage.slices().create(&PostParams::default(), &slice).await?;
    // The endpoint controllers have done their part for the selector.
    eventually(SOON, "Kubernetes' own slice and Endpoints", async || {
        let slices = stage.slices().list(&ListParams::default()).await?.items.len();
        ensure!(slices == 3, "{slices} slices");
        stage.endpoints().get("selecting").await?;
        Ok(())
    })
    .await?;
    let versions = async || -> Result<Vec<String>> {
        let mut versions = Vec::new();
        let mut note = |kind: &str, meta: &kube::api::ObjectMeta| {
            let name = meta.name.clone().unwrap_or_default();
            if name != "kubernetes" {
                versions.push(format!("{kind} {name} {}", meta.resource_version.clone().unwrap_or_default()));
            }
        };
        stage
            .services()
            .list(&ListParams::default())
            .await?
            .iter()
            .for_each(|o| note("Service", &o.metadata));
        stage.slices().list(&ListParams::default()).await?.iter().for_each(|o| note("slice", &o.metadata));
        stage
            .endpoints()
            .list(&ListParams::default())
            .await?
            .iter()
            .for_each(|o| note("Endpoints", &o.metadata));
        Ok(versions)
    };
    let before = versions().await?;
    ensure!(before.len() == 6, "{before:?}");

    let _operator = stage.operator(&[]).await?;
    for (name, _, reason) in foreign() {
        stage.cluster.apply(&cep(name)).await?;
        let message = stage.condition(name, "SyncServiceReady", "False", reason).await?;
        println!("{name}: {message}");
        ensure!(message.contains(name), "{message}");
        stage.phase(name, "UnHealthy").await?;
        let events = stage.events(name).await?;
        if !events.iter().any(|(told, _)| told == reason) {
            eventually(SOON, "an Event says so", async || {
                let events = stage.events(name).await?;
                ensure!(events.iter().any(|(told, _)| told == reason), "{events:?}");
                Ok(())
            })
            .await?;
        }
    }
    let after = versions().await?;
    if after != before {
        bail!("{before:?}\nbecame\n{after:?}");
    }
    // Deleting the cep leaves them alone as well.
    stage.ceps().delete("sliced", &DeleteParams::default()).await?;
    eventually(SOON, "the cep is gone", async || {
        let found = stage.ceps().get_opt("sliced").await?;
        ensure!(found.is_none(), "{found:?}");
        Ok(())
    })
    .await?;
    ensure!(versions().await? == before, "{:?}", versions().await?);

    // When the reason goes, so does the refusal.
    let patch = Patch::Merge(json!({ "spec": { "selector": null } }));
    stage.services().patch("selecting", &PatchParams::default(), &patch).await?;
    stage.phase("selecting", "Healthy").await?;
    let ready = ["172.18.191.215:8080", "172.18.191.215:8081", "172.18.191.216:8080", "172.18.191.216:8081"];
    stage.until_ready("selecting", &ready).await
}
