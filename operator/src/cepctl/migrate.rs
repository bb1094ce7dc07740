//! `cepctl migrate`: from the original operator's objects to ours, on paper or in the cluster.

mod cluster;
mod handover;
mod translate;

use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, stream};
use kube::ResourceExt;
use kube::api::ListParams;
use kube::core::DynamicObject;
use serde_json::Value;

use self::cluster::Handover;
use super::Exit;
use super::cli::{Global, Migrate, OldGroup};
use super::cluster::{Cluster, api_error};
use super::documents::{self, Document};
use super::output;
use translate::{Migrated, translate};

/// Most of the time goes into watching, so that many are on their way together.
const AT_A_TIME: usize = 16;
/// Beyond its period, for a round of probes that is just under way.
const MARGIN: Duration = Duration::from_secs(2);

pub(super) async fn run(arguments: &Migrate, global: &Global) -> anyhow::Result<Exit> {
    if !arguments.files.is_empty() {
        return print(&of_files(&documents::read(&arguments.files)?)?, global);
    }
    let cluster = Cluster::connect(global).await?;
    if arguments.apply {
        return apply(arguments, &cluster).await;
    }
    let mut values = Vec::new();
    for (_, found) in find(arguments, &cluster).await? {
        if let Some(object) = found {
            values.push((label(&object), serde_json::to_value(&object)?));
        }
    }
    print(&values, global)
}

fn of_files(documents: &[Document]) -> anyhow::Result<Vec<(String, Value)>> {
    let mut values = Vec::new();
    for document in documents {
        let old = [OldGroup::Sealos, OldGroup::Sealyun];
        if old.iter().any(|group| document.is(group.as_str(), "ClusterEndpoint")) {
            let name = document.value["metadata"]["name"].as_str().unwrap_or_default();
            values.push((format!("{}: {name}", document.origin), document.value.clone()));
        } else {
            let kind = document.kind();
            output::warn(&format!("{}: {kind} is no ClusterEndpoint; left out", document.origin));
        }
    }
    if values.is_empty() {
        anyhow::bail!(
            "there is no ClusterEndpoint of sealos.io or sealyun.com in what was given with -f; for \
             Services and Endpoints use cepctl convert"
        );
    }
    Ok(values)
}

fn print(values: &[(String, Value)], global: &Global) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    let mut objects = Vec::new();
    for (origin, value) in values {
        match translated(origin, value) {
            Ok(mut migrated) => {
                if let Some(namespace) = &global.namespace {
                    migrated.cep.metadata.namespace = Some(namespace.clone());
                }
                objects.push(documents::manifest(&migrated.cep)?);
            }
            Err(error) => {
                output::complain(&error);
                exit = Exit::Partly;
            }
        }
    }
    output::print(&output::render_objects(&objects, global.output)?)?;
    Ok(exit)
}

/// Translates, with the warnings said.
fn translated(origin: &str, value: &Value) -> anyhow::Result<Migrated> {
    let migrated = translate(value).with_context(|| origin.to_owned())?;
    for warning in &migrated.warnings {
        output::warn(&format!("{origin}: {warning}"));
    }
    Ok(migrated)
}

fn label(object: &DynamicObject) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// The old objects that were asked for, by name: one that is asked for and not there may be half migrated.
async fn find(
    arguments: &Migrate,
    cluster: &Cluster,
) -> anyhow::Result<Vec<(String, Option<DynamicObject>)>> {
    let group = arguments.from_group;
    let objects = cluster::old_objects(cluster, group, arguments.all_namespaces);
    let what = format!("ClusterEndpoints of {}", group.as_str());
    let failed = |error| match error {
        kube::Error::Api(status) if status.code == 404 => anyhow::anyhow!(
            "{what}: the cluster does not know this kind (its CRD is not installed), so there is nothing to \
             migrate; see --from-group"
        ),
        error => api_error(error, &what),
    };
    if arguments.all {
        let found = objects.list(&ListParams::default()).await.map_err(failed)?;
        if found.items.is_empty() {
            output::say(&format!("no {what} found: nothing to migrate"));
        }
        return Ok(found.into_iter().map(|object| (object.name_any(), Some(object))).collect());
    }
    let mut found = Vec::new();
    for name in &arguments.names {
        let object = match objects.get_opt(name).await {
            // With --apply, what is left of a migration is looked for in any case.
            Err(kube::Error::Api(status)) if status.code == 404 && arguments.apply => None,
            other => other.map_err(&failed)?,
        };
        if object.is_none() && !arguments.apply {
            anyhow::bail!(
                "there is no ClusterEndpoint {name} of {} in namespace {}; look with kubectl get \
                 clusterendpoints.{} -A",
                group.as_str(),
                cluster.namespace,
                group.as_str()
            );
        }
        found.push((name.clone(), object));
    }
    Ok(found)
}

async fn apply(arguments: &Migrate, cluster: &Cluster) -> anyhow::Result<Exit> {
    let found = stream::iter(find(arguments, cluster).await?);
    let results = found.map(|(name, object)| async move {
        let namespace = object.as_ref().and_then(ResourceExt::namespace);
        let cluster = cluster.within(namespace.as_deref().unwrap_or(&cluster.namespace));
        match arguments.from_group {
            OldGroup::Sealos => hand_over(arguments, &cluster, &name, object).await,
            OldGroup::Sealyun => rewrite(arguments, &cluster, &name, object).await,
        }
    });
    let mut exit = Exit::Done;
    let mut results = pin!(results.buffer_unordered(AT_A_TIME));
    while let Some(result) = results.next().await {
        // One that fails must not keep the others waiting.
        if let Err(error) = result {
            output::complain(&error);
            exit = Exit::Partly;
        }
    }
    Ok(exit)
}

async fn hand_over(
    arguments: &Migrate,
    cluster: &Cluster,
    name: &str,
    object: Option<DynamicObject>,
) -> anyhow::Result<()> {
    let wanted = match &object {
        Some(object) => Some(translated(&label(object), &serde_json::to_value(object)?)?.cep),
        None => None,
    };
    // The original looks at each object once a period, and at a change of its Service at once.
    let period = wanted.as_ref().map_or(10, |cep| cep.spec.period_seconds.clamp(1, 30));
    let quiet = Duration::from_secs(period.unsigned_abs().into()) + MARGIN;
    let handover = Handover { cluster, name, wanted, timeout: arguments.timeout, quiet };
    if arguments.dry_run { handover.rehearse().await } else { handover.carry_out().await }
}

async fn rewrite(
    arguments: &Migrate,
    cluster: &Cluster,
    name: &str,
    object: Option<DynamicObject>,
) -> anyhow::Result<()> {
    let object =
        object.with_context(|| format!("there is no ClusterEndpoint {}/{name}", cluster.namespace))?;
    let label = label(&object);
    let migrated = translated(&label, &serde_json::to_value(&object)?)?;
    let changed = cluster::rewrite(cluster, &object, &migrated.cep, arguments.dry_run).await?;
    output::say(&match (changed, arguments.dry_run) {
        (true, true) => format!("… {label}: would be rewritten"),
        (true, false) => format!("✔ {label}: rewritten"),
        (false, _) => format!("✔ {label}: good as it is"),
    });
    Ok(())
}

#[cfg(test)]
mod tests;
