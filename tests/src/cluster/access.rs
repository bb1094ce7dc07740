//! Who may talk to the API server: kubeconfig files, further users, ServiceAccounts.

use std::path::PathBuf;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use super::Cluster;
use crate::pki::Authority;

/// What a user shows to the API server.
pub(super) enum Credential<'a> {
    Token(&'a str),
    Certificate(crate::pki::Identity),
}

/// The text of a kubeconfig for `server`, with everything in it.
pub(super) fn kubeconfig(authority: &Authority, server: &str, credential: &Credential<'_>) -> String {
    let user = match credential {
        Credential::Token(token) => serde_json::json!({ "token": token }),
        Credential::Certificate(identity) => serde_json::json!({
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        }),
    };
    let cluster = serde_json::json!({
        "server": server,
        "certificate-authority-data": STANDARD.encode(authority.certificate()),
    });
    // JSON is YAML.
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "cluster", "cluster": cluster }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "context", "context": { "cluster": "cluster", "user": "user" } }],
        "current-context": "context",
    })
    .to_string()
}

/// A client that takes its server and credential from this kubeconfig.
pub(super) async fn client(kubeconfig: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

impl Cluster {
    /// Writes a kubeconfig for a user with a client certificate. It may do nothing but what RBAC grants to
    /// the user or to a group.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn kubeconfig_of_user(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let identity = self.authority.client(user, groups)?;
        self.write_kubeconfig(user, &Credential::Certificate(identity))
    }

    /// Writes a kubeconfig for a ServiceAccount, which is made if it does not exist, with a token for a day.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn kubeconfig_of_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(name.to_owned());
        match api.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other.with_context(|| format!("making ServiceAccount {namespace}/{name}"))?),
        }
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(86_400), ..Default::default() }),
            ..Default::default()
        };
        let answer = api.create_token_request(name, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("a token for ServiceAccount {namespace}/{name}"))?;
        let token = answer.status.and_then(|status| status.token).context("the API server made no token")?;
        self.write_kubeconfig(&format!("{namespace}-{name}"), &Credential::Token(&token))
    }

    fn write_kubeconfig(&self, name: &str, credential: &Credential<'_>) -> Result<PathBuf> {
        let file = self.dir().join(format!("{}.kubeconfig", name.replace([':', '/'], "-")));
        std::fs::write(&file, kubeconfig(&self.authority, super::SERVER, credential))
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}
