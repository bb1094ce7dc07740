//! The connection to the cluster.

use std::time::Duration;

use anyhow::{Context, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;

use super::cli::Global;
use super::output::chain;

const NO_CONTEXT: &str = "the kubeconfig cannot be used; see kubectl config get-contexts";

/// A client and the namespace to work in.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
}

impl Cluster {
    /// Connects as the flags and the environment say. Nothing is sent yet.
    ///
    /// # Errors
    /// No usable configuration.
    pub(super) async fn connect(global: &Global) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &global.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path)
                    .with_context(|| format!("kubeconfig {} cannot be used", path.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.context(NO_CONTEXT)?
            }
            None if global.context.is_some() => {
                Config::from_kubeconfig(&options).await.context(NO_CONTEXT)?
            }
            None => Config::infer().await.context(
                "no cluster to talk to; set --kubeconfig or KUBECONFIG (convert, migrate and probe also work \
                 on files alone, with -f)",
            )?,
        };
        config.connect_timeout = Some(Duration::from_secs(10));
        config.read_timeout = Some(Duration::from_secs(60));
        let namespace = global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config)?, namespace })
    }

    /// Objects of a type in the namespace.
    pub(super) fn namespaced<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Objects of a type, in the namespace or everywhere.
    pub(super) fn scoped<K>(&self, all_namespaces: bool) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        if all_namespaces { Api::all(self.client.clone()) } else { self.namespaced() }
    }

    /// The same cluster, another namespace.
    pub(super) fn within(&self, namespace: &str) -> Self {
        Self { client: self.client.clone(), namespace: namespace.to_owned() }
    }

    /// One object by name.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub(super) async fn get<K>(&self, name: &str) -> anyhow::Result<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let what = format!("{} {}/{name}", K::kind(&()), self.namespace);
        self.namespaced::<K>()
            .get_opt(name)
            .await
            .map_err(|error| api_error(error, &what))?
            .ok_or_else(|| anyhow!("{what} does not exist; look with kubectl get {} -A", K::plural(&())))
    }
}

/// An error of the API server with what was asked of it and, where it is known, what to do.
pub(super) fn api_error(error: kube::Error, what: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow!("{what}: {}", in_words(&status)),
        kube::Error::Service(cause) => {
            anyhow!("{what}: the API server cannot be reached: {}", chain(cause.as_ref()))
        }
        other => anyhow::Error::new(other).context(what.to_owned()),
    }
}

fn in_words(status: &Status) -> String {
    match status.code {
        401 => format!("the API server does not know you; log in again ({})", status.message),
        403 => format!("not allowed: {}", status.message),
        // An unknown resource has no details: the API server says "404 page not found".
        404 if status.details.as_ref().is_none_or(|details| details.name.is_empty()) => {
            "the cluster does not know this kind; install the CRDs of endpoints-operator first".to_owned()
        }
        _ => status.message.clone(),
    }
}
