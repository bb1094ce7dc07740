//! Many hosts behind one ClusterEndpoint, and the same hosts behind two.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use serde_json::json;
use testbed::{Host, Response, Server, eventually};

use crate::stage::{SOON, Seat, Stage};

/// A host that answers to a whole network, 10.50.0.0/16, as a router in front of many machines would.
async fn crowd(stage: &Stage, operator: &Seat) -> Result<Host> {
    let host = stage.cluster.host("172.18.191.40")?;
    host.netns().ip("route add local 10.50.0.0/16 dev lo")?;
    operator.host.netns().ip("route add 10.50.0.0/16 via 172.18.191.40")?;
    Ok(host)
}

fn members(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("10.50.{}.{}", n / 250, n % 250 + 1)).collect()
}

async fn slices(stage: &Stage, service: &str) -> Result<Vec<EndpointSlice>> {
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    Ok(stage.slices().list(&of_service).await?.items)
}

/// The endpoints of a port that are not ready.
async fn out(stage: &Stage, port: &str) -> Result<Vec<String>> {
    let slices = slices(stage, "crowd").await?;
    let of_port = slices.iter().filter(|s| s.ports.iter().flatten().any(|p| p.name.as_deref() == Some(port)));
    let endpoints = of_port.flat_map(|slice| slice.endpoints.iter().flatten());
    let out = endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(false));
    Ok(out.flat_map(|e| e.addresses.clone()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_ports_of_1200_hosts_fill_slices_of_a_thousand() -> Result<()> {
    let stage = Stage::new().await?;
    let operator = stage.operator(&[]).await?;
    let host = crowd(&stage, &operator).await?;
    let mut servers = Vec::new();
    for port in [80, 81, 82] {
        servers.push(Server::tcp(host.netns(), format!("0.0.0.0:{port}").parse()?).await?);
    }
    let port =
        |name: &str, port: u16| json!({ "name": name, "port": port, "failureThreshold": 1, "tcpSocket": {} });
    let cep = json!({
        "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint", "metadata": { "name": "crowd" },
        "spec": {
            "hosts": members(1200), "periodSeconds": 5,
            "ports": [port("a", 80), port("b", 81), port("c", 82)],
        },
    });
    stage.cluster.apply(&cep.to_string()).await?;
    eventually(3 * SOON, "all 3600 are healthy", async || {
        let status = stage.status("crowd").await?;
        ensure!(status["phase"] == "Healthy" && status["ready"] == "3600/3600", "{}", status["ready"]);
        Ok(())
    })
    .await?;

    let mut sizes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for slice in slices(&stage, "crowd").await? {
        let port = slice.ports.iter().flatten().next().and_then(|port| port.name.clone());
        let size = slice.endpoints.as_ref().map_or(0, Vec::len);
        sizes.entry(port.context("a slice without a port")?).or_default().push(size);
    }
    sizes.values_mut().for_each(|sizes| sizes.sort());
    let expected = ["a", "b", "c"].map(|port| (port.to_owned(), vec![200, 1000]));
    ensure!(sizes == BTreeMap::from(expected), "{sizes:?}");
    ensure!(stage.endpoints().get_opt("crowd").await?.is_none(), "Endpoints of more than 1000 addresses");

    // One host of 1200 closes one of its three ports: that is one write, and one more when it is back.
    let before = stage.cluster.apiserver_write_counts().await?;
    let close = "add table inet closed
        add chain inet closed in { type filter hook input priority 0; }
        add rule inet closed in ip daddr 10.50.2.7 tcp dport 81 reject with tcp reset\n";
    for (rules, gone) in [(close, vec!["10.50.2.7".to_owned()]), ("delete table inet closed\n", Vec::new())] {
        host.netns().nft(rules)?;
        eventually(SOON, &format!("{gone:?} out of port b"), async || {
            let out = out(&stage, "b").await?;
            ensure!(out == gone, "{out:?}");
            Ok(())
        })
        .await?;
        // The status comes last.
        stage.phase("crowd", if gone.is_empty() { "Healthy" } else { "UnHealthy" }).await?;
        ensure!(out(&stage, "a").await?.is_empty() && out(&stage, "c").await?.is_empty(), "other ports");
    }
    let writes = stage.cluster.apiserver_write_counts().await?.since(&before);
    ensure!(writes.of("endpointslices") == 2, "{writes}");
    ensure!(writes.of("clusterendpoints") == 2, "{writes}");
    ensure!(writes.of("services") + writes.of("endpoints") == 0, "{writes}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_two_clusterendpoints_are_probed_once_a_period() -> Result<()> {
    const HOSTS: u64 = 50;
    const PERIODS: u64 = 8;
    let stage = Stage::new().await?;
    let operator = stage.operator(&[]).await?;
    let host = crowd(&stage, &operator).await?;
    let web = Server::http(host.netns(), "0.0.0.0:80".parse()?, Response::ok("here")).await?;
    for name in ["one", "other"] {
        // What differs besides the name does not make it another target.
        let port = if name == "one" { 80 } else { 8080 };
        let cep = json!({
            "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint", "metadata": { "name": name },
            "spec": { "hosts": members(50), "periodSeconds": 1, "ports": [
                { "name": name, "port": port, "targetPort": 80, "failureThreshold": 2, "httpGet": {} },
            ] },
        });
        stage.cluster.apply(&cep.to_string()).await?;
    }
    stage.phase("one", "Healthy").await?;
    stage.phase("other", "Healthy").await?;

    let (start, before) = (Instant::now(), web.requests());
    let wanted = HOSTS * PERIODS;
    eventually(3 * SOON, &format!("{wanted} probes"), async || {
        let probes = web.requests() - before;
        ensure!(probes >= wanted, "{probes}");
        Ok(())
    })
    .await?;
    // Each host is asked once in each period, so a window of 8 s sees 400 probes, give or take the hosts
    // whose turn falls on its edges. Probed for each ClusterEndpoint they would come in 4 s.
    let (took, probes) = (start.elapsed(), web.requests() - before);
    let second = Duration::from_secs(1);
    println!("{probes} probes in {took:?}");
    ensure!(took > second * 7 && took < second * 10, "{probes} probes in {took:?}");

    // What is seen of a shared host counts for both.
    host.netns().nft(
        "add table inet closed
        add chain inet closed in { type filter hook input priority 0; }
        add rule inet closed in ip daddr 10.50.0.7 tcp dport 80 reject with tcp reset\n",
    )?;
    for name in ["one", "other"] {
        eventually(SOON, &format!("{name} has lost a host"), async || {
            let listed = stage.listed(name).await?;
            let out: Vec<_> = listed.iter().filter(|(_, ready)| !ready).map(|(at, _)| at.as_str()).collect();
            ensure!(out == ["10.50.0.7:80"], "{out:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
