//! Services that existed before their ClusterEndpoint: adopted and handed back under a client that
//! connects all the time, without one failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::{Behaviour, Host, Response, Server, eventually};

use crate::client::Client;
use crate::stage::{SOON, Stage};

/// kube-proxy writes its rules at most once in this time; what it does with the last write counts too.
const PROXY_PACE: Duration = Duration::from_secs(1);
const HOSTS: [&str; 3] = ["172.18.191.11", "172.18.191.12", "172.18.191.13"];

const OURS: &str = "endpoints-operator.sealyun.com";
const MIRRORED: &str = "endpointslicemirroring-controller.k8s.io";
const OF_SELECTOR: &str = "endpointslice-controller.k8s.io";
const BY_HAND: &str = "";

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: shop
  labels: {team: payments}
  annotations: {example.org/owner: jane}
spec:
  type: NodePort
  ports:
  - {name: web, port: 80, targetPort: 8080}
  - {name: stale, port: 81, targetPort: 8081}
---
apiVersion: v1
kind: Endpoints
metadata:
  name: shop
  labels: {team: payments}
  annotations: {example.org/owner: jane}
subsets:
- addresses: [{ip: 172.18.191.11}, {ip: 172.18.191.12}, {ip: 172.18.191.13}]
  ports: [{name: web, port: 8080}, {name: stale, port: 8081}]
"#;

/// Three web servers and a place to connect from.
struct Town {
    stage: Stage,
    servers: Vec<(Host, Server)>,
    visitor: Host,
}

impl Town {
    async fn new() -> Result<Self> {
        let stage = Stage::new().await?;
        let mut servers = Vec::new();
        for address in HOSTS {
            let host = stage.cluster.host(address)?;
            let server = Server::http(host.netns(), host.socket(8080), Response::ok("hello")).await?;
            servers.push((host, server));
        }
        let visitor = stage.cluster.host("172.18.191.50")?;
        Ok(Self { stage, servers, visitor })
    }

    /// A client of a Service by its ClusterIP.
    async fn client(&self, service: &str, port: u16) -> Result<Client> {
        Client::start(&self.visitor, self.stage.cluster_ip(service, port).await?).await
    }

    async fn service(&self, name: &str) -> Result<Service> {
        Ok(self.stage.services().get(name).await?)
    }

    /// The names of a Service's slices by who manages them.
    async fn slices(&self, service: &str) -> Result<BTreeMap<String, Vec<String>>> {
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let mut slices: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for slice in self.stage.slices().list(&of_service).await? {
            let manager = slice.labels().get("endpointslice.kubernetes.io/managed-by").cloned();
            slices.entry(manager.unwrap_or_default()).or_default().push(slice.name_any());
        }
        Ok(slices)
    }

    /// Waits until all slices of a Service are managed by these, and by each of them at least one.
    async fn until_managed_by(&self, service: &str, managers: &[&str]) -> Result<()> {
        eventually(SOON, &format!("slices of {service} are managed by {managers:?}"), async || {
            let slices = self.slices(service).await?;
            ensure!(slices.keys().eq(managers), "{slices:?}");
            Ok(())
        })
        .await
    }

    async fn until_gone(&self, cep: &str) -> Result<()> {
        eventually(SOON, &format!("ClusterEndpoint {cep} is gone"), async || {
            let left = self.stage.ceps().get_opt(cep).await?;
            ensure!(left.is_none(), "{:?}", left.map(|cep| cep.metadata.finalizers));
            Ok(())
        })
        .await
    }

    /// Deletes a cep that adopted its Service, and looks at what is left behind.
    async fn hand_back(&self, name: &str) -> Result<()> {
        let before = self.service(name).await?;
        self.stage.ceps().delete(name, &DeleteParams::default()).await?;
        self.until_gone(name).await?;
        self.until_managed_by(name, &[MIRRORED]).await?;
        let all: Vec<_> = HOSTS.iter().map(|host| (format!("{host}:8080"), true)).collect();
        let listed = self.stage.listed(name).await?;
        ensure!(listed == all, "{listed:?}");
        let endpoints = self.stage.endpoints().get(name).await?;
        ensure!(addresses(&endpoints) == (HOSTS.map(str::to_owned).to_vec(), vec![]), "{endpoints:?}");
        let after = self.service(name).await?;
        ensure!(after.spec == before.spec && after.uid() == before.uid(), "{before:?} became {after:?}");
        for meta in [&endpoints.metadata, &after.metadata] {
            ensure!(meta.owner_references.is_none() && meta.finalizers.is_none(), "{meta:?}");
            let labels = meta.labels.clone().unwrap_or_default();
            let annotations = meta.annotations.clone().unwrap_or_default();
            let ours =
                |key: &String| key.contains("sealyun") || key.starts_with("endpointslice.kubernetes.io/");
            ensure!(!labels.keys().chain(annotations.keys()).any(ours), "{labels:?} {annotations:?}");
        }
        Ok(())
    }
}

