//! `cepctl convert`: what is hand-made becomes a ClusterEndpoint that the operator takes as it is.

use anyhow::{Context, Result, ensure};
use testbed::{Server, eventually};

use super::{Files, cepctl, command, run, run_with};
use crate::stage::{SOON, Stage};

const HOSTS: [&str; 3] = ["172.18.191.11", "172.18.191.12", "172.18.191.13"];

/// Two ports, of which the third host has one; a nameless port with slices; and what is no such thing.
const BY_HAND: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: shop
  labels: {team: payments}
spec:
  ports:
  - {name: web, port: 80, targetPort: 8080}
  - {name: api, port: 81, targetPort: 9000}
---
apiVersion: v1
kind: Endpoints
metadata: {name: shop}
subsets:
- addresses: [{ip: 172.18.191.11}, {ip: 172.18.191.12}]
  ports: [{name: web, port: 8080}, {name: api, port: 9000}]
- addresses: [{ip: 172.18.191.13}]
  ports: [{name: web, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  ports:
  - {port: 5432, targetPort: 5432}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: db-1
  labels: {kubernetes.io/service-name: db, endpointslice.kubernetes.io/managed-by: staff}
addressType: IPv4
endpoints:
- {addresses: [172.18.191.11], conditions: {ready: true}}
ports: [{port: 5432}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: db-2
  labels: {kubernetes.io/service-name: db, endpointslice.kubernetes.io/managed-by: staff}
addressType: IPv4
endpoints:
- {addresses: [172.18.191.12], conditions: {ready: false}}
ports: [{port: 5432}]
---
apiVersion: v1
kind: Service
metadata: {name: pods}
spec:
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: away}
spec:
  type: ExternalName
  externalName: away.example.org
"#;

const CEP_SHOP: &str = r#"apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata:
  name: shop
  namespace: default
spec:
  periodSeconds: 1
  ports:
  - name: web
    port: 80
    targetPort: 8080
    protocol: TCP
    hosts:
    - "172.18.191.11"
    - "172.18.191.12"
    - "172.18.191.13"
    tcpSocket:
      enable: true
  - name: api
    port: 81
    targetPort: 9000
    protocol: TCP
    hosts:
    - "172.18.191.11"
    - "172.18.191.12"
    tcpSocket:
      enable: true
"#;

const CEP_DB: &str = r#"apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata:
  name: db
  namespace: default
spec:
  hosts:
  - "172.18.191.11"
  - "172.18.191.12"
  periodSeconds: 1
  ports:
  - port: 5432
    targetPort: 5432
    protocol: TCP
    tcpSocket:
      enable: true
"#;

/// Short, so that the ClusterEndpoint is Healthy soon.
const PERIOD: [&str; 2] = ["--period-seconds", "1"];

fn convert<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["convert"], args, &PERIOD].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_for_a_hand_made_service_is_adopted_as_it_is() -> Result<()> {
    let stage = Stage::new().await?;
    let cluster = &stage.cluster;
    let mut servers = Vec::new();
    for (address, ports) in HOSTS.iter().zip([&[8080, 9000, 5432][..], &[8080, 9000, 5432], &[8080]]) {
        let host = cluster.host(address)?;
        for port in ports {
            servers.push((host.clone(), Server::tcp(host.netns(), host.socket(*port)).await?));
        }
    }
    cluster.apply(BY_HAND).await?;
    eventually(SOON, "the Endpoints are mirrored", async || {
        let listed = stage.listed("shop").await?;
        ensure!(listed.len() == 5, "{listed:?}");
        Ok(())
    })
    .await?;

    let both = cepctl(cluster, &convert(&["shop", "db"])).await?.expect(0)?;
    ensure!(both.stdout == format!("{CEP_SHOP}---\n{CEP_DB}"), "{both:?}");
    ensure!(both.stderr.is_empty(), "{both:?}");
    refusals(&stage).await?;
    from_files(&stage).await?;
    in_json(&stage).await?;

    let mut before = Vec::new();
    for name in ["shop", "db"] {
        before.push(stage.services().get(name).await?);
    }
    let _operator = stage.operator(&[]).await?;
    cluster.apply(&both.stdout).await?;
    for before in before {
        let name = before.metadata.name.context("no name")?;
        stage.phase(&name, "Healthy").await?;
        let after = stage.services().get(&name).await?;
        ensure!(after.metadata.uid == before.metadata.uid, "{name} is another Service now");
        let ips =
            |spec: Option<k8s_openapi::api::core::v1::ServiceSpec>| spec.and_then(|spec| spec.cluster_ip);
        ensure!(ips(after.spec.clone()) == ips(before.spec), "{after:?}");
    }
    stage
        .until_ready(
            "shop",
            &[
                "172.18.191.11:8080",
                "172.18.191.11:9000",
                "172.18.191.12:8080",
                "172.18.191.12:9000",
                "172.18.191.13:8080",
            ],
        )
        .await?;
    stage.until_ready("db", &["172.18.191.11:5432", "172.18.191.12:5432"]).await?;

    let again = cepctl(cluster, &convert(&["shop"])).await?.expect(1)?;
    ensure!(again.stderr.contains("already belongs to a ClusterEndpoint"), "{again:?}");
    let nothing = cepctl(cluster, &convert(&["--all"])).await?.expect(0)?;
    ensure!(nothing.stdout.is_empty() && nothing.stderr.contains("nothing to convert"), "{nothing:?}");
    Ok(())
}

/// What cannot be converted is named with what to do, and keeps nothing else from being converted.
async fn refusals(stage: &Stage) -> Result<()> {
    let cluster = &stage.cluster;
    for (name, complaints) in [
        ("pods", ["error: Service default/pods: has a selector (app=web)", "remove spec.selector"]),
        ("away", ["is of type ExternalName", "hosts: [away.example.org]"]),
        ("kubernetes", ["is the API server's own", ""]),
        ("nothing", ["Service default/nothing does not exist", "kubectl get services -A"]),
    ] {
        let refused = cepctl(cluster, &convert(&[name])).await?.expect(1)?;
        ensure!(refused.stdout.is_empty(), "{refused:?}");
        ensure!(complaints.iter().all(|complaint| refused.stderr.contains(complaint)), "{refused:?}");
    }
    let mixed = cepctl(cluster, &convert(&["pods", "db"])).await?.expect(1)?;
    ensure!(mixed.stdout == CEP_DB && mixed.stderr.lines().count() == 1, "{mixed:?}");
    let all = cepctl(cluster, &convert(&["--all"])).await?.expect(0)?;
    ensure!(all.stdout == format!("{CEP_DB}---\n{CEP_SHOP}") && all.stderr.is_empty(), "{all:?}");
    let usage = cepctl(cluster, &["convert"]).await?.expect(2)?;
    ensure!(usage.stderr.contains("Usage: cepctl convert"), "{usage:?}");
    Ok(())
}

/// What kubectl saves is as good as the cluster, without any cluster.
async fn from_files(stage: &Stage) -> Result<()> {
    let (cluster, files) = (&stage.cluster, Files::new()?);
    let save = ["get", "services,endpoints,endpointslices", "shop", "-o", "yaml", "--ignore-not-found"];
    let saved = files.write("shop.yaml", &cluster.kubectl(&save).await?)?;
    let slices = cluster.kubectl(&["get", "endpointslices", "-o", "json"]).await?;
    let slices = files.write("slices.json", &slices)?;
    let args = convert(&["-f", &saved, "-f", &slices]);
    let ran = run(command(cluster.netns(), &args)?).await?.expect(0)?;
    ensure!(ran.stdout == CEP_SHOP, "{ran:?}");
    ensure!(ran.stderr.contains("EndpointSlices of db: there is no Service db beside them"), "{ran:?}");

    let args = convert(&["-f", "-", "-n", "elsewhere"]);
    let ran = run_with(command(cluster.netns(), &args)?, Some(BY_HAND)).await?.expect(1)?;
    ensure!(ran.stdout.matches("namespace: elsewhere").count() == 2, "{ran:?}");
    ensure!(ran.stderr.contains("elsewhere/pods: has a selector"), "{ran:?}");
    Ok(())
}

/// JSON says the same.
async fn in_json(stage: &Stage) -> Result<()> {
    let cluster = &stage.cluster;
    let one = cepctl(cluster, &convert(&["db", "-o", "json"])).await?.expect(0)?.json()?;
    ensure!(one["kind"] == "ClusterEndpoint" && one["spec"]["hosts"][1] == "172.18.191.12", "{one}");
    let both = cepctl(cluster, &convert(&["db", "shop", "-o", "json"])).await?.expect(0)?;
    let list = both.json()?;
    ensure!(list["kind"] == "List" && list["items"][0] == one, "{list}");
    ensure!(list["items"][1]["spec"]["ports"][1]["hosts"].as_array().map(Vec::len) == Some(2), "{list}");
    // To the API server it is the same as the YAML: no further generation.
    cluster.apply(CEP_DB).await?;
    cluster.apply(&both.stdout).await?;
    let stored = stage.ceps().get("db").await?;
    ensure!(stored.metadata.generation == Some(1), "{stored:?}");
    Ok(())
}
