//! What a spec asks for beside probes, and what is said when it asks for what cannot be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testbed::{Behaviour, Response, Server, eventually};

use crate::stage::{SOON, Stage};

const HOST: &str = "172.18.191.60";

fn cep(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint",
        "metadata": { "name": name }, "spec": spec,
    })
}

/// One host, one port 80 with these fields, one probe a second.
fn of_port(fields: Value) -> Value {
    let mut port = json!({ "name": "web", "port": 80, "failureThreshold": 1 });
    port.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({ "hosts": [HOST], "periodSeconds": 1, "ports": [port] })
}

async fn apply(stage: &Stage, name: &str, spec: Value) -> Result<()> {
    stage.cluster.apply(&cep(name, spec).to_string()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_cannot_be_carried_out_is_told_and_the_last_good_service_stays() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.cluster.host(HOST)?;
    let _web = Server::http(host.netns(), host.socket(80), Response::ok("here")).await?;
    let _operator = stage.operator(&["--deny-target-cidr=172.18.191.66/32"]).await?;
    let refused = async |name: &str, reason: &str, texts: &[&str]| {
        let message = stage.condition(name, "ProbesReady", "False", reason).await?;
        let missing: Vec<_> = texts.iter().filter(|text| !message.contains(**text)).collect();
        ensure!(missing.is_empty(), "no {missing:?} in {message}");
        stage.condition(name, "Ready", "False", "NotReady").await?;
        stage.phase(name, "UnHealthy").await
    };

    // Kinds of probes that this version does not have: what was good before goes on.
    apply(&stage, "good", of_port(json!({ "tcpSocket": {} }))).await?;
    stage.phase("good", "Healthy").await?;
    let service = stage.services().get("good").await?;
    apply(&stage, "good", of_port(json!({ "port": 81, "targetPort": 81, "grpc": {} }))).await?;
    refused("good", "ProbeKindNotBuilt", &["spec.ports[0].grpc", "use tcpSocket or httpGet"]).await?;
    stage.until_ready("good", &["172.18.191.60:80"]).await?;
    ensure!(stage.services().get("good").await?.spec == service.spec, "the Service has changed");
    stage.condition("good", "SyncServiceReady", "True", "SyncServiceReady").await?;
    let events = stage.events("good").await?;
    ensure!(events.iter().any(|(reason, _)| reason == "ProbeKindNotBuilt"), "{events:?}");

    apply(&stage, "udp", of_port(json!({ "protocol": "UDP", "udpSocket": { "text": "ping" } }))).await?;
    refused("udp", "ProbeKindNotBuilt", &["spec.ports[0].udpSocket"]).await?;
    apply(&stage, "module", of_port(json!({ "probe": { "module": "redis" } }))).await?;
    refused("module", "ProbeKindNotBuilt", &["spec.ports[0].probe"]).await?;
    ensure!(stage.services().get_opt("module").await?.is_none(), "a Service for what never was good");

    // Addresses that nobody may have probed, each with its place and what may be done about it.
    let mut spec = of_port(json!({ "tcpSocket": {} }));
    spec["hosts"] = json!([HOST, "127.0.0.1", "::1", "::ffff:169.254.169.254", "172.18.191.1"]);
    spec["ports"][0]["hosts"] = json!(["172.18.191.66"]);
    apply(&stage, "addresses", spec).await?;
    let told = [
        "spec.hosts[1]: 127.0.0.1 is a loopback address",
        "spec.hosts[2]: ::1 is a loopback address",
        "spec.hosts[3]: ::ffff:169.254.169.254 is a link-local address",
        "remove it, or allow it by the operator's --allow-target-cidr",
        "spec.hosts[4]: 172.18.191.1 is the API server's own",
        "spec.ports[0].hosts[0]: 172.18.191.66 is the API server's own or in a range",
        "the operator's --deny-target-cidr",
    ];
    refused("addresses", "InvalidSpec", &told).await?;

    // All is well as soon as the spec is.
    apply(&stage, "good", of_port(json!({ "httpGet": {} }))).await?;
    stage.phase("good", "Healthy").await?;
    stage.condition("good", "ProbesReady", "True", "ProbesReady").await?;
    apply(&stage, "udp", of_port(json!({ "protocol": "UDP", "httpGet": {} }))).await?;
    stage.phase("udp", "Healthy").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_as_the_spec_asks() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.cluster.host(HOST)?;
    let web = Server::http(host.netns(), host.socket(80), Response::ok("here")).await?;
    let _operator = stage.operator(&[]).await?;
    let spec_of = async |name: &str| stage.services().get(name).await?.spec.context("no spec");

    // Without a probe nobody is asked, and everybody is served.
    let mut nobody = of_port(json!({}));
    nobody["hosts"] = json!(["172.18.191.251", "172.18.191.252"]);
    apply(&stage, "nobody", nobody.clone()).await?;
    nobody["ports"][0]["tcpSocket"] = json!({ "enable": false });
    apply(&stage, "disabled", nobody).await?;
    let with = |field: &str, value: &str| {
        let mut spec = of_port(json!({ "httpGet": {} }));
        spec[field] = json!(value);
        spec
    };
    apply(&stage, "headless", with("clusterIP", "None")).await?;
    apply(&stage, "fixed", with("clusterIP", "10.96.7.7")).await?;
    apply(&stage, "taken", with("clusterIP", "10.96.7.7")).await?;
    for name in ["nobody", "disabled"] {
        stage.phase(name, "Healthy").await?;
        stage.until_ready(name, &["172.18.191.251:80", "172.18.191.252:80"]).await?;
    }
    stage.phase("headless", "Healthy").await?;
    ensure!(spec_of("headless").await?.cluster_ip.as_deref() == Some("None"));
    stage.until_ready("headless", &["172.18.191.60:80"]).await?;

    // One of the two has the address, the other one is told so.
    eventually(SOON, "one of two has 10.96.7.7", async || {
        let phases = [stage.status("fixed").await?, stage.status("taken").await?];
        let told = phases.iter().filter(|s| s["phase"] == "UnHealthy").map(|s| s["conditions"].to_string());
        let told: Vec<String> = told.collect();
        ensure!(phases.iter().any(|s| s["phase"] == "Healthy"), "{phases:?}");
        ensure!(told.len() == 1 && told[0].contains("10.96.7.7"), "{told:?}");
        Ok(())
    })
    .await?;

    // Labels go along, Kubernetes' own and annotations do not, and go when they go.
    let labels = json!({
        "team": "shop", "example.org/tier": "db", "service.kubernetes.io/headless": "", "app.kubernetes.io/name": "x",
    });
    let mut labelled = cep("labelled", of_port(json!({ "httpGet": {} })));
    labelled["metadata"]["labels"] = labels;
    labelled["metadata"]["annotations"] = json!({ "example.org/note": "mine alone" });
    stage.cluster.apply(&labelled.to_string()).await?;
    stage.phase("labelled", "Healthy").await?;
    let by_hand = Patch::Merge(json!({ "metadata": { "labels": { "by": "hand" } } }));
    stage.services().patch("labelled", &PatchParams::default(), &by_hand).await?;
    copied(&stage, &[("team", "shop"), ("example.org/tier", "db")]).await?;
    let change =
        Patch::Merge(json!({ "metadata": { "labels": { "team": null, "example.org/tier": "cache" } } }));
    stage.ceps().patch("labelled", &PatchParams::default(), &change).await?;
    copied(&stage, &[("example.org/tier", "cache")]).await?;
    let none = Patch::Merge(json!({ "metadata": { "labels": null } }));
    stage.ceps().patch("labelled", &PatchParams::default(), &none).await?;
    copied(&stage, &[]).await?;
    let service = stage.services().get("labelled").await?;
    ensure!(service.labels().get("by").map(String::as_str) == Some("hand"), "{:?}", service.labels());
    ensure!(web.requests() > 0);
    Ok(())
}

/// Waits until Service and slices of `labelled` carry exactly these labels besides what they have anyway.
async fn copied(stage: &Stage, expected: &[(&str, &str)]) -> Result<()> {
    let expected: BTreeMap<_, _> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let others = ["by", "kubernetes.io/service-name", "endpointslice.kubernetes.io/managed-by"];
    let rest = |labels: &BTreeMap<String, String>| {
        let rest = labels.iter().filter(|(key, _)| !others.contains(&key.as_str()));
        rest.map(|(key, value)| (key.clone(), value.clone())).collect::<BTreeMap<_, _>>()
    };
    eventually(SOON, &format!("labels {expected:?}"), async || {
        let service = stage.services().get("labelled").await?;
        ensure!(rest(service.labels()) == expected, "Service: {:?}", service.labels());
        ensure!(!service.annotations().contains_key("example.org/note"), "{:?}", service.annotations());
        let slices = stage.slices().list(&Default::default()).await?;
        let mut ours = slices.iter().filter(|s| s.name_any().starts_with("labelled.")).peekable();
        ensure!(ours.peek().is_some(), "no slices");
        for slice in ours {
            ensure!(rest(slice.labels()) == expected, "slice: {:?}", slice.labels());
            ensure!(!slice.annotations().contains_key("example.org/note"), "{:?}", slice.annotations());
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_panic_threshold_all_are_served() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.cluster.host(HOST)?;
    let addresses = ["172.18.191.60", "172.18.191.61", "172.18.191.62", "172.18.191.63"];
    let mut servers = Vec::new();
    for address in addresses {
        if address != HOST {
            host.add_address(address.parse()?)?;
        }
        let at = format!("{address}:80").parse()?;
        servers.push(Server::http(host.netns(), at, Response::ok("here")).await?);
    }
    let _operator = stage.operator(&[]).await?;
    let mut spec = of_port(json!({ "httpGet": {} }));
    spec["hosts"] = json!(addresses);
    spec["panicThreshold"] = json!(50);
    apply(&stage, "shop", spec).await?;
    let ready = async |numbers: &[usize]| {
        let expected: Vec<_> = numbers.iter().map(|n| format!("{}:80", addresses[*n])).collect();
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        stage.until_ready("shop", &expected).await
    };
    let warned = async |expected: bool| {
        eventually(SOON, &format!("a warning: {expected}"), async || {
            let message = stage.condition("shop", "SyncServiceReady", "True", "SyncServiceReady").await?;
            ensure!(message.contains("port web is below its panicThreshold") == expected, "{message}");
            Ok(())
        })
        .await
    };
    ready(&[0, 1, 2, 3]).await?;
    let sick = Behaviour::Http(Response::status(503));
    let well = Behaviour::Http(Response::ok("here"));
    servers[0].set(sick.clone());
    ready(&[1, 2, 3]).await?;
    servers[1].set(sick.clone());
    ready(&[2, 3]).await?;
    warned(false).await?;
    servers[2].set(sick);
    ready(&[0, 1, 2, 3]).await?;
    warned(true).await?;
    stage.phase("shop", "UnHealthy").await?;
    let status = stage.status("shop").await?;
    let unhealthy = status["endpoints"].as_array().context("no endpoints")?;
    ensure!(unhealthy.iter().filter(|e| e["verdict"] == "Unhealthy").count() == 3, "{status}");
    ensure!(status["ready"] == "4/4", "{status}");
    servers[1].set(well);
    ready(&[1, 3]).await?;
    warned(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_in_doubt_is_asked_more_often() -> Result<()> {
    const PERIOD: u64 = 10;
    let stage = Stage::new().await?;
    let host = stage.cluster.host(HOST)?;
    let web = Server::http(host.netns(), host.socket(80), Response::ok("here")).await?;
    let _operator = stage.operator(&[]).await?;
    let mut spec = of_port(json!({ "httpGet": {}, "failureThreshold": 4, "successThreshold": 3 }));
    spec["periodSeconds"] = json!(PERIOD);
    spec["retryPeriodSeconds"] = json!(1);
    apply(&stage, "shop", spec).await?;
    stage.phase("shop", "Healthy").await?;

    for (behaviour, ready, probes) in [
        (Behaviour::Http(Response::status(503)), vec![], 4),
        (Behaviour::Http(Response::ok("here")), vec!["172.18.191.60:80"], 3),
    ] {
        web.set(behaviour);
        let before = web.requests();
        web.next_hit(2 * Duration::from_secs(PERIOD)).await?;
        let first = Instant::now();
        eventually(4 * SOON, &format!("{ready:?} are ready"), async || {
            let now = stage.ready("shop").await?;
            ensure!(now == ready, "{now:?}");
            Ok(())
        })
        .await?;
        // As many probes as the threshold says, a second apart; by the period alone they would take 30 and
        // 20 seconds. The next one follows a period later.
        let (took, asked) = (first.elapsed(), web.requests() - before);
        println!("{asked} probes in {took:?}");
        ensure!(asked == probes, "{asked} probes");
        let least = Duration::from_millis(900) * u32::try_from(probes - 1)?;
        ensure!(took >= least && took < Duration::from_secs(PERIOD), "{took:?}");
    }
    Ok(())
}
