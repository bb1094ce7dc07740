//! Is it the hosts, or is it the operator? A cut network empties no Service; dead hosts are still taken out.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::wait::always;
use testbed::{Cluster, Host, Response, Server, eventually};

use crate::stage::{SOON, Seat, Stage};

/// How long the network is away.
const MINUTE: Duration = Duration::from_secs(60);

/// The hosts: 172.18.191.201 to .210.
fn address(n: usize) -> String {
    format!("172.18.191.{}", 200 + n)
}

/// A cep with one port, 8080.
fn cep(name: &str, hosts: &[String], period: u32, failures: u32, http: bool) -> Value {
    let mut port = json!({ "port": 80, "targetPort": 8080, "failureThreshold": failures });
    match http {
        true => port["httpGet"] = json!({ "path": "/" }),
        false => port["tcpSocket"] = json!({ "enable": true }),
    }
    json!({
        "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint", "metadata": { "name": name },
        "spec": { "hosts": hosts, "periodSeconds": period, "ports": [port] },
    })
}

/// Ten unrelated ceps, each with a host of its own, of all paces and tolerances, and a large one that
/// shares eight of their hosts.
fn ceps() -> Vec<(String, Value, Vec<String>)> {
    let paces = [(1, 3), (1, 1), (2, 2), (2, 1), (5, 1), (5, 3), (10, 1), (10, 3), (1, 2), (30, 1)];
    let mut ceps: Vec<_> = paces
        .iter()
        .enumerate()
        .map(|(n, &(period, failures))| {
            let (name, hosts) = (format!("lone-{}", n + 1), vec![address(n + 1)]);
            (name.clone(), cep(&name, &hosts, period, failures, n % 2 == 0), hosts)
        })
        .collect();
    let hosts: Vec<String> = (3..=10).map(address).collect();
    ceps.push(("large".to_owned(), cep("large", &hosts, 1, 2, false), hosts));
    ceps
}

struct Ten {
    hosts: Vec<Host>,
    _servers: Vec<Server>,
}

impl Ten {
    async fn new(stage: &Stage) -> Result<Self> {
        let (mut hosts, mut servers) = (Vec::new(), Vec::new());
        for n in 1..=10 {
            let host = stage.cluster.host(&address(n))?;
            servers.push(Server::http(host.netns(), host.socket(8080), Response::ok("here")).await?);
            hosts.push(host);
        }
        Ok(Self { hosts, _servers: servers })
    }
}

/// Applies all of them and waits until they are served.
async fn serve(stage: &Stage) -> Result<()> {
    for (_, cep, _) in ceps() {
        stage.cluster.apply(&cep.to_string()).await?;
    }
    for (name, _, _) in ceps() {
        stage.phase(&name, "Healthy").await?;
    }
    all_served(stage).await
}

async fn all_served(stage: &Stage) -> Result<()> {
    for (name, _, hosts) in ceps() {
        let expected: Vec<String> = hosts.iter().map(|host| format!("{host}:8080")).collect();
        let ready = stage.ready(&name).await?;
        ensure!(ready == sorted(expected), "{name}: {ready:?}");
    }
    Ok(())
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list
}

async fn blind(seat: &Seat) -> Result<f64> {
    seat.metric("endpoints_operator_blind", "").await
}

async fn evictions(seat: &Seat) -> Result<f64> {
    seat.metric("endpoints_operator_transitions_total", "Unhealthy").await
}

/// Waits for an Event about the operator, on its Lease.
async fn told(stage: &Stage, reason: &str) -> Result<String> {
    eventually(MINUTE, &format!("Event {reason} on the Lease"), async || {
        let events = stage.events("endpoints-operator").await?;
        let found = events.iter().find(|(told, _)| told == reason);
        Ok(found.with_context(|| format!("{events:?}"))?.1.clone())
    })
    .await
}

/// A second cable, over which an operator reaches the API server and nothing else; returns the arguments
/// that make it use it.
fn second_way(stage: &Stage, host: &Host) -> Result<String> {
    let cluster = stage.cluster.netns();
    cluster.ip(&format!("link add aside type veth peer name eth1 netns {}", host.netns().name()))?;
    cluster.ip("addr add 172.31.0.1/30 dev aside")?;
    cluster.ip("link set aside up")?;
    host.netns().ip("addr add 172.31.0.2/30 dev eth1")?;
    host.netns().ip("link set eth1 up")?;
    // The address of the Service kubernetes, as in a Pod.
    host.netns().ip("route add 10.96.0.1/32 via 172.31.0.1")?;
    let kubeconfig = std::fs::read_to_string(stage.cluster.kubeconfig())?;
    let kubeconfig = kubeconfig.replace("https://172.18.191.1:6443", "https://10.96.0.1:443");
    let file = stage.cluster.dir().join("aside.kubeconfig");
    std::fs::write(&file, kubeconfig)?;
    Ok(format!("--kubeconfig={}", file.display()))
}

/// Cuts the operator off, and waits until it knows; returns when.
async fn go_blind(seat: &Seat) -> Result<Instant> {
    let cut = Instant::now();
    seat.host.cut()?;
    eventually(SOON, "it knows that it is blind", async || {
        let blind = blind(seat).await?;
        ensure!(blind == 1.0, "endpoints_operator_blind {blind}");
        Ok(())
    })
    .await?;
    Ok(cut)
}

