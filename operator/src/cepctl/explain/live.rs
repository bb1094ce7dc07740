//! What only the operator knows: asked through the API server, or at a given address.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use cep_core::overview::{CepOverview, Overview};
use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Client, Config};

use super::super::cli::Explain;
use super::super::cluster::{Cluster, api_error};

/// Name of the operator's Lease.
const LEASE: &str = "endpoints-operator";
/// Port of the operator's admin server.
const PORT: u16 = 8080;
const PATH: &str = "/api/v1/overview";
/// How long to wait for its answer: it gives up by itself after 10 seconds, and what listens at the address
/// need not be an operator.
const PATIENCE: Duration = Duration::from_secs(12);

/// The operator's own account.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) overview: Overview,
    /// How far the operator's clock is ahead of ours.
    pub(super) ahead: SignedDuration,
}

impl Live {
    pub(super) fn new(overview: Overview, now: jiff::Timestamp) -> Self {
        let ahead = overview.now.duration_since(now);
        // Below that it is the time that the answer took.
        let ahead = if ahead.abs() < SignedDuration::from_secs(2) { SignedDuration::ZERO } else { ahead };
        Self { overview, ahead }
    }

    pub(super) fn cep(&self, namespace: &str, name: &str) -> Option<&CepOverview> {
        self.overview.ceps.iter().find(|cep| cep.namespace == namespace && cep.name == name)
    }
}

/// Asks.
///
/// # Errors
/// It cannot be reached; why.
pub(super) async fn fetch(cluster: &Cluster, arguments: &Explain) -> anyhow::Result<Live> {
    let overview = match &arguments.admin_url {
        Some(url) => {
            let client = Client::try_from(Config::new(url.clone()))?;
            ask(&client, PATH, &url.to_string()).await?
        }
        None => {
            let namespace = &arguments.operator_namespace;
            let pod = leader(cluster, namespace).await?;
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{PORT}/proxy{PATH}");
            ask(&cluster.client, &path, &format!("Pod {namespace}/{pod}")).await?
        }
    };
    Ok(Live::new(overview, jiff::Timestamp::now()))
}

async fn ask(client: &Client, path: &str, whom: &str) -> anyhow::Result<Overview> {
    let request = http::Request::get(path).body(Vec::new()).context("not a usable address")?;
    let answer = tokio::time::timeout(PATIENCE, client.request_text(request))
        .await
        .map_err(|_| anyhow!("{whom} did not answer within {} s", PATIENCE.as_secs()))?
        .map_err(|error| api_error(error, whom))?;
    serde_json::from_str(&answer)
        .map_err(|error| anyhow!("{whom} does not answer as an endpoints-operator of this version: {error}"))
}

/// The Pod that holds the Lease.
async fn leader(cluster: &Cluster, namespace: &str) -> anyhow::Result<String> {
    let leases = cluster.within(namespace).namespaced::<Lease>();
    let what = format!("Lease {LEASE} in namespace {namespace}");
    let lease = leases.get_opt(LEASE).await.map_err(|error| api_error(error, &what))?;
    let Some(lease) = lease else {
        bail!("no {what}{}", elsewhere(cluster).await);
    };
    lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .filter(|holder| !holder.is_empty())
        .map(|holder| pod_of(&holder).to_owned())
        .ok_or_else(|| anyhow!("nobody holds {what}: no operator runs there now"))
}

/// Looks for the Lease in other namespaces, to say which flag would have found it.
async fn elsewhere(cluster: &Cluster) -> String {
    let by_name = ListParams::default().fields(&format!("metadata.name={LEASE}"));
    let found = cluster.scoped::<Lease>(true).list(&by_name).await.ok();
    match found.and_then(|leases| leases.items.into_iter().find_map(|lease| lease.metadata.namespace)) {
        Some(namespace) => format!(", but there is one in {namespace}: use --operator-namespace {namespace}"),
        None => "; if the operator runs elsewhere, use --operator-namespace".to_owned(),
    }
}

/// A holder is the name of its Pod, perhaps with something random behind `_`, which no name contains.
pub(super) fn pod_of(holder: &str) -> &str {
    holder.split_once('_').map_or(holder, |(pod, _)| pod)
}
