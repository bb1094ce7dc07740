//! Values out of Secrets and ConfigMaps: from the files, from `--material`, from the cluster.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use cep_core::api::v1beta1::ClusterEndpointSpec;
use cep_core::check::{Absent, Materials, Reference, Text, references};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::super::cli::Global;
use super::super::cluster::{Cluster, api_error};
use super::super::documents::Document;
use super::super::output::chain;

/// What was found, and why the rest was not.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) materials: Materials,
    pub(super) missing: BTreeMap<Reference, String>,
}

/// Where to look, in this order.
pub(super) struct Sources<'a> {
    pub(super) documents: &'a [Document],
    pub(super) given: &'a BTreeMap<Reference, String>,
    pub(super) cluster: Option<&'a Cluster>,
    pub(super) global: &'a Global,
}

/// Reads the files of `--material`.
///
/// # Errors
/// Not of the form that the help shows, or no such file.
pub(super) fn given(texts: &[String]) -> anyhow::Result<BTreeMap<Reference, String>> {
    let mut given = BTreeMap::new();
    for text in texts {
        let parts = text.split_once('=').and_then(|(reference, file)| Some((parse(reference)?, file)));
        let Some((reference, file)) = parts else {
            bail!("--material {text}: must be secret/NAME/KEY=FILE or configmap/NAME/KEY=FILE");
        };
        let value = std::fs::read_to_string(file).with_context(|| format!("--material {text}"))?;
        given.insert(reference, value);
    }
    Ok(given)
}

fn parse(text: &str) -> Option<Reference> {
    let (kind, rest) = text.split_once('/')?;
    let (name, key) = rest.split_once('/')?;
    let (name, key) = (name.to_owned(), key.to_owned());
    match kind {
        "secret" => Some(Reference::SecretKey { name, key }),
        "configmap" => Some(Reference::ConfigMapKey { name, key }),
        _ => None,
    }
}

/// All that a spec refers to, as far as it can be found.
pub(super) async fn gather(spec: &ClusterEndpointSpec, namespace: &str, sources: &Sources<'_>) -> Gathered {
    let mut gathered = Gathered::default();
    for wanted in references(spec) {
        let reference = wanted.reference;
        let found = match sources.given.get(&reference) {
            _ if in_documents(sources.documents, &reference, namespace).is_some() => {
                in_documents(sources.documents, &reference, namespace)
            }
            Some(value) => Some(Ok(value.clone())),
            None => None,
        };
        let found = match found {
            Some(found) => found,
            None => in_cluster(sources, &reference, namespace).await,
        };
        match found {
            Ok(value) => {
                gathered.materials.insert(reference, Ok(Text::new(value)));
            }
            Err(why) => {
                let (kind, word, name, key) = parts(&reference);
                gathered.missing.insert(
                    reference.clone(),
                    format!(
                        "{kind} {name}, key {key}: {why}; give it with --material {word}/{name}/{key}=FILE"
                    ),
                );
                gathered.materials.insert(reference, Err(Absent::Object));
            }
        }
    }
    gathered
}

fn parts(reference: &Reference) -> (&'static str, &'static str, &str, &str) {
    match reference {
        Reference::SecretKey { name, key } => ("Secret", "secret", name, key),
        Reference::ConfigMapKey { name, key } => ("ConfigMap", "configmap", name, key),
    }
}

/// `None`: no such object among the documents.
fn in_documents(
    documents: &[Document],
    reference: &Reference,
    namespace: &str,
) -> Option<Result<String, String>> {
    let (kind, _, name, _) = parts(reference);
    let document = documents.iter().find(|document| {
        let metadata = &document.value["metadata"];
        // Files often leave the namespace to kubectl apply -n.
        let elsewhere =
            metadata["namespace"].as_str().is_some_and(|ns| !namespace.is_empty() && ns != namespace);
        document.is("", kind) && metadata["name"] == name && !elsewhere
    })?;
    let value = match reference {
        Reference::SecretKey { key, .. } => document.parse().map(|secret| of_secret(secret, key)),
        Reference::ConfigMapKey { key, .. } => document.parse().map(|map| of_config_map(map, key)),
    };
    Some(value.unwrap_or_else(|error| Err(chain(error.as_ref()))))
}

async fn in_cluster(sources: &Sources<'_>, reference: &Reference, namespace: &str) -> Result<String, String> {
    let connected;
    let cluster = match sources.cluster {
        Some(cluster) => cluster,
        None => {
            connected = Cluster::connect(sources.global).await.map_err(|error| chain(error.as_ref()))?;
            &connected
        }
    };
    let within = if namespace.is_empty() { cluster.clone() } else { cluster.within(namespace) };
    let failed = |error| chain(api_error(error, "reading it from the cluster").as_ref());
    let absent = || format!("there is none in namespace {} of the cluster", within.namespace);
    match reference {
        Reference::SecretKey { name, key } => {
            let secret = within.namespaced::<Secret>().get_opt(name).await.map_err(failed)?;
            of_secret(secret.ok_or_else(absent)?, key)
        }
        Reference::ConfigMapKey { name, key } => {
            let map = within.namespaced::<ConfigMap>().get_opt(name).await.map_err(failed)?;
            of_config_map(map.ok_or_else(absent)?, key)
        }
    }
}

const NO_KEY: &str = "it has no such key";
const NO_TEXT: &str = "the value is not text";

fn of_secret(secret: Secret, key: &str) -> Result<String, String> {
    if let Some(text) = secret.string_data.as_ref().and_then(|data| data.get(key)) {
        return Ok(text.clone());
    }
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).ok_or(NO_KEY)?;
    String::from_utf8(bytes.0.clone()).map_err(|_| NO_TEXT.to_owned())
}

fn of_config_map(map: ConfigMap, key: &str) -> Result<String, String> {
    map.data.as_ref().and_then(|data| data.get(key)).cloned().ok_or_else(|| NO_KEY.to_owned())
}
