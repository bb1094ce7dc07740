//! The operator on a real control plane, with hosts that have thousands of addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use testbed::reaper::TempDir;
use testbed::{Cluster, Host, Process, eventually, operator};
use tokio::task::JoinSet;

use crate::exposition::Exposition;
use crate::load::Kind;
use crate::progress::say;

const CRD: &str = include_str!("../../../../crds/clusterendpoints.sealyun.com.yaml");

/// Requests under way while objects are created.
const WORKERS: usize = 16;
/// How often a long wait says that it still goes on.
const PROGRESS: Duration = Duration::from_secs(30);
/// The operator's admin server.
const ADMIN_PORT: u16 = 8080;

/// A control plane and an operator.
pub(crate) struct Bed {
    // Dropped in this order.
    process: Process,
    _dir: TempDir,
    host: Host,
    pub(crate) cluster: Cluster,
}

impl Bed {
    pub(crate) async fn start() -> Result<Self> {
        // Nobody connects through the Services, so nothing needs to forward.
        let cluster = Cluster::builder().ipv6(false).proxy(false).start().await?;
        cluster.apply(CRD).await?;
        let established = "--for=condition=Established";
        cluster.kubectl(&["wait", established, "crd/clusterendpoints.sealyun.com", "--timeout=20s"]).await?;
        let host = cluster.operator_host()?;
        let dir = TempDir::new()?;
        let mut command =
            host.netns().command(operator::program("ENDPOINTS_OPERATOR_BIN", "endpoints-operator")?);
        command.args(["run", "--lease-namespace=default", &format!("--admin-address=0.0.0.0:{ADMIN_PORT}")]);
        command.env("KUBECONFIG", cluster.kubeconfig()).current_dir(dir.path());
        let process = Process::start("endpoints-operator", command, &dir.path().join("operator.log"))?;
        let bed = Self { process, _dir: dir, host, cluster };
        bed.until(Duration::from_secs(40), "the operator leads", |metrics| {
            metrics.sum("endpoints_operator_leader", "") == 1.0
        })
        .await?;
        Ok(bed)
    }

    pub(crate) fn operator_pid(&self) -> u32 {
        self.process.pid()
    }

    /// A host that answers on port 8080 of all addresses in 10.N.0.0/16, without a rule in the way of its
    /// packets.
    pub(crate) async fn web(&self, n: u8) -> Result<Web> {
        let host = self.cluster.host(&format!("172.18.191.{}", 200 + n))?;
        host.netns().ip(&format!("route add local 10.{n}.0.0/16 dev lo"))?;
        self.host.netns().ip(&format!("route add 10.{n}.0.0/16 via {}", host.ip()))?;
        host.netns().sysctl("net.core.somaxconn", "65535")?;
        let targets = crate::load::Load::targets(host.netns(), Kind::Tcp)?;
        Ok(Web { _targets: targets, host, network: n })
    }

    pub(crate) fn ceps(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("sealyun.com", "v1beta1", "ClusterEndpoint");
        Api::default_namespaced_with(self.cluster.client(), &ApiResource::from_gvk(&kind))
    }

    /// Creates ceps with these specs, named `cep-0` and on, one each `spacing` or as fast as it goes;
    /// `created` hears of each when it is.
    pub(crate) async fn create(
        &self,
        specs: Vec<Value>,
        spacing: Duration,
        created: impl Fn(usize, Instant) + Send + Sync + 'static,
    ) -> Result<()> {
        let (specs, created) = (Arc::new(specs), Arc::new(created));
        let start = Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let (api, specs, created) = (self.ceps(), specs.clone(), created.clone());
            workers.spawn(async move {
                for (index, spec) in specs.iter().enumerate().skip(worker).step_by(WORKERS) {
                    let turn = start + spacing * u32::try_from(index)?;
                    tokio::time::sleep_until(turn.into()).await;
                    let name = format!("cep-{index}");
                    let cep = json!({
                        "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint",
                        "metadata": {"name": name}, "spec": spec,
                    });
                    let cep: DynamicObject = serde_json::from_value(cep)?;
                    api.create(&PostParams::default(), &cep)
                        .await
                        .with_context(|| format!("creating {name}"))?;
                    created(index, Instant::now());
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = workers.join_next().await {
            done??;
        }
        Ok(())
    }

    /// What the operator's metrics say.
    pub(crate) async fn metrics(&self) -> Result<Exposition> {
        self.process.ensure_running()?;
        let (status, text) = self.host.netns().http_get(self.host.socket(ADMIN_PORT), "/metrics").await?;
        ensure!(status == 200, "/metrics says {status}");
        Ok(Exposition(text))
    }

    /// Waits until the operator's metrics are so.
    pub(crate) async fn until(
        &self,
        patience: Duration,
        what: &str,
        holds: impl Fn(&Exposition) -> bool,
    ) -> Result<()> {
        let mut told = Instant::now();
        eventually(patience, what, async || {
            let metrics = self.metrics().await?;
            if holds(&metrics) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
            let of =
                |verdict: &str| metrics.sum("endpoints_operator_targets", &format!("verdict=\"{verdict}\""));
            let (healthy, unhealthy, unknown) = (of("Healthy"), of("Unhealthy"), of("Unknown"));
            let seen = format!("targets: {healthy} healthy, {unhealthy} unhealthy, {unknown} unknown");
            if told.elapsed() > PROGRESS {
                say!("waiting until {what}; {seen}");
                told = Instant::now();
            }
            anyhow::bail!(seen)
        })
        .await
    }

    /// Waits until all these targets are healthy and nobody has written anything for five seconds.
    pub(crate) async fn settled(&self, targets: usize, patience: Duration) -> Result<()> {
        self.until(patience, "all targets are healthy", |metrics| {
            metrics.sum("endpoints_operator_targets", "verdict=\"Healthy\"") == targets as f64
        })
        .await?;
        let writes = async || {
            let counts = self.cluster.apiserver_write_counts().await?;
            anyhow::Ok(counts.total() - counts.of("leases"))
        };
        let mut last = (writes().await?, Instant::now());
        let mut told = Instant::now();
        eventually(patience, "the writing is over", async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = writes().await?;
            if now != last.0 {
                last = (now, Instant::now());
            }
            if told.elapsed() > PROGRESS {
                say!("all targets are healthy; waiting for the end of writing, {now} writes so far");
                told = Instant::now();
            }
            ensure!(last.1.elapsed() > Duration::from_secs(5), "{now} writes so far");
            Ok(())
        })
        .await
    }
}

/// A host with 65 536 addresses.
pub(crate) struct Web {
    // Dropped before its namespace.
    _targets: crate::load::Load,
    pub(crate) host: Host,
    network: u8,
}

impl Web {
    /// One of its addresses.
    pub(crate) fn address(&self, index: usize) -> IpAddr {
        let base = Ipv4Addr::new(10, self.network, 0, 0).to_bits();
        Ipv4Addr::from_bits(base + u32::try_from(index).unwrap_or_default()).into()
    }
}

/// A spec with one TCP port and these hosts, every ten seconds.
pub(crate) fn spec(hosts: &[IpAddr], port: u16, failure_threshold: u32) -> Value {
    json!({
        "hosts": hosts,
        "periodSeconds": 10,
        "ports": [{
            "port": port, "timeoutSeconds": 1, "failureThreshold": failure_threshold, "tcpSocket": {"enable": true},
        }],
    })
}
