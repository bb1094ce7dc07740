//! `cepctl explain`: why a host is in or out.

mod advice;
mod findings;
mod live;
mod report;

use anyhow::anyhow;
use cep_core::api::v1beta1::ClusterEndpoint;
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::ListParams;

use super::Exit;
use super::cli::{Explain, Global};
use super::cluster::{Cluster, api_error};
use super::output::{self, Palette};

pub(super) async fn run(arguments: &Explain, global: &Global) -> anyhow::Result<Exit> {
    let cluster = Cluster::connect(global).await?;
    let mut ceps: Vec<ClusterEndpoint> = Vec::new();
    if arguments.names.is_empty() {
        let found = cluster.scoped(arguments.all_namespaces).list(&ListParams::default()).await;
        ceps = found.map_err(|error| api_error(error, "ClusterEndpoints"))?.items;
        if ceps.is_empty() {
            let place = match arguments.all_namespaces {
                true => "the cluster".to_owned(),
                false => format!("namespace {}; try -A", cluster.namespace),
            };
            return Err(anyhow!("there is no ClusterEndpoint in {place}"));
        }
    }
    for name in &arguments.names {
        ceps.push(cluster.get(name).await?);
    }
    let live = live::fetch(&cluster, arguments).await;
    let now = Timestamp::now();
    let mut explanations = Vec::new();
    for cep in &ceps {
        let namespace = cep.namespace().unwrap_or_else(|| cluster.namespace.clone());
        let slices = slices(&cluster.within(&namespace), &cep.name_any()).await?;
        explanations.push(findings::of(cep, &slices, live.as_ref().ok(), now));
    }
    match global.output {
        Some(format) => {
            let unavailable = live.as_ref().err().map(|error| output::chain(error.as_ref()));
            let value = serde_json::json!({"items": explanations, "liveUnavailable": unavailable});
            output::print(&output::render(&value, format)?)?;
        }
        None => {
            let palette = Palette::of(&std::io::stdout());
            let mut text: Vec<String> =
                explanations.iter().map(|explanation| report::text(explanation, now, palette)).collect();
            text.push(match &live {
                Ok(live) => report::operator(live, palette),
                Err(error) => report::no_operator(error, arguments, palette),
            });
            output::print(&text.join("\n"))?;
        }
    }
    Ok(Exit::Done)
}

async fn slices(cluster: &Cluster, name: &str) -> anyhow::Result<Vec<EndpointSlice>> {
    let parameters = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let found = cluster.namespaced::<EndpointSlice>().list(&parameters).await;
    Ok(found
        .map_err(|error| api_error(error, &format!("EndpointSlices of {}/{name}", cluster.namespace)))?
        .items)
}

#[cfg(test)]
mod tests;
