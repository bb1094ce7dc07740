//! Hosts that are DNS names: followed while their answers change, kept while there are none.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::dns::Entry;
use testbed::wait::always;
use testbed::{Behaviour, Dns, Host, Response, Server, eventually};

use crate::stage::{SOON, Seat, Stage};

const NAME: &str = "db.example.org";
/// Answers are kept for five seconds at the least, whatever their TTL.
const TTL: u32 = 1;

/// A stage with a name server and two hosts with a web server each.
struct Scene {
    stage: Stage,
    dns: Dns,
    /// Where it is; without the host there is no way to it.
    _resolver: Host,
    a: Backend,
    b: Backend,
}

struct Backend {
    host: Host,
    web: Server,
}

impl Backend {
    async fn new(stage: &Stage, address: &str) -> Result<Self> {
        let host = stage.cluster.host(address)?;
        let web = Server::http(host.netns(), host.socket(80), Response::ok(address)).await?;
        Ok(Self { host, web })
    }
}

const A: &str = "172.18.191.30:80";
const B: &str = "172.18.191.31:80";

impl Scene {
    async fn new() -> Result<Self> {
        let stage = Stage::new().await?;
        let resolver = stage.cluster.host("172.18.191.53")?;
        let dns = Dns::start(resolver.netns(), resolver.socket(53)).await?;
        let a = Backend::new(&stage, "172.18.191.30").await?;
        let b = Backend::new(&stage, "172.18.191.31").await?;
        Ok(Self { stage, dns, _resolver: resolver, a, b })
    }

    async fn operator(&self) -> Result<Seat> {
        self.stage.operator(&["--nameserver=172.18.191.53:53", "--lease-duration=2"]).await
    }

    async fn apply(&self, name: &str, hosts: &[&str]) -> Result<()> {
        let cep = json!({
            "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint", "metadata": { "name": name },
            "spec": { "hosts": hosts, "periodSeconds": 1, "ports": [
                { "name": "web", "port": 80, "failureThreshold": 2, "httpGet": {} },
            ] },
        });
        self.stage.cluster.apply(&cep.to_string()).await.map(drop)
    }

    /// Waits until exactly these are listed, ready or not.
    async fn until_listed(&self, service: &str, expected: &[(&str, bool)]) -> Result<()> {
        eventually(SOON, &format!("{service} lists {expected:?}"), async || {
            self.lists(service, expected).await
        })
        .await
    }

    async fn lists(&self, service: &str, expected: &[(&str, bool)]) -> Result<()> {
        let listed = self.stage.listed(service).await?;
        let listed: Vec<_> = listed.iter().map(|(address, ready)| (address.as_str(), *ready)).collect();
        ensure!(listed == expected, "{listed:?}");
        Ok(())
    }

