//! `cepctl convert`: gather Services with their endpoints, translate, print.

mod translate;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Resource, ResourceExt};

use super::Exit;
use super::cli::{Convert, Global};
use super::cluster::{Cluster, api_error};
use super::documents::{self, Document};
use super::output;
use translate::{Choices, Source, translate};

/// The label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) async fn run(arguments: &Convert, global: &Global) -> anyhow::Result<Exit> {
    let choices = Choices {
        probe: arguments.probe,
        period_seconds: arguments.period_seconds,
        keep_cluster_ip: arguments.keep_cluster_ip,
    };
    let sources = if arguments.files.is_empty() {
        from_cluster(arguments, &Cluster::connect(global).await?).await?
    } else {
        from_documents(&documents::read(&arguments.files)?, global.namespace.as_deref())?
    };
    let mut exit = Exit::Done;
    let mut objects = Vec::new();
    for source in sources {
        let name = source.label();
        match translate(&source, &choices) {
            Ok(converted) => {
                for note in converted.notes {
                    output::warn(&format!("Service {name}: {note}"));
                }
                objects.push(documents::manifest(&converted.cep)?);
            }
            // Whoever asks for all of them knows that most are not of this kind.
            Err(refusal) if arguments.all && refusal.is_expected() => {}
            Err(refusal) => {
                output::complain(&anyhow::Error::new(refusal).context(format!("Service {name}")));
                exit = Exit::Partly;
            }
        }
    }
    if objects.is_empty() && exit == Exit::Done {
        output::say("no Service without selector has endpoints of its own: nothing to convert");
    }
    output::print(&output::render_objects(&objects, global.output)?)?;
    Ok(exit)
}

async fn from_cluster(arguments: &Convert, cluster: &Cluster) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    if arguments.all {
        let services = cluster
            .scoped::<Service>(arguments.all_namespaces)
            .list(&ListParams::default())
            .await
            .map_err(|error| api_error(error, "Services"))?;
        for service in services {
            let namespace = service.namespace().unwrap_or_else(|| cluster.namespace.clone());
            sources.push(source(&cluster.within(&namespace), service).await?);
        }
    } else {
        for name in &arguments.names {
            sources.push(source(cluster, cluster.get(name).await?).await?);
        }
    }
    Ok(sources)
}

async fn source(cluster: &Cluster, service: Service) -> anyhow::Result<Source> {
    let mut source = Source { service, endpoints: None, slices: Vec::new() };
    if source.is_out_of_question() {
        return Ok(source);
    }
    let name = source.service.name_any();
    let what = format!("endpoints of Service {}", source.label());
    source.endpoints =
        cluster.namespaced::<Endpoints>().get_opt(&name).await.map_err(|error| api_error(error, &what))?;
    let slices = ListParams::default().labels(&format!("{SERVICE_NAME}={name}"));
    source.slices = cluster
        .namespaced::<EndpointSlice>()
        .list(&slices)
        .await
        .map_err(|error| api_error(error, &what))?
        .items;
    Ok(source)
}

/// Puts the Services of files together with their endpoints.
fn from_documents(documents: &[Document], namespace: Option<&str>) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut endpoints = BTreeMap::new();
    let mut slices: BTreeMap<_, Vec<EndpointSlice>> = BTreeMap::new();
    for document in documents {
        if document.is("", "Service") {
            sources.push(Source { service: document.parse()?, endpoints: None, slices: Vec::new() });
        } else if document.is("", "Endpoints") {
            let object: Endpoints = document.parse()?;
            endpoints.insert((object.namespace(), object.name_any()), object);
        } else if document.is("discovery.k8s.io", "EndpointSlice") {
            let object: EndpointSlice = document.parse()?;
            match object.labels().get(SERVICE_NAME).cloned() {
                Some(service) => slices.entry((object.namespace(), service)).or_default().push(object),
                None => output::warn(&format!(
                    "{}: an EndpointSlice without label {SERVICE_NAME} belongs to no Service; left out",
                    document.origin
                )),
            }
        } else {
            output::warn(&format!("{}: a {} is of no use here; left out", document.origin, document.kind()));
        }
    }
    for source in &mut sources {
        let key = (source.service.namespace(), source.service.name_any());
        source.endpoints = endpoints.remove(&key);
        source.slices = slices.remove(&key).unwrap_or_default();
        if let Some(namespace) = namespace {
            source.service.meta_mut().namespace = Some(namespace.to_owned());
        }
    }
    let orphans = endpoints.keys().map(|(_, name)| ("Endpoints", name));
    for (kind, name) in orphans.chain(slices.keys().map(|(_, name)| ("EndpointSlices of", name))) {
        output::warn(&format!("{kind} {name}: there is no Service {name} beside them; left out"));
    }
    if sources.is_empty() {
        anyhow::bail!("there is no Service in what was given with -f; add it to its Endpoints");
    }
    Ok(sources)
}

#[cfg(test)]
mod tests;
