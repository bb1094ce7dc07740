//! The manifest of 2022, unchanged.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::{Response, Server, eventually};

use crate::stage::{Stage, WORDPRESS};

#[tokio::test(flavor = "multi_thread")]
async fn the_published_manifest_applies_unchanged_and_follows_its_host() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.cluster.host("172.18.191.215")?;
    let mut web = Server::http(host.netns(), host.socket(80), Response::ok("hello")).await?;
    let _operator = stage.operator(&[]).await?;
    stage.cluster.apply(WORDPRESS).await?;
    stage.phase("wordpress", "Healthy").await?;

    for (type_, reason) in [
        ("Initialized", "Initialized"),
        ("SyncServiceReady", "SyncServiceReady"),
        ("SyncEndpointReady", "SyncEndpointReady"),
        ("ProbesReady", "ProbesReady"),
        ("Ready", "Ready"),
    ] {
        stage.condition("wordpress", type_, "True", reason).await?;
    }
    let service = stage.services().get("wordpress").await?;
    let ports = service.spec.context("no spec")?.ports.context("no ports")?;
    let ports: Vec<_> = ports.iter().map(|p| (p.name.as_deref().unwrap_or(""), p.port)).collect();
    ensure!(ports == [("https", 38082), ("http", 38081)], "{ports:?}");
    stage.until_ready("wordpress", &["172.18.191.215:80", "172.18.191.215:80"]).await?;

    let table = stage.cluster.kubectl(&["get", "cep"]).await?;
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(header == ["NAME", "AGE", "STATUS"], "{table}");
    ensure!(table.contains("Healthy"), "{table}");
    let wide = stage.cluster.kubectl(&["get", "cep", "-o", "wide"]).await?;
    let header: Vec<&str> = wide.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(header == ["NAME", "AGE", "STATUS", "READY", "REASON"] && wide.contains("2/2"), "{wide}");
    let endpoints = stage.cluster.kubectl(&["get", "ep", "wordpress"]).await?;
    ensure!(endpoints.contains("172.18.191.215:80,172.18.191.215:80"), "{endpoints}");

    web.stop().await;
    let minute = Duration::from_secs(60);
    eventually(minute, "both ports leave the ready set", async || {
        let ready = stage.ready("wordpress").await?;
        ensure!(ready.is_empty(), "{ready:?}");
        Ok(())
    })
    .await?;
    stage.phase("wordpress", "UnHealthy").await?;
    let listed = stage.listed("wordpress").await?;
    ensure!(listed.len() == 2 && listed.iter().all(|(_, ready)| !ready), "{listed:?}");
    let endpoints = stage.endpoints().get("wordpress").await?;
    let subset = endpoints.subsets.unwrap_or_default();
    ensure!(subset.iter().all(|s| s.addresses.is_none() && s.not_ready_addresses.is_some()), "{subset:?}");
    let message = stage.condition("wordpress", "SyncEndpointReady", "False", "EndpointSyncPortError").await?;
    ensure!(message.contains("172.18.191.215") && message.contains("connection refused"), "{message}");

    web.start().await?;
    stage.phase("wordpress", "Healthy").await?;
    stage.until_ready("wordpress", &["172.18.191.215:80", "172.18.191.215:80"]).await
}
