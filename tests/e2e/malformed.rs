//! Objects that were stored before the schema was what it is now.

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::{Cluster, Server, eventually};

use crate::stage::{CRD, SOON, Stage};

/// Our kind as it might have been: any object goes.
fn loose() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "clusterendpoints.sealyun.com" },
        "spec": {
            "group": "sealyun.com",
            "scope": "Namespaced",
            "names": {
                "kind": "ClusterEndpoint", "plural": "clusterendpoints", "singular": "clusterendpoint",
                "listKind": "ClusterEndpointList", "shortNames": ["cep"],
            },
            "versions": [{
                "name": "v1beta1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                } },
            }],
        },
    })
}

fn cep(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint", "metadata": { "name": name },
        "spec": spec,
    })
}

fn good(name: &str) -> Value {
    let port = json!({ "port": 80, "tcpSocket": { "enable": true }, "failureThreshold": 1 });
    cep(name, json!({ "hosts": ["172.18.191.215"], "periodSeconds": 1, "ports": [port] }))
}

/// Cannot be read as our type at all.
fn unreadable() -> Vec<Value> {
    let port = json!({ "port": 80, "tcpSocket": { "enable": true } });
    vec![
        cep("hosts-as-text", json!({ "hosts": "172.18.191.215", "ports": [port] })),
        cep("ports-as-map", json!({ "hosts": ["172.18.191.215"], "ports": { "web": port } })),
        cep("no-spec", Value::Null),
        cep("huge-port", json!({ "hosts": ["172.18.191.215"], "ports": [{ "port": 99_999_999_999u64 }] })),
    ]
}

/// Can be read, and can never have passed the schema of today.
fn outlawed() -> Vec<Value> {
    let tcp = json!({ "enable": true });
    let port = json!({ "port": 80, "tcpSocket": tcp });
    vec![
        cep("no-hosts", json!({ "hosts": [], "ports": [port] })),
        cep("odd-host", json!({ "hosts": ["not a host"], "ports": [port] })),
        cep(
            "two-probes",
            json!({ "hosts": ["172.18.191.215"], "ports": [
                { "port": 80, "tcpSocket": tcp, "httpGet": { "path": "/" } }] }),
        ),
        cep(
            "same-port-twice",
            json!({ "hosts": ["172.18.191.215"], "ports": [
                { "name": "a", "port": 80 }, { "name": "b", "port": 80 }] }),
        ),
        cep(
            "long-timeout",
            json!({ "hosts": ["172.18.191.215"], "periodSeconds": 1, "ports": [
                { "port": 80, "timeoutSeconds": 60, "tcpSocket": tcp }] }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_before_a_stricter_schema_stops_nothing_else() -> Result<()> {
    let cluster = Cluster::builder().ipv6(false).proxy(false).start().await?;
    cluster.apply(&loose().to_string()).await?;
    let established = "--for=condition=Established";
    cluster.kubectl(&["wait", established, "crd/clusterendpoints.sealyun.com", "--timeout=20s"]).await?;
    let mut stored = unreadable();
    stored.extend(outlawed());
    stored.push(good("old"));
    for object in &stored {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        eventually(SOON, &format!("{name} is stored"), async || {
            cluster.apply(&object.to_string()).await.map(drop)
        })
        .await?;
    }
    cluster.apply(CRD).await?;
    let stage = Stage::on(cluster).await?;
    eventually(SOON, "the strict schema is in force", async || {
        let refused = stage.cluster.apply(&unreadable()[0].to_string()).await;
        ensure!(refused.is_err(), "it is not");
        Ok(())
    })
    .await?;

    let host = stage.cluster.host("172.18.191.215")?;
    let mut server = Server::tcp(host.netns(), host.socket(80)).await?;
    let operator = stage.operator(&[]).await?;
    stage.until_ready("old", &["172.18.191.215:80"]).await?;
    stage.phase("old", "Healthy").await?;

    // Each says itself what is wrong with it …
    for object in outlawed() {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        let message = stage.condition(name, "ProbesReady", "False", "InvalidSpec").await?;
        ensure!(message.contains("spec."), "{name}: {message}");
        println!("{name}: {message}");
    }
    for object in unreadable() {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        eventually(SOON, &format!("an Event tells about {name}"), async || {
            let events = stage.events(name).await?;
            let found = events.iter().find(|(reason, _)| reason == "InvalidObject");
            let (_, note) = found.with_context(|| format!("{events:?}"))?;
            println!("{name}: {note}");
            Ok(())
        })
        .await?;
    }

    // … and the others go on: new ones, changes, hosts that go and come.
    stage.cluster.apply(&good("new").to_string()).await?;
    stage.until_ready("new", &["172.18.191.215:80"]).await?;
    server.stop().await;
    stage.until_ready("new", &[]).await?;
    stage.until_ready("old", &[]).await?;
    server.start().await?;
    stage.until_ready("new", &["172.18.191.215:80"]).await?;
    stage.until_ready("old", &["172.18.191.215:80"]).await?;

    // One that is put right works, and those that are deleted are gone.
    let spec = good("hosts-as-text")["spec"].clone();
    let patch = Patch::Merge(json!({ "spec": spec }));
    stage.ceps().patch("hosts-as-text", &PatchParams::default(), &patch).await?;
    stage.until_ready("hosts-as-text", &["172.18.191.215:80"]).await?;
    let patch = Patch::Merge(json!({ "spec": { "hosts": ["172.18.191.215"] } }));
    stage.ceps().patch("no-hosts", &PatchParams::default(), &patch).await?;
    stage.until_ready("no-hosts", &["172.18.191.215:80"]).await?;
    for name in ["ports-as-map", "odd-host", "two-probes"] {
        stage.ceps().delete(name, &DeleteParams::default()).await?;
        eventually(SOON, &format!("{name} is gone"), async || {
            let found = stage.ceps().get_opt(name).await?;
            ensure!(found.is_none(), "{found:?}");
            Ok(())
        })
        .await?;
    }
    operator.process.ensure_running()
}
