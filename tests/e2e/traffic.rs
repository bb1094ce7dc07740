//! Hosts that die under a client which connects through the ClusterIP.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testbed::traffic::Attempt;
use testbed::{Server, eventually};

use crate::client::Client;
use crate::stage::{SOON, Stage};

/// kube-proxy writes its rules at most once in this time.
const PROXY_PACE: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_secs(1);
const FAILURE_THRESHOLD: u32 = 3;

const HOSTS: [&str; 3] = ["172.18.191.11", "172.18.191.12", "172.18.191.13"];
const CEP: &str = r#"
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: web}
spec:
  hosts: [172.18.191.11, 172.18.191.12, 172.18.191.13]
  periodSeconds: 1
  ports:
  - {name: web, port: 80, targetPort: 8080, failureThreshold: 3, timeoutSeconds: 1, tcpSocket: {enable: true}}
"#;

/// When a host has left the slice, and when the client counts no failure any more.
struct Death {
    at: Instant,
    out: Instant,
}

impl Death {
    /// Waits until this host is not ready in the slice.
    async fn seen(stage: &Stage, at: Instant, host: &str) -> Result<Self> {
        eventually(SOON, &format!("{host} is taken out"), async || {
            let listed = stage.listed("web").await?;
            let seen = Instant::now();
            let (_, ready) =
                listed.iter().find(|(address, _)| address.starts_with(host)).context("unlisted")?;
            ensure!(!ready, "{listed:?}");
            Ok(Self { at, out: seen })
        })
        .await
    }

    /// All failures lie between the death and the moment at which kube-proxy must know, and the host
    /// was taken out by the threshold, not before.
    async fn hurt_only_meanwhile(&self, client: &Client) -> Result<()> {
        let tally = client.until(Instant::now() + PROXY_PACE).await?;
        let informed = self.out + PROXY_PACE;
        let failed = tally.attempts.iter().filter(|attempt| !attempt.is_ok());
        let (meanwhile, otherwise): (Vec<&Attempt>, Vec<&Attempt>) = failed.partition(|attempt| {
            let ended = attempt.at + attempt.latency;
            ended >= self.at && attempt.at <= informed
        });
        let last =
            meanwhile.iter().map(|attempt| attempt.at).max().context("the client never met the host")?;
        println!(
            "taken out {:.0?} after its death; {} of {} connections failed, the last one {:.0?} after it was \
             taken out",
            self.out - self.at,
            meanwhile.len(),
            tally.total(),
            last.saturating_duration_since(self.out),
        );
        let report = |attempt: &&Attempt| {
            let after = attempt.at.saturating_duration_since(self.out);
            format!("{:?} {after:.0?} after the slice was written", attempt.outcome)
        };
        ensure!(otherwise.is_empty(), "{:?}", otherwise.iter().map(report).collect::<Vec<_>>());
        let taken = self.out - self.at;
        // The first of the probes that failed may have been a little late, the last one not.
        let earliest = PERIOD * (FAILURE_THRESHOLD - 1) - PERIOD / 10;
        ensure!(taken > earliest, "taken out after {taken:?}, before the threshold");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_fails_only_between_the_death_of_a_host_and_the_threshold() -> Result<()> {
    let stage = Stage::new().await?;
    let mut hosts = Vec::new();
    for address in HOSTS {
        let host = stage.cluster.host(address)?;
        let server = Server::tcp(host.netns(), host.socket(8080)).await?;
        hosts.push((host, server));
    }
    // One for each death: a SYN that was lost is tracked for two minutes, and a client that comes from the
    // same port again is sent to the same host, whatever kube-proxy knows by then.
    let mut visitors = Vec::new();
    for address in ["172.18.191.50", "172.18.191.51", "172.18.191.52"] {
        visitors.push(stage.cluster.host(address)?);
    }
    let _operator = stage.operator(&[]).await?;
    stage.cluster.apply(CEP).await?;
    let all = HOSTS.map(|host| format!("{host}:8080"));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    stage.until_ready("web", &all).await?;
    let service = stage.cluster_ip("web", 80).await?;

    println!("the process of a host stops: connections are refused");
    let client = Client::start(&visitors[0], service).await?;
    let died = Instant::now();
    hosts[0].1.stop().await;
    let death = Death::seen(&stage, died, HOSTS[0]).await?;
    ensure!(death.out - death.at < PERIOD * (FAILURE_THRESHOLD + 2), "only after {:?}", death.out - death.at);
    hosts[0].1.start().await?;
    stage.until_ready("web", &all).await?;
    death.hurt_only_meanwhile(&client).await?;
    drop(client);

    println!("a host drops packets: connections time out");
    let client = Client::start(&visitors[1], service).await?;
    let died = Instant::now();
    hosts[1].0.drop_packets()?;
    let death = Death::seen(&stage, died, HOSTS[1]).await?;
    // The last probe takes its whole timeout.
    ensure!(death.out - death.at < PERIOD * (FAILURE_THRESHOLD + 3), "only after {:?}", death.out - death.at);
    hosts[1].0.restore()?;
    stage.until_ready("web", &all).await?;
    death.hurt_only_meanwhile(&client).await?;
    drop(client);

    println!("all of them stop, and one comes back");
    for (_, server) in &mut hosts {
        server.stop().await;
    }
    stage.until_ready("web", &[]).await?;
    stage.phase("web", "UnHealthy").await?;
    hosts[2].1.start().await?;
    stage.until_ready("web", &[all[2]]).await?;
    Client::start(&visitors[2], service).await?.unharmed(PROXY_PACE).await
}
