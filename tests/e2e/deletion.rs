//! What goes with a ClusterEndpoint, and who may hold it up.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::{Cluster, Server, eventually};

use crate::stage::{SOON, Stage};

const HOST: &str = "172.18.191.11";
/// The finalizers of the original operator, in its two groups.
const ORPHANED: [&str; 2] =
    ["sealyun.com/cluster-endpoints.finalizers", "sealos.io/cluster-endpoints.finalizers"];
/// How long the namespace controller may take: it looks again after some seconds.
const NAMESPACE_PACE: Duration = Duration::from_secs(60);
/// How long garbage collection may take: it looks for new kinds, such as ours, every half minute.
const GARBAGE_PACE: Duration = Duration::from_secs(60);

fn cep(namespace: &str, name: &str, finalizers: &[&str]) -> Value {
    json!({
        "apiVersion": "sealyun.com/v1beta1",
        "kind": "ClusterEndpoint",
        "metadata": { "name": name, "namespace": namespace, "finalizers": finalizers },
        "spec": {
            "hosts": [HOST],
            "periodSeconds": 1,
            "ports": [{ "name": "web", "port": 80, "targetPort": 8080, "tcpSocket": { "enable": true } }],
        },
    })
}

/// A Service that somebody made by hand, with its Endpoints.
fn by_hand(namespace: &str, name: &str) -> [Value; 2] {
    let metadata = json!({ "name": name, "namespace": namespace });
    [
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": { "ports": [{ "name": "web", "port": 80, "targetPort": 8080 }] } }),
        json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
                "subsets": [{ "addresses": [{ "ip": HOST }], "ports": [{ "name": "web", "port": 8080 }] }] }),
    ]
}

async fn apply(stage: &Stage, items: &[Value]) -> Result<()> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    stage.cluster.apply(&list.to_string()).await.map(drop)
}

async fn finalizers(stage: &Stage, cep: &str) -> Result<Vec<String>> {
    Ok(stage.ceps().get(cep).await?.metadata.finalizers.unwrap_or_default())
}

async fn until_gone(stage: &Stage, cep: &str) -> Result<()> {
    eventually(SOON, &format!("ClusterEndpoint {cep} is gone"), async || {
        let left = stage.ceps().get_opt(cep).await?;
        ensure!(left.is_none(), "{:?}", left.map(|cep| cep.metadata));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_of_the_original_operator_are_stripped_and_what_was_created_goes_too() -> Result<()> {
    let stage = Stage::on(Cluster::builder().proxy(false).start().await?).await?;
    let host = stage.cluster.host(HOST)?;
    let _server = Server::tcp(host.netns(), host.socket(8080)).await?;

    // One that is being deleted when the operator comes, and one that lives.
    let both = [ORPHANED[0], ORPHANED[1], "example.org/kept"];
    apply(&stage, &[cep("default", "dying", &ORPHANED), cep("default", "living", &both)]).await?;
    stage.ceps().delete("dying", &DeleteParams::default()).await?;
    ensure!(finalizers(&stage, "dying").await? == ORPHANED, "nobody else removes them");
    let _operator = stage.operator(&[]).await?;
    until_gone(&stage, "dying").await?;
    stage.phase("living", "Healthy").await?;
    ensure!(
        finalizers(&stage, "living").await? == ["example.org/kept"],
        "{:?}",
        finalizers(&stage, "living").await?
    );

    // An adopted one is held until its Service is handed back, by our finalizer and no other.
    apply(&stage, &by_hand("default", "adopted")).await?;
    apply(&stage, &[cep("default", "adopted", &ORPHANED[..1])]).await?;
    stage.phase("adopted", "Healthy").await?;
    let held = finalizers(&stage, "adopted").await?;
    ensure!(held == ["endpoints-operator.sealyun.com/hand-back"], "{held:?}");

    let service = stage.services().get("living").await?;
    ensure!(service.owner_references().len() == 1, "{service:?}");
    ensure!(stage.slices().get("living.web-ipv4-0").await?.owner_references().len() == 1, "owned");
    ensure!(stage.endpoints().get("living").await?.owner_references().len() == 1, "owned");
    stage.ceps().delete("living", &DeleteParams::default()).await?;
    let no_finalizers = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    stage.ceps().patch("living", &PatchParams::default(), &no_finalizers).await?;
    until_gone(&stage, "living").await?;
    eventually(GARBAGE_PACE, "Service, slice and Endpoints go with their ClusterEndpoint", async || {
        let left = [
            ("Service", stage.services().get_opt("living").await?.is_some()),
            ("EndpointSlice", stage.slices().get_opt("living.web-ipv4-0").await?.is_some()),
            ("Endpoints", stage.endpoints().get_opt("living").await?.is_some()),
        ];
        ensure!(left.iter().all(|(_, left)| !left), "left: {left:?}");
        Ok(())
    })
    .await?;
    ensure!(stage.services().get_opt("adopted").await?.is_some(), "that of another");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_away_with_its_ceps_and_nothing_is_an_error() -> Result<()> {
    let stage = Stage::on(Cluster::builder().proxy(false).start().await?).await?;
    let host = stage.cluster.host(HOST)?;
    let _server = Server::tcp(host.netns(), host.socket(8080)).await?;
    let namespaces: Api<Namespace> = Api::all(stage.cluster.client());
    apply(&stage, &[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } })])
        .await?;
    let names: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    for n in &names {
        apply(&stage, &by_hand("shop", &format!("adopted-{n}"))).await?;
    }
    let operator = stage.operator(&[]).await?;
    for n in &names {
        let pair = ["adopted", "created"].map(|kind| cep("shop", &format!("{kind}-{n}"), &[]));
        apply(&stage, &pair).await?;
    }
    let services: Api<Service> = Api::namespaced(stage.cluster.client(), "shop");
    eventually(SOON, "all Services are there and all ClusterEndpoints are healthy", async || {
        let table = stage.cluster.kubectl(&["get", "cep", "-n", "shop", "--no-headers"]).await?;
        let healthy = table.lines().filter(|line| line.ends_with("Healthy") && !line.ends_with("UnHealthy"));
        let services = services.list(&Default::default()).await?.items.len();
        ensure!((healthy.count(), services) == (10, 10), "{services} Services\n{table}");
        Ok(())
    })
    .await?;
    let before = operator.process.log();

    namespaces.delete("shop", &DeleteParams::default()).await?;
    eventually(NAMESPACE_PACE, "the namespace is gone", async || {
        let left = namespaces.get_opt("shop").await?;
        ensure!(left.is_none(), "{:?}", left.and_then(|namespace| namespace.status));
        Ok(())
    })
    .await?;
    operator.process.ensure_running()?;
    let log = operator.process.log();
    let since = &log[before.len()..];
    let complaints: Vec<_> = since
        .lines()
        .filter(|line| line.contains("ERROR") || line.contains("WARN") || line.contains("error"))
        .collect();
    ensure!(complaints.is_empty(), "{complaints:#?}");
    let repairs = since.matches("repairing").count();
    ensure!(repairs <= 3 * 10, "{repairs} repairs in a namespace that was going away:\n{since}");
    Ok(())
}
