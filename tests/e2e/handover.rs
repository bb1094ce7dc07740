//! Another process takes over: verdicts stay, connections stay, and nothing is written but the Lease.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::core::ApiResource;
use nix::sys::signal::Signal;
use serde_json::Value;
use testbed::cluster::WriteCounts;
use testbed::wait::always;
use testbed::{Behaviour, Host, Response, Server, eventually};

use crate::client::Client;
use crate::stage::{SOON, Seat, Stage};

/// How soon a standby must lead when the Lease is given back.
const HANDOVER: Duration = Duration::from_secs(3);
/// What a new leader does at once, and what only its probes of the first periods make it do.
const FIRST_PERIODS: Duration = Duration::from_secs(4);
/// What the operator writes beside its Lease.
const WRITTEN: [&str; 5] = ["services", "endpointslices", "endpoints", "clusterendpoints", "events"];

/// The thresholds of `doubtful` are never met within the test: its hosts keep their first verdicts for as
/// long as somebody remembers them. A host of `mortal` dies.
const CEPS: &str = r#"
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: doubtful}
spec:
  hosts: [172.18.191.11, 172.18.191.12, 172.18.191.13]
  periodSeconds: 2
  ports:
  - {name: web, port: 80, targetPort: 8080, failureThreshold: 100, successThreshold: 100, httpGet: {path: /}}
---
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: mortal}
spec:
  hosts: [172.18.191.11, 172.18.191.12]
  periodSeconds: 1
  ports:
  - {name: db, port: 81, targetPort: 9090, failureThreshold: 2, tcpSocket: {enable: true}}
---
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: unprobed}
spec: {hosts: [172.18.191.11], ports: [{port: 82}]}
"#;

/// Resource versions by kind and name.
type Versions = BTreeMap<String, String>;

struct World {
    stage: Stage,
    visitor: Host,
    // They are gone when they are dropped.
    _hosts: Vec<Host>,
    web: Vec<Server>,
    databases: Vec<Server>,
}

impl World {
    async fn new() -> Result<Self> {
        let stage = Stage::new().await?;
        let (mut hosts, mut web, mut databases) = (Vec::new(), Vec::new(), Vec::new());
        for address in ["172.18.191.11", "172.18.191.12", "172.18.191.13"] {
            let host = stage.cluster.host(address)?;
            web.push(Server::http(host.netns(), host.socket(8080), Response::ok("hello")).await?);
            databases.push(Server::tcp(host.netns(), host.socket(9090)).await?);
            hosts.push(host);
        }
        let visitor = stage.cluster.host("172.18.191.50")?;
        Ok(Self { stage, visitor, _hosts: hosts, web, databases })
    }

    /// Verdicts that the next probe would not come to: one host answers but is out, one fails but is in.
    async fn make_doubtful(&self) -> Result<()> {
        self.web[2].set(Behaviour::Http(Response::status(503)));
        self.stage.cluster.apply(CEPS).await?;
        self.stage.phase("doubtful", "UnHealthy").await?;
        self.stage.phase("mortal", "Healthy").await?;
        self.stage.phase("unprobed", "Healthy").await?;
        self.stage.until_ready("doubtful", &["172.18.191.11:8080", "172.18.191.12:8080"]).await?;
        self.web[2].set(Behaviour::Http(Response::ok("hello")));
        self.web[0].set(Behaviour::Http(Response::status(503)));
        for server in [&self.web[0], &self.web[2]] {
            server.next_hit(SOON).await?;
        }
        Ok(())
    }

    /// A host of `mortal` dies and is taken out.
    async fn take_one_out(&mut self) -> Result<()> {
        self.databases[1].stop().await;
        self.stage.phase("mortal", "UnHealthy").await?;
        self.stage.until_ready("mortal", &["172.18.191.11:9090"]).await
    }

    async fn clients(&self) -> Result<[Client; 2]> {
        let doubtful = self.stage.cluster_ip("doubtful", 80).await?;
        let mortal = self.stage.cluster_ip("mortal", 81).await?;
        Ok([Client::start(&self.visitor, doubtful).await?, Client::start(&self.visitor, mortal).await?])
    }

    /// Waits until nothing has been written for a while, and remembers how things are.
    async fn at_rest(&self) -> Result<Rest<'_>> {
        eventually(SOON, "the operator has written all there is", async || {
            let rest = Rest { world: self, versions: self.versions().await?, counts: self.counts().await? };
            always(Duration::from_secs(1), "nothing is written", async || rest.lasts().await).await?;
            Ok(rest)
        })
        .await
    }

    async fn versions(&self) -> Result<Versions> {
        let mut versions = Versions::new();
        let kinds = [
            ApiResource::erase::<Service>(&()),
            ApiResource::erase::<EndpointSlice>(&()),
            ApiResource::erase::<Endpoints>(&()),
            ApiResource::erase::<Event>(&()),
        ];
        let client = self.stage.cluster.client();
        let of_kubernetes = kinds.iter().map(|kind| Api::default_namespaced_with(client.clone(), kind));
        for api in of_kubernetes.chain([self.stage.ceps()]) {
            for object in api.list(&ListParams::default()).await? {
                let kind = object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default();
                let name = format!("{kind} {}", object.name_any());
                versions.insert(name, object.resource_version().unwrap_or_default());
            }
        }
        Ok(versions)
    }

    async fn counts(&self) -> Result<WriteCounts> {
        self.stage.cluster.apiserver_write_counts().await
    }

    async fn lease(&self) -> Result<(String, i32)> {
        let leases: Api<Lease> = Api::default_namespaced(self.stage.cluster.client());
        let spec = leases.get("endpoints-operator").await?.spec.context("no spec")?;
        Ok((spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or_default()))
    }

    /// Waits until an operator itself, by its own probes, holds a host of `mortal` for unhealthy.
    async fn knows_of_the_death(&self, seat: &Seat) -> Result<()> {
        eventually(SOON, "the standby has noticed as well", async || {
            let (_, body) = seat.get("/api/v1/overview?name=mortal").await?;
            let overview: Value = serde_json::from_str(&body)?;
            let endpoints = overview["ceps"][0]["endpoints"].as_array().context("unknown")?;
            ensure!(endpoints.iter().any(|endpoint| endpoint["verdict"] == "Unhealthy"), "{body}");
            Ok(())
        })
        .await
    }
}

