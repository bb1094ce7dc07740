//! `cepctl explain`, also as `kubectl cep explain`.

use std::str::FromStr;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::cluster::binaries;
use testbed::{Server, eventually};

use super::{Files, cepctl, program, run};
use crate::stage::{ADMIN_PORT, SOON, Stage};

/// Long enough that the next probe is still to come when one looks.
const CEPS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: pods}
spec:
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: pods}
spec: {hosts: [172.18.191.11], ports: [{port: 80, tcpSocket: {enable: true}}]}
---
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: web}
spec:
  hosts: [172.18.191.11, 172.18.191.12]
  periodSeconds: 5
  ports: [{name: web, port: 80, targetPort: 8080, failureThreshold: 1, tcpSocket: {enable: true}}]
"#;

/// The seconds of a time in RFC 3339 since 1970.
fn seconds(time: &Value) -> Result<i64> {
    let text = time.as_str().with_context(|| format!("no time: {time}"))?;
    let time = k8s_openapi::jiff::Timestamp::from_str(text);
    Ok(time.with_context(|| text.to_owned())?.as_second())
}

fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())?)
}

/// The line of the table that begins with these words.
fn line(table: &str, words: &str) -> Result<String> {
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let found = lines.into_iter().find(|line| line.starts_with(words));
    found.with_context(|| format!("no line {words:?} in {table}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_and_condition_is_explained_with_and_without_the_operator() -> Result<()> {
    let stage = Stage::on(testbed::Cluster::builder().proxy(false).start().await?).await?;
    let cluster = &stage.cluster;
    let [good, bad] = [cluster.host("172.18.191.11")?, cluster.host("172.18.191.12")?];
    let _good = Server::tcp(good.netns(), good.socket(8080)).await?;
    let mut dies = Server::tcp(bad.netns(), bad.socket(8080)).await?;
    cluster.apply(CEPS).await?;
    let fresh = cepctl(cluster, &["explain", "web"]).await?.expect(0)?;
    ensure!(fresh.stdout.contains("the operator has not come to it yet"), "{fresh:?}");
    let operator = stage.operator(&[]).await?;
    stage.phase("web", "Healthy").await?;
    dies.stop().await;
    let died = now()?;
    stage.until_ready("web", &["172.18.191.11:8080"]).await?;

    let url = format!("http://{}", operator.host.socket(ADMIN_PORT));
    let asking = ["explain", "web", "--admin-url", &url];
    for_people(&stage, &asking).await?;
    for_programs(&stage, &asking, died).await?;
    without_the_operator(&stage, died).await?;
    conditions(&stage).await?;
    as_a_plugin(&stage, &asking).await
}

async fn for_people(stage: &Stage, asking: &[&str]) -> Result<()> {
    // While a probe is under way the next one is not due yet.
    let text = eventually(SOON, "the next probes are shown", async || {
        let ran = cepctl(&stage.cluster, asking).await?.expect(0)?;
        ensure!(ran.stdout.matches(" in ").count() >= 2, "{ran:?}");
        Ok(ran.stdout)
    })
    .await?;
    println!("{text}");
    ensure!(text.starts_with("ClusterEndpoint default/web: UnHealthy, 1/2 endpoints served\n"), "{text}");
    let header = line(&text, "PORT")?;
    ensure!(header == "PORT HOST CHECK STATE SINCE LAST PROBE NEXT PROBE WHY", "{header}");
    let good = line(&text, "web 172.18.191.11")?;
    ensure!(good.starts_with("web 172.18.191.11 tcp in ") && good.contains("success "), "{good}");
    let bad = line(&text, "web 172.18.191.12")?;
    ensure!(bad.starts_with("web 172.18.191.12 tcp out ") && bad.contains("failure "), "{bad}");
    ensure!(bad.contains("ConnectionRefused: ") && bad.contains("start the server"), "{bad}");
    ensure!(text.contains("SyncEndpointReady is False for ") && text.contains("→ "), "{text}");
    ensure!(text.contains("\nOperator ") && !text.contains("not shown"), "{text}");
    Ok(())
}

async fn for_programs(stage: &Stage, asking: &[&str], died: i64) -> Result<()> {
    let json = [asking, &["-o", "json"]].concat();
    eventually(SOON, "the next probes are told", async || {
        let asked = now()?;
        let told = cepctl(&stage.cluster, &json).await?.expect(0)?.json()?;
        ensure!(told["liveUnavailable"].is_null(), "{told}");
        let endpoints = told["items"][0]["endpoints"].as_array().context("no endpoints")?;
        ensure!(endpoints.len() == 2, "{told}");
        for endpoint in endpoints {
            let next = seconds(&endpoint["nextProbe"])?;
            ensure!((asked..=asked + 6).contains(&next), "asked at {asked}: {endpoint}");
            let last = seconds(&endpoint["lastProbe"])?;
            ensure!((asked - 6..=now()?).contains(&last), "asked at {asked}: {endpoint}");
        }
        let [good, bad] = [&endpoints[0], &endpoints[1]];
        ensure!(good["host"] == "172.18.191.11" && good["served"] == true, "{good}");
        ensure!(good["verdict"] == "Healthy" && good["reason"].is_null(), "{good}");
        ensure!(bad["host"] == "172.18.191.12" && bad["served"] == false, "{bad}");
        ensure!(bad["verdict"] == "Unhealthy" && bad["reason"] == "ConnectionRefused", "{bad}");
        let since = seconds(&bad["since"])?;
        ensure!((died..=died + 10).contains(&since), "it died at {died}: {bad}");
        Ok(())
    })
    .await
}

/// The cluster alone knows all but the times of the probes; why it knows no more is said.
async fn without_the_operator(stage: &Stage, died: i64) -> Result<()> {
    let cluster = &stage.cluster;
    let text = cepctl(cluster, &["explain", "web"]).await?.expect(0)?.stdout;
    println!("{text}");
    ensure!(text.contains("Last and next probes are not shown"), "{text}");
    ensure!(text.contains("--operator-namespace default"), "the Lease is there: {text}");
    ensure!(line(&text, "PORT")? == "PORT HOST STATE SINCE WHY", "{text}");
    ensure!(line(&text, "web 172.18.191.11")?.starts_with("web 172.18.191.11 in "), "{text}");
    let bad = line(&text, "web 172.18.191.12")?;
    ensure!(bad.starts_with("web 172.18.191.12 out ") && bad.contains("ConnectionRefused"), "{bad}");

    // With the right namespace the Pod is asked, and there is none on this bed.
    let named = ["explain", "web", "--operator-namespace", "default", "-o", "json"];
    let told = cepctl(cluster, &named).await?.expect(0)?.json()?;
    let why = told["liveUnavailable"].as_str().context("it must say why")?;
    ensure!(why.contains("Pod default/") || why.contains("not found"), "{why}");
    let bad = &told["items"][0]["endpoints"][0];
    ensure!(bad["host"] == "172.18.191.12" && bad["nextProbe"].is_null(), "{told}");
    let since = seconds(&bad["since"])?;
    ensure!((died..=died + 10).contains(&since), "it died at {died}: {bad}");

    // The host's own server takes connections and says nothing.
    for (url, why) in [
        ("http://172.18.191.11:8080", "did not answer within 12 s"),
        ("http://172.18.191.12:8080", "refused"),
    ] {
        let text = cepctl(cluster, &["explain", "web", "--admin-url", url]).await?.expect(0)?.stdout;
        ensure!(text.contains("could not be asked") && text.contains(why), "{text}");
    }
    Ok(())
}

async fn conditions(stage: &Stage) -> Result<()> {
    let cluster = &stage.cluster;
    stage.condition("pods", "SyncServiceReady", "False", "ServiceHasSelector").await?;
    let text = cepctl(cluster, &["explain", "pods"]).await?.expect(0)?.stdout;
    println!("{text}");
    ensure!(text.starts_with("ClusterEndpoint default/pods: UnHealthy"), "{text}");
    ensure!(text.contains("SyncServiceReady is False for "), "{text}");
    ensure!(text.contains(": ServiceHasSelector\n  Service pods has a selector"), "{text}");
    ensure!(text.contains("\n  → The Service of this name belongs to Pods"), "{text}");
    ensure!(!text.contains("Initialized is"), "what is as it should be needs no word: {text}");

    let all = cepctl(cluster, &["explain", "-A", "-o", "json"]).await?.expect(0)?.json()?;
    let names: Vec<_> = all["items"].as_array().context("items")?.iter().map(|cep| &cep["name"]).collect();
    ensure!(names == ["pods", "web"], "{names:?}");
    let missing = cepctl(cluster, &["explain", "nothing"]).await?.expect(1)?;
    ensure!(missing.stderr.contains("ClusterEndpoint default/nothing does not exist"), "{missing:?}");
    Ok(())
}

/// kubectl finds it in PATH under the name `kubectl-cep`.
async fn as_a_plugin(stage: &Stage, asking: &[&str]) -> Result<()> {
    let (cluster, files) = (&stage.cluster, Files::new()?);
    std::os::unix::fs::symlink(program()?, files.path().join("kubectl-cep"))?;
    let kubectl = async |args: &[&str]| {
        let mut command = cluster.netns().command(binaries::path("kubectl")?);
        command.args(args).env("KUBECONFIG", cluster.kubeconfig()).env("HOME", files.path());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", files.path().display()));
        run(command).await
    };
    let asking = [&["cep"], asking].concat();
    let text = kubectl(&asking).await?.expect(0)?.stdout;
    ensure!(line(&text, "web 172.18.191.12")?.contains("ConnectionRefused"), "{text}");
    let help = kubectl(&["cep", "explain", "--help"]).await?.expect(0)?.stdout;
    ensure!(help.contains("Usage: kubectl cep explain") && !help.contains("cepctl"), "{help}");
    let failed = kubectl(&["cep", "explain", "nothing"]).await?.expect(1)?;
    ensure!(failed.stderr.starts_with("error: ClusterEndpoint default/nothing"), "{failed:?}");
    let listed = kubectl(&["plugin", "list"]).await?.expect(0)?.stdout;
    ensure!(listed.contains("kubectl-cep"), "{listed}");
    Ok(())
}