/// Watches until a minute after the cut.
async fn nobody_is_taken_out(stage: &Stage, seat: &Seat, cut: Instant) -> Result<()> {
    always(MINUTE.saturating_sub(cut.elapsed()), "nobody is taken out", async || {
        all_served(stage).await?;
        let evictions = evictions(seat).await?;
        ensure!(evictions == 0.0, "{evictions} evictions");
        tokio::time::sleep(Duration::from_millis(250)).await;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_network_evicts_nobody_and_dead_hosts_are_evicted_as_usual() -> Result<()> {
    let stage = Stage::new().await?;
    let ten = Ten::new(&stage).await?;
    let host = stage.cluster.operator_host()?;
    let way = second_way(&stage, &host)?;
    let seat = Seat::start(&stage.cluster, host, &[&way])?;
    serve(&stage).await?;
    ensure!(blind(&seat).await? == 0.0 && evictions(&seat).await? == 0.0, "all is well");

    let cut = go_blind(&seat).await?;
    println!("blind after {:?}", cut.elapsed());
    // It says so where people look, while it lasts.
    for (name, _, _) in ceps() {
        let message = stage.condition(&name, "ProbesReady", "False", "OperatorBlind").await?;
        ensure!(message.contains("no host is taken out"), "{message}");
        let status = stage.status(&name).await?;
        ensure!(status["phase"] == "Healthy", "{name}: {status}");
    }
    println!("{}", told(&stage, "OperatorBlind").await?);
    nobody_is_taken_out(&stage, &seat, cut).await?;
    ensure!(blind(&seat).await? == 1.0, "it is still blind");

    seat.host.restore()?;
    eventually(SOON, "it sees again", async || {
        let blind = blind(&seat).await?;
        ensure!(blind == 0.0, "endpoints_operator_blind {blind}");
        Ok(())
    })
    .await?;
    for (name, _, _) in ceps() {
        stage.condition(&name, "ProbesReady", "True", "ProbesReady").await?;
    }
    told(&stage, "OperatorSees").await?;
    ensure!(evictions(&seat).await? == 0.0, "nobody was taken out when the network came back either");

    // Now all hosts of the large one die, eight of ten: they are its own, and the other two live.
    let dead = Instant::now();
    ten.hosts[2..].iter().try_for_each(Host::drop_packets)?;
    stage.until_ready("large", &[]).await?;
    println!("all hosts of a cep were taken out after {:?}", dead.elapsed());
    stage.until_ready("lone-9", &[]).await?;
    for (name, alive) in [("lone-1", "172.18.191.201:8080"), ("lone-2", "172.18.191.202:8080")] {
        let ready = stage.ready(name).await?;
        ensure!(ready == [alive], "{name}: {ready:?}");
    }
    ensure!(blind(&seat).await? == 0.0, "it sees");
    stage.phase("large", "UnHealthy").await?;
    stage.condition("large", "ProbesReady", "True", "ProbesReady").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_was_cut_off_altogether_tells_afterwards() -> Result<()> {
    let stage = Stage::new().await?;
    let ten = Ten::new(&stage).await?;
    let seat = stage.operator(&[]).await?;
    serve(&stage).await?;

    let cut = go_blind(&seat).await?;
    // An edit that it cannot hear of: the API server keeps sending it, ever more rarely.
    let edited = cep("lone-1", &[address(2)], 1, 3, true);
    stage.cluster.apply(&edited.to_string()).await?;
    nobody_is_taken_out(&stage, &seat, cut).await?;
    let back = Instant::now();
    seat.host.restore()?;
    seat.leads().await?;
    println!("it leads {:?} after the network came back", back.elapsed());
    println!("{}", told(&stage, "OperatorBlind").await?);
    println!("{}", told(&stage, "OperatorSees").await?);
    stage.until_ready("lone-1", &["172.18.191.202:8080"]).await?;
    println!("what was edited is served {:?} after the network came back", back.elapsed());
    ensure!(evictions(&seat).await? == 0.0, "nobody was taken out");

    ten.hosts[2..].iter().try_for_each(Host::drop_packets)?;
    stage.until_ready("large", &[]).await?;
    ensure!(stage.ready("lone-2").await? == ["172.18.191.202:8080"], "the others are served");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn vantage_targets_decide_where_hosts_are_few() -> Result<()> {
    let stage = Stage::on(Cluster::builder().ipv6(false).proxy(false).start().await?).await?;
    let lookout = stage.cluster.host("172.18.191.100")?;
    let _lookout = Server::tcp(lookout.netns(), lookout.socket(22)).await?;
    let host = stage.cluster.host(&address(1))?;
    let _server = Server::http(host.netns(), host.socket(8080), Response::ok("here")).await?;
    let seat = stage.operator(&["--vantage-target=172.18.191.100:22"]).await?;
    stage.cluster.apply(&cep("only", &[address(1)], 1, 1, false).to_string()).await?;
    let ready = ["172.18.191.201:8080"];
    stage.until_ready("only", &ready).await?;

    // Both are silent: it is the operator's fault.
    lookout.drop_packets()?;
    host.drop_packets()?;
    eventually(SOON, "it knows that it is blind", async || {
        let blind = blind(&seat).await?;
        ensure!(blind == 1.0, "endpoints_operator_blind {blind}");
        Ok(())
    })
    .await?;
    stage.condition("only", "ProbesReady", "False", "OperatorBlind").await?;
    always(Duration::from_secs(5), "the host stays in", async || {
        let now = stage.ready("only").await?;
        ensure!(now == ready, "{now:?}");
        Ok(())
    })
    .await?;
    // The lookout answers: it is the host's.
    lookout.restore()?;
    stage.until_ready("only", &[]).await?;
    ensure!(blind(&seat).await? == 0.0, "it sees");
    host.restore()?;
    stage.until_ready("only", &ready).await?;
    // Alone, the host is taken out at once.
    let dead = Instant::now();
    host.drop_packets()?;
    stage.until_ready("only", &[]).await?;
    println!("taken out after {:?}", dead.elapsed());
    ensure!(dead.elapsed() < Duration::from_secs(4), "taken out after {:?}", dead.elapsed());
    Ok(())
}