/// How things were while nothing was written.
struct Rest<'a> {
    world: &'a World,
    versions: Versions,
    counts: WriteCounts,
}

impl Rest<'_> {
    /// Nothing has been written since but the Lease.
    async fn lasts(&self) -> Result<()> {
        let written = self.world.counts().await?.since(&self.counts);
        let ours: u64 = WRITTEN.iter().map(|resource| written.of(resource)).sum();
        let versions = self.world.versions().await?;
        let changed: Vec<_> = versions.iter().filter(|(k, v)| self.versions.get(*k) != Some(*v)).collect();
        ensure!(ours == 0 && versions == self.versions, "{written}; changed: {changed:?}");
        Ok(())
    }

    /// That it stays so while a new leader has its first periods.
    async fn survives(&self) -> Result<()> {
        let what = "the new leader writes nothing but the Lease";
        always(FIRST_PERIODS, what, async || self.lasts().await).await?;
        println!("written meanwhile: {}", self.world.counts().await?.since(&self.counts));
        Ok(())
    }
}

async fn unharmed(clients: &[Client]) -> Result<()> {
    for client in clients {
        client.unharmed(Duration::ZERO).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_operator_goes_on_where_it_was() -> Result<()> {
    let mut world = World::new().await?;
    // As the container of a Pod that is started again: the identity is the Pod's name.
    let host = world.stage.cluster.operator_host()?;
    let operator = Seat::start(&world.stage.cluster, host.clone(), &["--identity=pod-0"])?;
    operator.leads().await?;
    world.make_doubtful().await?;
    world.take_one_out().await?;
    let clients = world.clients().await?;
    let rest = world.at_rest().await?;
    operator.process.kill();
    let operator = Seat::start(&world.stage.cluster, host, &["--identity=pod-0"])?;
    operator.leads().await?;
    rest.survives().await?;
    unharmed(&clients).await?;

    // It has not merely stopped to look.
    world.databases[1].start().await?;
    world.stage.phase("mortal", "Healthy").await?;
    world.stage.until_ready("mortal", &["172.18.191.11:9090", "172.18.191.12:9090"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_one_that_ends_and_from_one_that_is_killed() -> Result<()> {
    let mut world = World::new().await?;
    let first = world.stage.operator(&["--identity=first"]).await?;
    first.leads().await?;
    let second = world.stage.operator(&["--identity=second"]).await?;
    eventually(SOON, "the standby is ready", async || {
        let (status, body) = second.get("/readyz").await?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    })
    .await?;
    world.make_doubtful().await?;

    // The standby comes to its verdict some seconds later than the leader.
    second.process.signal(Signal::SIGSTOP);
    world.take_one_out().await?;
    let told = Instant::now();
    eventually(SOON, "the leader's verdict is two seconds old", async || {
        ensure!(told.elapsed() > Duration::from_secs(2), "{:?}", told.elapsed());
        Ok(())
    })
    .await?;
    second.process.signal(Signal::SIGCONT);
    world.knows_of_the_death(&second).await?;

    println!("the leader ends");
    let clients = world.clients().await?;
    let rest = world.at_rest().await?;
    ensure!(world.lease().await? == ("first".to_owned(), 1), "{:?}", world.lease().await?);
    let asked = Instant::now();
    first.process.signal(Signal::SIGTERM);
    second.leads().await?;
    println!("the standby leads after {:.1?}", asked.elapsed());
    ensure!(asked.elapsed() < HANDOVER + Duration::from_millis(500), "only after {:?}", asked.elapsed());
    first.process.wait(SOON).await?;
    rest.survives().await?;
    ensure!(world.lease().await? == ("second".to_owned(), 2), "{:?}", world.lease().await?);

    println!("the new leader is killed; its standby has come late");
    let third = world.stage.operator(&["--identity=third"]).await?;
    world.knows_of_the_death(&third).await?;
    second.process.kill();
    third.leads().await?;
    rest.survives().await?;
    unharmed(&clients).await?;

    world.databases[1].start().await?;
    world.stage.phase("mortal", "Healthy").await?;
    world.stage.until_ready("mortal", &["172.18.191.11:9090", "172.18.191.12:9090"]).await
}