    /// Waits for `ProbesReady` to be false for this reason, with these words in its message.
    async fn obstacle(&self, cep: &str, reason: &str, words: &[&str]) -> Result<()> {
        let message = self.stage.condition(cep, "ProbesReady", "False", reason).await?;
        ensure!(words.iter().all(|word| message.contains(word)), "{message}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_followed_and_its_last_answer_kept() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.dns.set(NAME, &["172.18.191.30"], TTL);
    let _operator = scene.operator().await?;
    scene.apply("db", &[NAME]).await?;
    scene.stage.phase("db", "Healthy").await?;
    scene.until_listed("db", &[(A, true)]).await?;
    let request = scene.a.web.last_request().context("no request")?;
    ensure!(request.header("Host") == Some(NAME), "{request:?}");

    // Another address comes, the first one leaves and is not asked any more.
    scene.dns.set(NAME, &["172.18.191.30", "172.18.191.31"], TTL);
    scene.until_listed("db", &[(A, true), (B, true)]).await?;
    scene.dns.set(NAME, &["172.18.191.31"], TTL);
    scene.until_listed("db", &[(B, true)]).await?;
    let (asked, other) = (scene.a.web.requests(), scene.b.web.requests());
    eventually(SOON, "three more probes of the address that stays", async || {
        ensure!(scene.b.web.requests() >= other + 3, "{}", scene.b.web.requests());
        Ok(())
    })
    .await?;
    ensure!(scene.a.web.requests() <= asked + 1, "an address that left is still probed");

    // Name servers that fail in every way: the last answer stays, and is probed on.
    for (entry, words) in [
        (Entry::ServFail, "SERVFAIL"),
        (Entry::Refused, "REFUSED"),
        (Entry::NxDomain, "NXDOMAIN"),
        (Entry::Silent, "no name server answered in time"),
    ] {
        scene.dns.set_entry(NAME, entry);
        eventually(SOON, words, async || {
            let message = scene.stage.condition("db", "ProbesReady", "False", "NotResolved").await?;
            ensure!(message.contains(NAME) && message.contains(words), "{message}");
            Ok(())
        })
        .await?;
        scene.lists("db", &[(B, true)]).await?;
    }
    scene.b.web.stop().await;
    scene.until_listed("db", &[(B, false)]).await?;
    scene.obstacle("db", "NotResolved", &["no name server answered in time"]).await?;
    scene.b.web.start().await?;
    scene.until_listed("db", &[(B, true)]).await?;
    scene.dns.set(NAME, &["172.18.191.31"], TTL);
    scene.stage.condition("db", "ProbesReady", "True", "ProbesReady").await?;

    // An answer that leads where nobody may look.
    scene.dns.set(NAME, &["169.254.169.254", "172.18.191.31", "172.18.191.30"], TTL);
    scene.obstacle("db", "AddressDenied", &[NAME, "169.254.169.254", "link-local"]).await?;
    scene.until_listed("db", &[(A, true), (B, true)]).await?;
    scene.dns.set(NAME, &["169.254.169.254"], TTL);
    let queries = scene.dns.queries_for(NAME);
    eventually(SOON, "the answer has been fetched", async || {
        ensure!(scene.dns.queries_for(NAME) >= queries + 4, "{}", scene.dns.queries_for(NAME));
        Ok(())
    })
    .await?;
    scene.lists("db", &[(A, true), (B, true)]).await?;
    scene.obstacle("db", "AddressDenied", &[NAME, "169.254.169.254"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_an_answer_is_told_and_holds_up_nobody_else() -> Result<()> {
    let scene = Scene::new().await?;
    let _operator = scene.operator().await?;
    scene.apply("never", &["no.example.org"]).await?;
    scene.apply("mixed", &["no.example.org", "172.18.191.31"]).await?;
    for cep in ["never", "mixed"] {
        scene.obstacle(cep, "NotResolved", &["no.example.org", "NXDOMAIN"]).await?;
        scene.stage.phase(cep, "Pending").await?;
        scene.stage.condition(cep, "Ready", "False", "NotReady").await?;
    }
    scene.until_listed("never", &[]).await?;
    scene.until_listed("mixed", &[(B, true)]).await?;
    let status = scene.stage.status("mixed").await?;
    ensure!(status["ready"] == "1/2" && status["endpoints"][0]["host"] == "no.example.org", "{status}");

    scene.dns.set("no.example.org", &["172.18.191.30"], TTL);
    scene.stage.phase("never", "Healthy").await?;
    scene.until_listed("never", &[(A, true)]).await?;
    scene.until_listed("mixed", &[(A, true), (B, true)]).await
}

/// Every address of `db` with its verdict and since when, once the status has them all: it is written after
/// the slices.
async fn verdicts(stage: &Stage) -> Result<BTreeSet<String>> {
    eventually(SOON, "every address is judged", async || {
        let status = stage.status("db").await?;
        let endpoints = status["endpoints"].as_array().context("no endpoints")?;
        ensure!(endpoints.iter().all(|e| e["verdict"] != "Unknown"), "{status}");
        Ok(endpoints.iter().map(|e| format!("{} {} {}", e["address"], e["verdict"], e["since"])).collect())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_name_servers_changes_nothing() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.dns.set(NAME, &["172.18.191.30", "172.18.191.31"], TTL);
    scene.b.web.set(Behaviour::Http(Response::status(503)));
    let first = scene.operator().await?;
    scene.apply("db", &[NAME]).await?;
    scene.until_listed("db", &[(A, true), (B, false)]).await?;
    scene.stage.phase("db", "UnHealthy").await?;
    let before = verdicts(&scene.stage).await?;

    first.process.kill();
    scene.dns.set_entry(NAME, Entry::Silent);
    let second = scene.operator().await?;
    let told = async {
        second.leads().await?;
        scene.obstacle("db", "NotResolved", &[NAME, "no name server answered in time"]).await
    };
    let unchanged = always(2 * SOON, "both addresses are listed as they were", async || {
        scene.lists("db", &[(A, true), (B, false)]).await
    });
    tokio::select! {
        told = told => told?,
        unchanged = unchanged => unchanged?,
    }
    let after = verdicts(&scene.stage).await?;
    ensure!(after == before, "{before:?} became {after:?}");

    // It probes what it remembers, under the name.
    scene.b.web.set(Behaviour::Http(Response::ok("well again")));
    scene.until_listed("db", &[(A, true), (B, true)]).await?;
    let request = scene.b.web.last_request().context("no request")?;
    ensure!(request.header("Host") == Some(NAME), "{request:?}");
    ensure!(request.peer.ip() == second.host.ip(), "{request:?}");
    scene.a.web.stop().await;
    scene.until_listed("db", &[(A, false), (B, true)]).await?;

    scene.dns.set(NAME, &["172.18.191.31"], TTL);
    scene.until_listed("db", &[(B, true)]).await?;
    scene.stage.phase("db", "Healthy").await
}

/// A Service and Endpoints by hand, as they were made before there was an operator.
const BY_HAND: &str = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {ports: [{name: web, port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: db}
subsets: [{addresses: [{ip: 172.18.191.30}], ports: [{name: web, port: 80}]}]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_adopted_when_its_hosts_are_known() -> Result<()> {
    let scene = Scene::new().await?;
    scene.stage.cluster.apply(BY_HAND).await?;
    scene.until_listed("db", &[(A, true)]).await?;
    scene.dns.set_entry(NAME, Entry::Silent);
    let _operator = scene.operator().await?;
    scene.apply("db", &[NAME]).await?;
    let message = scene.stage.condition("db", "SyncServiceReady", "False", "HostsNotResolved").await?;
    ensure!(message.contains(NAME), "{message}");
    scene.obstacle("db", "NotResolved", &[NAME]).await?;
    scene.lists("db", &[(A, true)]).await?;
    scene.dns.set(NAME, &["172.18.191.30"], TTL);
    let served = always(2 * SOON, "the address is ready", async || {
        let ready = scene.stage.ready("db").await?;
        ensure!(!ready.is_empty() && ready.iter().all(|address| address == A), "{ready:?}");
        Ok(())
    });
    tokio::select! {
        adopted = scene.stage.phase("db", "Healthy") => adopted?,
        served = served => served?,
    }
    scene.until_listed("db", &[(A, true)]).await
}

/// Gets over a ClusterIP what a web server says.
async fn says(from: &Host, to: SocketAddr, expected: &str) -> Result<()> {
    eventually(SOON, &format!("{expected} answers on {to}"), async || {
        let (status, body) = from.netns().http_get(to, "/").await?;
        ensure!(status == 200 && body == expected, "{status} {body}");
        Ok(())
    })
    .await
}

/// The ClusterIPs of a Service, by its families.
async fn cluster_ips(stage: &Stage, service: &str) -> Result<Vec<(String, SocketAddr)>> {
    let spec = stage.services().get(service).await?.spec.context("no spec")?;
    let families = spec.ip_families.context("no families")?;
    let addresses = spec.cluster_ips.context("no ClusterIPs")?;
    let pair = |(family, ip): (String, String)| Ok((family, SocketAddr::new(ip.parse()?, 80)));
    families.into_iter().zip(addresses).map(pair).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_both_families_are_served_on_both_addresses() -> Result<()> {
    let scene = Scene::new().await?;
    let (a, b, stage) = (&scene.a.host, &scene.b.host, &scene.stage);
    let six_a = Server::http(a.netns(), a.socket6(80), Response::ok("a6")).await?;
    let six_b = Server::http(b.netns(), b.socket6(80), Response::ok("b6")).await?;
    scene.dns.set("a.example.org", &[&a.ip().to_string(), &a.ipv6().to_string()], TTL);
    let operator = scene.operator().await?;
    // The same hosts as literal addresses, as a name with both kinds of records, and IPv6 alone.
    scene.apply("literal", &["172.18.191.30", "FD00:172:18:191:0::31"]).await?;
    scene.apply("named", &["a.example.org"]).await?;
    scene.apply("six", &["fd00:172:18:191::31"]).await?;
    let (six_of_a, six_of_b) = ("fd00:172:18:191::30:80", "fd00:172:18:191::31:80");
    for (cep, listed) in [
        ("literal", vec![(A, true), (six_of_b, true)]),
        ("named", vec![(A, true), (six_of_a, true)]),
        ("six", vec![(six_of_b, true)]),
    ] {
        stage.phase(cep, "Healthy").await?;
        scene.until_listed(cep, &listed).await?;
        let spec = stage.services().get(cep).await?.spec.context("no spec")?;
        ensure!(spec.ip_family_policy.as_deref() == Some("PreferDualStack"), "{cep}: {spec:?}");
        let message = stage.condition(cep, "SyncServiceReady", "True", "SyncServiceReady").await?;
        ensure!(!message.contains("warning"), "{cep}: {message}");
    }
    let slices: Vec<_> = stage.slices().list(&Default::default()).await?.into_iter().collect();
    for slice in &slices {
        let fits = |address: &String| address.contains(':') == (slice.address_type == "IPv6");
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        ensure!(endpoints.iter().flat_map(|e| &e.addresses).all(fits), "{slice:?}");
    }
    let client = &operator.host;
    for (cep, four, six) in [
        ("literal", Some("172.18.191.30"), "b6"),
        ("named", Some("172.18.191.30"), "a6"),
        ("six", None, "b6"),
    ] {
        for (family, address) in cluster_ips(stage, cep).await? {
            match (family.as_str(), four) {
                ("IPv4", Some(four)) => says(client, address, four).await?,
                ("IPv4", None) => {}
                _ => says(client, address, six).await?,
            }
        }
    }
    ensure!(six_a.requests() > 0 && six_b.requests() > 0, "no probes over IPv6");

    // Families go their own ways: what happens to one address is one slice's business.
    drop(six_b);
    scene.until_listed("literal", &[(A, true), (six_of_b, false)]).await?;
    let (_, address) = cluster_ips(stage, "literal").await?.remove(0);
    says(client, address, "172.18.191.30").await?;
    Ok(())
}
