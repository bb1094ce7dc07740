//! What nearly every scenario begins with: a cluster that knows our kind, and an operator on a host of
//! its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Endpoints, Event, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use testbed::{Cluster, Host, Operator, eventually};

/// The definition of our kind, as it is shipped.
pub(crate) const CRD: &str = include_str!("../../crds/clusterendpoints.sealyun.com.yaml");

/// The manifest that the operator of 2022 published.
pub(crate) const WORDPRESS: &str = include_str!("../wordpress.yaml");

/// How long anything may take that should take a moment, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A cluster with our kind in it.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
}

impl Stage {
    /// Starts a cluster and installs the CRD.
    pub(crate) async fn new() -> Result<Self> {
        Self::on(Cluster::builder().start().await?).await
    }

    /// Installs the CRD in a cluster.
    pub(crate) async fn on(cluster: Cluster) -> Result<Self> {
        cluster.apply(CRD).await?;
        let established = "--for=condition=Established";
        cluster.kubectl(&["wait", established, "crd/clusterendpoints.sealyun.com", "--timeout=20s"]).await?;
        Ok(Self { cluster })
    }

    /// Starts an operator on a new host, with further arguments.
    pub(crate) async fn operator(&self, args: &[&str]) -> Result<Seat> {
        let host = self.cluster.operator_host()?;
        Seat::start(&self.cluster, host, args)
    }

    pub(crate) fn ceps(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("sealyun.com", "v1beta1", "ClusterEndpoint");
        Api::default_namespaced_with(self.cluster.client(), &ApiResource::from_gvk(&kind))
    }

    pub(crate) fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.cluster.client())
    }

    pub(crate) fn slices(&self) -> Api<EndpointSlice> {
        Api::default_namespaced(self.cluster.client())
    }

    pub(crate) fn endpoints(&self) -> Api<Endpoints> {
        Api::default_namespaced(self.cluster.client())
    }

    /// The status of a cep; null while it has none.
    pub(crate) async fn status(&self, name: &str) -> Result<Value> {
        Ok(self.ceps().get(name).await?.data["status"].clone())
    }

    /// Waits until the phase of a cep is this one.
    pub(crate) async fn phase(&self, name: &str, phase: &str) -> Result<()> {
        eventually(SOON, &format!("{name} is {phase}"), async || {
            let status = self.status(name).await?;
            ensure!(status["phase"] == phase, "status {status}");
            Ok(())
        })
        .await
    }

    /// Waits until a condition of a cep has this status and reason; returns its message.
    pub(crate) async fn condition(
        &self,
        name: &str,
        type_: &str,
        status: &str,
        reason: &str,
    ) -> Result<String> {
        eventually(SOON, &format!("{name}: {type_}={status} ({reason})"), async || {
            let stored = self.status(name).await?;
            let conditions = stored["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.iter().find(|c| c["type"] == type_).context("no such condition")?;
            ensure!(found["status"] == status && found["reason"] == reason, "{found}");
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
        .await
    }

    /// The endpoints of a Service by its slices: `address:port` with readiness, sorted.
    pub(crate) async fn listed(&self, service: &str) -> Result<Vec<(String, bool)>> {
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let mut listed = Vec::new();
        for slice in self.slices().list(&of_service).await? {
            for port in slice.ports.iter().flatten() {
                for endpoint in &slice.endpoints.clone().unwrap_or_default() {
                    let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                    for address in &endpoint.addresses {
                        listed.push((format!("{address}:{}", port.port.unwrap_or_default()), ready));
                    }
                }
            }
        }
        listed.sort();
        Ok(listed)
    }

    /// Those of them that are ready.
    pub(crate) async fn ready(&self, service: &str) -> Result<Vec<String>> {
        Ok(self.listed(service).await?.into_iter().filter(|(_, ready)| *ready).map(|(at, _)| at).collect())
    }

    /// Waits until exactly these are ready.
    pub(crate) async fn until_ready(&self, service: &str, expected: &[&str]) -> Result<()> {
        eventually(SOON, &format!("ready endpoints of {service} are {expected:?}"), async || {
            let ready = self.ready(service).await?;
            ensure!(ready == expected, "{ready:?}");
            Ok(())
        })
        .await
    }

    /// The ClusterIP of a Service with one of its ports.
    pub(crate) async fn cluster_ip(&self, service: &str, port: u16) -> Result<SocketAddr> {
        let service = self.services().get(service).await?;
        let ip = service.spec.and_then(|spec| spec.cluster_ip).context("no clusterIP")?;
        Ok(SocketAddr::new(ip.parse::<IpAddr>()?, port))
    }

    /// Events about a cep: reason and note.
    pub(crate) async fn events(&self, about: &str) -> Result<Vec<(String, String)>> {
        let events: Api<Event> = Api::default_namespaced(self.cluster.client());
        let about = ListParams::default().fields(&format!("involvedObject.name={about}"));
        let list = events.list(&about).await?;
        let text = |e: Event| (e.reason.unwrap_or_default(), e.message.unwrap_or_default());
        Ok(list.into_iter().map(text).collect())
    }
}

/// A running operator and where it runs.
pub(crate) struct Seat {
    pub(crate) host: Host,
    pub(crate) process: Operator,
}

/// Where the admin server of an operator listens, on its own host.
pub(crate) const ADMIN_PORT: u16 = 8080;

impl Seat {
    /// Starts an operator on this host.
    pub(crate) fn start(cluster: &Cluster, host: Host, args: &[&str]) -> Result<Self> {
        let mut all: Vec<String> = vec!["run".into(), "--lease-namespace=default".into()];
        all.push(format!("--admin-address=0.0.0.0:{ADMIN_PORT}"));
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let process = Operator::start(&host, cluster.kubeconfig(), all)?;
        Ok(Self { host, process })
    }

    /// A GET to its admin server: status and body.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        self.host.netns().http_get(self.host.socket(ADMIN_PORT), path).await
    }

    /// The sum of all series of a metric whose labels contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let (_, text) = self.get("/metrics").await?;
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let matches = series.split('{').next() == Some(name) && series.contains(labels);
            matches.then(|| value.parse::<f64>().ok()).flatten()
        };
        Ok(text.lines().filter_map(of).sum())
    }

    /// Waits until it leads.
    pub(crate) async fn leads(&self) -> Result<()> {
        eventually(Duration::from_secs(40), "the operator leads", async || {
            let leader = self.metric("endpoints_operator_leader", "").await?;
            ensure!(leader == 1.0, "endpoints_operator_leader {leader}");
            Ok(())
        })
        .await
    }
}
