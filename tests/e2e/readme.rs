//! The README stays true: its manifests are accepted, and its permissions are enough.

use anyhow::{Context, Result, ensure};
use testbed::{Operator, Response, Server, eventually};

use crate::stage::{SOON, Stage};

const README: &str = include_str!("../../README.md");

/// The documents of all fenced blocks of YAML, in their order.
fn manifests() -> Vec<String> {
    let blocks = README.split("\n```yaml\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    blocks.flat_map(|block| block.split("\n---\n")).map(str::to_owned).collect()
}

fn of_kind<'a>(manifests: &'a [String], kind: &str) -> Vec<&'a String> {
    manifests.iter().filter(|text| text.lines().any(|line| line == format!("kind: {kind}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_of_the_readme_is_accepted() -> Result<()> {
    let stage = Stage::new().await?;
    let manifests = manifests();
    ensure!(of_kind(&manifests, "ClusterEndpoint").len() >= 8, "{manifests:?}");
    // What lies in a namespace is refused, even on trial, while there is none.
    for namespace in of_kind(&manifests, "Namespace") {
        stage.cluster.apply(namespace).await?;
    }
    for manifest in &manifests {
        stage.cluster.dry_run(manifest).await.with_context(|| format!("in README.md:\n{manifest}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_permissions_of_the_readme_are_enough() -> Result<()> {
    let stage = Stage::new().await?;
    let cluster = &stage.cluster;
    let manifests = manifests();
    for kind in ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"] {
        for manifest in of_kind(&manifests, kind) {
            cluster.apply(manifest).await?;
        }
    }
    let name = "endpoints-operator";
    let kubeconfig = cluster.kubeconfig_of_service_account(name, name).await?;
    let host = cluster.operator_host()?;
    let args = ["run", "--lease-namespace=endpoints-operator", "--log-level=info,endpoints_operator=debug"];
    let operator = Operator::start(&host, &kubeconfig, args)?;

    // Adoption and creation, a Secret and a ConfigMap, a host that answers and later does not.
    let server = cluster.host("172.18.191.215")?;
    let mut web = Server::http(server.netns(), server.socket(8080), Response::ok("hello")).await?;
    cluster
        .apply(&of_kind(&manifests, "Service").first().context("no Service")?.replace("legacy", "old"))
        .await?;
    cluster
        .apply(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {name: old}\nsubsets:\n\
             - addresses: [{ip: 172.18.191.215}]\n  ports: [{name: http, port: 8080}]\n",
        )
        .await?;
    for (name, probe) in [("old", "httpGet: {path: /}"), ("new", "tcpSocket: {}")] {
        cluster.apply(&cep(name, probe)).await?;
        stage.phase(name, "Healthy").await?;
    }
    cluster.apply(&cep("tls", TLS)).await?;
    let message = stage.condition("tls", "ProbesReady", "False", "ReferenceNotReady").await?;
    ensure!(message.contains("no ConfigMap ca") && message.contains("no Secret client"), "{message}");
    web.stop().await;
    stage.phase("new", "UnHealthy").await?;
    eventually(SOON, "an Event tells of it", async || {
        let events = stage.events("new").await?;
        ensure!(events.iter().any(|(reason, _)| reason == "HostUnhealthy"), "{events:?}");
        Ok(())
    })
    .await?;
    // A repair, a port that goes, a hand-back.
    for what in ["endpointslice/new.http-ipv4-0", "endpoints/new", "service/new"] {
        cluster.kubectl(&["delete", what]).await?;
        eventually(SOON, "it is back", async || cluster.kubectl(&["get", what]).await).await?;
    }
    cluster.apply(&cep("new", "tcpSocket: {}").replace("name: http", "name: web")).await?;
    eventually(SOON, "the renamed port has its slice alone", async || {
        let names = cluster.kubectl(&["get", "endpointslices", "-o", "name"]).await?;
        ensure!(names.contains("new.web-ipv4-0") && !names.contains("new.http-ipv4-0"), "{names}");
        Ok(())
    })
    .await?;
    cluster.kubectl(&["delete", "cep", "old", "new", "--timeout=30s"]).await?;
    stage.services().get("old").await.context("the adopted Service stays")?;

    let log = operator.log();
    let refused: Vec<_> = log.lines().filter(|line| line.to_lowercase().contains("forbidden")).collect();
    ensure!(refused.is_empty(), "{refused:#?}");
    let holder = ["get", "lease", "-n", name, name, "-o", "jsonpath={.spec.holderIdentity}"];
    ensure!(!cluster.kubectl(&holder).await?.is_empty(), "nobody holds the Lease");
    Ok(())
}

const TLS: &str = "httpGet: {scheme: HTTPS}
    tls:
      caFrom: {configMapKeyRef: {name: ca, key: ca.crt}}
      clientCertFrom: {secretRef: {name: client}}";

fn cep(name: &str, probe: &str) -> String {
    format!(
        "apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {{name: {name}, labels: {{team: web}}}}
spec:
  hosts: [172.18.191.215]
  periodSeconds: 1
  ports:
  - name: http
    port: 80
    targetPort: 8080
    failureThreshold: 1
    {probe}
"
    )
}