/// A cep over the three hosts whose ports are probed by HTTP.
fn cep(name: &str, ports: &Value) -> String {
    json!({
        "apiVersion": "sealyun.com/v1beta1",
        "kind": "ClusterEndpoint",
        "metadata": { "name": name, "labels": { "tier": "front" } },
        "spec": { "hosts": HOSTS, "periodSeconds": 1, "ports": ports },
    })
    .to_string()
}

/// A port that asks for `/`. A host that answers 503 is out, and still can be connected to.
fn port(name: Option<&str>, number: u16) -> Value {
    let mut port = json!({ "port": number, "targetPort": 8080, "httpGet": { "path": "/" } });
    if let Some(name) = name {
        port["name"] = name.into();
    }
    port
}

/// What an Endpoints lists as ready, and what not.
fn addresses(endpoints: &Endpoints) -> (Vec<String>, Vec<String>) {
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    let ready = subsets.iter().flat_map(|subset| subset.addresses.iter().flatten());
    let not_ready = subsets.iter().flat_map(|subset| subset.not_ready_addresses.iter().flatten());
    (ready.map(|address| address.ip.clone()).collect(), not_ready.map(|address| address.ip.clone()).collect())
}

/// Name, port and nodePort of each port of a Service.
fn ports(service: &Service) -> Vec<(String, i32, Option<i32>)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.name.clone().unwrap_or_default(), port.port, port.node_port)).collect()
}

