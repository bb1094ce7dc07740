//! The steady state: nothing is written but the Lease.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testbed::wait::always;
use testbed::{Cluster, Response, Server, eventually};

use crate::stage::Stage;

/// The ceps of the scenario.
const CEPS: usize = 200;

/// How long nothing may be written.
const MINUTE: Duration = Duration::from_secs(60);

/// What the operator could write, its Lease aside.
const WRITTEN: [&str; 5] = ["services", "endpoints", "endpointslices", "clusterendpoints", "events"];

/// The n-th cep: hosts, checks, periods and thresholds differ, and every eighth lists a port that is closed.
fn cep(n: usize) -> Value {
    let hosts = [
        json!(["172.18.191.211"]),
        json!(["172.18.191.212", "172.18.191.213"]),
        json!(["172.18.191.211", "fd00:172:18:191::211"]),
        json!(["172.18.191.211", "172.18.191.212", "172.18.191.214"]),
    ];
    let period = [2, 5, 10][n % 3];
    let port = match n % 8 {
        0 => json!({ "name": "tcp", "port": 80, "targetPort": 8080, "tcpSocket": { "enable": true } }),
        1 => {
            json!({ "name": "http", "port": 80, "targetPort": 8080, "httpGet": { "path": format!("/{n}") } })
        }
        2 => json!({ "name": "bare", "port": 80, "targetPort": 8080 }),
        3 => json!({ "name": "lost", "port": 80, "targetPort": 9, "tcpSocket": { "enable": true } }),
        4 => json!({ "name": "wrong", "port": 80, "targetPort": 8080,
                     "httpGet": { "path": "/", "expectedStatuses": ["500"] } }),
        5 => json!({ "name": "udp", "port": 53, "protocol": "UDP" }),
        6 => {
            json!({ "port": 80, "targetPort": 8080, "tcpSocket": { "enable": true }, "failureThreshold": 1 })
        }
        _ => json!({ "name": "http", "port": 80, "targetPort": 8080, "successThreshold": 2,
                     "httpGet": { "path": "/" } }),
    };
    json!({
        "apiVersion": "sealyun.com/v1beta1",
        "kind": "ClusterEndpoint",
        "metadata": { "name": format!("steady-{n}"), "labels": { "team": format!("t{}", n % 7) } },
        "spec": { "hosts": hosts[n % 4], "periodSeconds": period, "ports": [port] },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_ceps_cause_no_write_in_a_minute() -> Result<()> {
    let stage = Stage::on(Cluster::builder().start().await?).await?;
    let mut hosts = Vec::new();
    let mut servers = Vec::new();
    for last in 211..=214 {
        let host = stage.cluster.host(&format!("172.18.191.{last}"))?;
        if last != 214 {
            servers.push(Server::http(host.netns(), host.socket(8080), Response::ok("here")).await?);
            servers.push(Server::http(host.netns(), host.socket6(8080), Response::ok("here")).await?);
        } else {
            // One that is silent, beside those that refuse and those that answer wrongly.
            host.drop_packets()?;
        }
        hosts.push(host);
    }
    let operator = stage.operator(&[]).await?;
    let standby = stage.operator(&[]).await?;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": (0..CEPS).map(cep).collect::<Vec<_>>() });
    stage.cluster.apply(&list.to_string()).await?;

    eventually(Duration::from_secs(90), "every cep is judged", async || {
        let ceps = stage.ceps().list(&Default::default()).await?;
        let phase = |phase: &str| ceps.iter().filter(|cep| cep.data["status"]["phase"] == phase).count();
        let (healthy, unhealthy) = (phase("Healthy"), phase("UnHealthy"));
        ensure!(healthy + unhealthy == CEPS, "{healthy} healthy, {unhealthy} unhealthy");
        ensure!(healthy > CEPS / 4 && unhealthy > CEPS / 4, "{healthy} healthy, {unhealthy} unhealthy");
        Ok(())
    })
    .await?;
    // What is under way still comes to its end: judged is not yet written, and Events trail behind.
    let mut last = stage.cluster.apiserver_write_counts().await?;
    let mut since = Instant::now();
    eventually(Duration::from_secs(60), "nothing has been written for five seconds", async || {
        let counts = stage.cluster.apiserver_write_counts().await?;
        let new = counts.since(&last);
        if WRITTEN.iter().any(|resource| new.of(resource) > 0) {
            (last, since) = (counts, Instant::now());
        }
        ensure!(since.elapsed() > Duration::from_secs(5), "{new}");
        Ok(())
    })
    .await?;

    let before = stage.cluster.apiserver_write_counts().await?;
    let probes = operator.metric("endpoints_operator_probes_total", "").await?;
    let minute = Instant::now();
    always(MINUTE, "nothing is written but the Lease", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let new = stage.cluster.apiserver_write_counts().await?.since(&before);
        ensure!(WRITTEN.iter().all(|resource| new.of(resource) == 0), "{new}");
        Ok(())
    })
    .await?;
    let new = stage.cluster.apiserver_write_counts().await?.since(&before);
    let probed = operator.metric("endpoints_operator_probes_total", "").await? - probes;
    println!("{probed} probes in {:?}; written: {new}", minute.elapsed());
    ensure!(new.of("leases") > 0, "the Lease is renewed: {new}");
    ensure!(probed > 500.0, "{probed} probes");
    standby.process.ensure_running()
}