fn is_subset(of: Option<&BTreeMap<String, String>>, wanted: (&str, &str)) -> bool {
    of.and_then(|map| map.get(wanted.0)).is_some_and(|value| value == wanted.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_endpoints_is_adopted_changed_and_handed_back_unnoticed() -> Result<()> {
    let town = Town::new().await?;
    let stage = &town.stage;
    stage.cluster.apply(SHOP).await?;
    town.until_managed_by("shop", &[MIRRORED]).await?;
    let before = town.service("shop").await?;
    let node_port = ports(&before)[0].2.context("no nodePort")?;
    let client = town.client("shop", 80).await?;
    let node = SocketAddr::new("172.18.191.1".parse()?, u16::try_from(node_port)?);
    let outside = Client::start(&town.visitor, node).await?;

    println!("adopted; the port has another name than it had");
    let _operator = stage.operator(&[]).await?;
    stage.cluster.apply(&cep("shop", &json!([port(Some("http"), 80)]))).await?;
    stage.phase("shop", "Healthy").await?;
    town.until_managed_by("shop", &[OURS]).await?;
    let service = town.service("shop").await?;
    ensure!(ports(&service) == [("http".into(), 80, Some(node_port))], "{service:?}");
    let spec = |service: &Service| service.spec.clone().context("no spec");
    ensure!(spec(&service)?.cluster_ip == spec(&before)?.cluster_ip, "{service:?}");
    ensure!(spec(&service)?.type_.as_deref() == Some("NodePort"), "{service:?}");
    let endpoints = stage.endpoints().get("shop").await?;
    for meta in [&service.metadata, &endpoints.metadata] {
        ensure!(is_subset(meta.labels.as_ref(), ("team", "payments")), "{meta:?}");
        ensure!(is_subset(meta.labels.as_ref(), ("tier", "front")), "{meta:?}");
        ensure!(is_subset(meta.annotations.as_ref(), ("example.org/owner", "jane")), "{meta:?}");
        ensure!(meta.owner_references.is_none(), "it must not go with the cep: {meta:?}");
    }
    let ready: Vec<_> = stage.ready("shop").await?;
    ensure!(ready == HOSTS.map(|host| format!("{host}:8080")), "{ready:?}");
    client.unharmed(PROXY_PACE).await?;
    outside.unharmed(Duration::ZERO).await?;

    println!("the port is renamed, and one is added");
    let renamed = json!({ "spec": { "ports": [port(Some("main"), 80), port(Some("more"), 82)] } });
    stage.ceps().patch("shop", &PatchParams::default(), &Patch::Merge(&renamed)).await?;
    eventually(SOON, "Service and slices have the new ports", async || {
        let (service, slices) = (town.service("shop").await?, town.slices("shop").await?);
        let names = ports(&service).into_iter().map(|(name, ..)| name);
        ensure!(names.eq(["main", "more"]), "{service:?}");
        ensure!(slices[OURS] == ["shop.main-ipv4-0", "shop.more-ipv4-0"], "{slices:?}");
        Ok(())
    })
    .await?;
    ensure!(
        ports(&town.service("shop").await?)[0] == ("main".into(), 80, Some(node_port)),
        "another nodePort"
    );
    client.unharmed(PROXY_PACE).await?;
    outside.unharmed(Duration::ZERO).await?;

    println!("handed back while a host is out");
    town.servers[2].1.set(Behaviour::Http(Response::status(503)));
    stage.phase("shop", "UnHealthy").await?;
    eventually(SOON, "the third host is out", async || {
        let (_, out) = addresses(&stage.endpoints().get("shop").await?);
        ensure!(out.iter().all(|host| host == HOSTS[2]) && !out.is_empty(), "{out:?}");
        Ok(())
    })
    .await?;
    let one_port = json!({ "spec": { "ports": [port(Some("main"), 80)] } });
    stage.ceps().patch("shop", &PatchParams::default(), &Patch::Merge(&one_port)).await?;
    eventually(SOON, "one port again", async || {
        let slices = town.slices("shop").await?;
        ensure!(slices[OURS].len() == 1, "{slices:?}");
        Ok(())
    })
    .await?;
    town.hand_back("shop").await?;
    client.unharmed(PROXY_PACE).await?;
    outside.unharmed(Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_made_slices_and_those_of_a_former_selector_are_taken_over_unnoticed() -> Result<()> {
    let town = Town::new().await?;
    let stage = &town.stage;
    let endpoints: Vec<_> = HOSTS.map(|host| json!({ "addresses": [host] })).to_vec();
    let by_hand = json!([
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "by-hand" },
          "spec": { "ports": [{ "port": 80, "targetPort": 8080 }] } },
        { "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
          "metadata": { "name": "by-hand-1", "labels": { "kubernetes.io/service-name": "by-hand" } },
          "endpoints": endpoints, "ports": [{ "port": 8080 }] },
    ]);
    stage.cluster.apply(&list(&by_hand)).await?;
    pods(stage).await?;
    let service = json!([
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "of-pods" },
          "spec": { "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } },
    ]);
    stage.cluster.apply(&list(&service)).await?;
    let all = HOSTS.map(|host| format!("{host}:8080"));
    stage.until_ready("of-pods", &all.each_ref().map(String::as_str)).await?;
    // The controller of selectors leaves its slice, and that of mirroring makes one of the Endpoints.
    let no_selector = json!({ "spec": { "selector": null } });
    stage.services().patch("of-pods", &PatchParams::default(), &Patch::Merge(&no_selector)).await?;
    town.until_managed_by("of-pods", &[OF_SELECTOR, MIRRORED]).await?;
    town.until_managed_by("by-hand", &[BY_HAND]).await?;

    let clients = [town.client("by-hand", 80).await?, town.client("of-pods", 80).await?];
    let operator = stage.operator(&[]).await?;
    stage.cluster.apply(&cep("by-hand", &json!([port(None, 80)]))).await?;
    stage.cluster.apply(&cep("of-pods", &json!([port(Some("http"), 80)]))).await?;
    for name in ["by-hand", "of-pods"] {
        stage.phase(name, "Healthy").await?;
        town.until_managed_by(name, &[OURS]).await?;
    }
    for client in &clients {
        client.unharmed(PROXY_PACE).await?;
    }
    for name in ["by-hand", "of-pods"] {
        town.hand_back(name).await?;
    }
    for client in &clients {
        client.unharmed(PROXY_PACE).await?;
    }
    operator.process.ensure_running()
}

/// A List of these objects.
fn list(items: &Value) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

/// Pods that, as far as their status says, run on the three hosts.
async fn pods(stage: &Stage) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(stage.cluster.client());
    let objects = HOSTS.iter().enumerate().map(|(n, _)| {
        json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": format!("web-{n}"), "labels": { "app": "web" } },
                "spec": { "nodeName": "node1", "automountServiceAccountToken": false,
                          "containers": [{ "name": "web", "image": "example.org/web" }] } })
    });
    stage.cluster.apply(&list(&Value::Array(objects.collect()))).await?;
    for (n, host) in HOSTS.iter().enumerate() {
        let status = json!({ "status": {
            "phase": "Running", "podIP": host, "podIPs": [{ "ip": host }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        pods.patch_status(&format!("web-{n}"), &PatchParams::default(), &Patch::Merge(&status)).await?;
    }
    Ok(())
}
