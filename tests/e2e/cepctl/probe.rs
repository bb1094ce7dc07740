//! `cepctl probe` from where the operator stands.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::cluster::Host;
use testbed::pki::Authority;
use testbed::{Behaviour, Cluster, Dns, Response, Server, Tls, eventually};

use super::{Files, Ran, command, program, run, run_with};
use crate::stage::{SOON, Stage};

const CEP: &str = r#"
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: web, namespace: default}
spec:
  hosts: [172.18.191.11, 172.18.191.12, 172.18.191.13]
  ports:
  - {name: tcp, port: 80, targetPort: 8080, timeoutSeconds: 1, tcpSocket: {enable: true}}
  - {name: http, port: 81, targetPort: 8080, timeoutSeconds: 1, httpGet: {path: /healthz}}
  - name: https
    port: 443
    hosts: [172.18.191.11]
    httpGet: {scheme: HTTPS}
    tls: {serverName: web.example.test, caFrom: {configMapKeyRef: {name: web-ca, key: ca.crt}}}
  - {name: named, port: 82, targetPort: 8080, hosts: [web.example.test], tcpSocket: {enable: true}}
  - {name: free, port: 83, hosts: [172.18.191.11]}
"#;

/// One that answers, one that refuses, one whose web server hangs.
struct Town {
    _hosts: [Host; 3],
    _servers: Vec<Server>,
    from: Host,
    dns: Dns,
    authority: Authority,
}

impl Town {
    async fn new(cluster: &Cluster) -> Result<Self> {
        // On the one in the middle nothing listens but the name server.
        let hosts =
            [cluster.host("172.18.191.11")?, cluster.host("172.18.191.12")?, cluster.host("172.18.191.13")?];
        let [good, dead, hung] = &hosts;
        let authority = Authority::new("web")?;
        let tls = Tls::new(&authority.server(&["web.example.test"])?)?;
        let servers = vec![
            Server::http(good.netns(), good.socket(8080), Response::ok("hello")).await?,
            Server::https(good.netns(), good.socket(443), tls, Response::ok("secret")).await?,
            Server::start_new(hung.netns(), hung.socket(8080), Behaviour::Silent, None).await?,
        ];
        let from = cluster.operator_host()?;
        let dns = Dns::start(dead.netns(), dead.socket(53)).await?;
        dns.set("web.example.test", &["172.18.191.11", "172.18.191.12"], 60);
        Ok(Self { _servers: servers, _hosts: hosts.clone(), from, dns, authority })
    }

    /// `cepctl ARGS` on the operator's host, which asks the town's name server.
    async fn cepctl(&self, files: &Files, args: &[&str], kubeconfig: Option<&Path>) -> Result<Ran> {
        let resolver = files.write("resolv.conf", &format!("nameserver {}\n", self.dns.address().ip()))?;
        let over = [(Path::new(&resolver), Path::new("/etc/resolv.conf"))];
        let mut command = self.from.netns().command_over(program()?, &over);
        command.args(args).env("HOME", "/nonexistent").env_remove("KUBECONFIG");
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        run(command).await
    }
}

/// What was found out about a host of a port.
fn outcome<'a>(report: &'a Value, port: &str, address: &str) -> Result<&'a Value> {
    let endpoints = report["items"][0]["endpoints"].as_array().context("no endpoints")?;
    let found = endpoints.iter().find(|endpoint| endpoint["port"] == port && endpoint["address"] == address);
    found.with_context(|| format!("{address} of {port} is not in {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_from_the_operators_host_say_what_the_operator_would_find() -> Result<()> {
    let stage = Stage::on(Cluster::builder().proxy(false).start().await?).await?;
    let cluster = &stage.cluster;
    let (town, files) = (Town::new(cluster).await?, Files::new()?);
    let file = files.write("cep.yaml", CEP)?;
    let ca = files.write("ca.pem", town.authority.certificate())?;
    let material = format!("configmap/web-ca/ca.crt={ca}");
    let args = ["probe", "-f", &file, "--material", &material];

    let people = town.cepctl(&files, &args, None).await?.expect(3)?;
    println!("{}", people.stdout);
    for (row, words) in [
        ("tcp 172.18.191.11", &["172.18.191.11:8080 tcp success"][..]),
        ("tcp 172.18.191.12", &["failure", "ConnectionRefused"]),
        ("tcp 172.18.191.13", &["success"]),
        ("http 172.18.191.11", &["http success"]),
        ("http 172.18.191.13", &["failure", "ResponseTimeout"]),
        ("https 172.18.191.11", &["https success"]),
        ("named web.example.test 172.18.191.11:8080", &["success"]),
        ("named web.example.test 172.18.191.12:8080", &["failure", "ConnectionRefused"]),
        ("free 172.18.191.11", &["none not probed"]),
    ] {
        let mut lines =
            people.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let line = lines
            .find(|line| line.starts_with(&format!("{row} ")))
            .with_context(|| format!("{row}: {people:?}"))?;
        ensure!(words.iter().all(|word| line.contains(word)), "{line}: {words:?}");
    }
    let header: Vec<&str> = people.stdout.lines().next().unwrap_or_default().split("  ").collect();
    for phase in ["DNS", "CONNECT", "TLS", "FIRST BYTE", "TIME"] {
        ensure!(header.iter().any(|title| title.trim() == phase), "no column {phase}: {header:?}");
    }
    ensure!(people.stdout.ends_with("5 of 9 endpoints answered as their checks expect\n"), "{people:?}");
    ensure!(people.stderr.is_empty() && !people.stdout.contains('\x1b'), "{people:?}");

    for_programs(&town, &files, &args).await?;
    what_keeps_from_probing(&town, &files, cluster).await?;
    in_the_cluster(&stage, &town, &files).await
}

/// The same as JSON, with the phases of each run.
async fn for_programs(town: &Town, files: &Files, args: &[&str]) -> Result<()> {
    let report = town.cepctl(files, &[args, &["-o", "json"]].concat(), None).await?.expect(3)?.json()?;
    let at_least = |endpoint: &Value, phase: &str, least: f64| -> Result<f64> {
        let took = endpoint["runs"][0][phase].as_f64().with_context(|| format!("no {phase}: {endpoint}"))?;
        ensure!(took >= least && took < 5000.0, "{phase} {took}: {endpoint}");
        Ok(took)
    };
    let refused = outcome(&report, "tcp", "172.18.191.12")?;
    ensure!(refused["outcome"] == "failure" && refused["reason"] == "ConnectionRefused", "{refused}");
    ensure!(refused["runs"][0].get("connectMs").is_none(), "it never connected: {refused}");
    let hung = outcome(&report, "http", "172.18.191.13")?;
    ensure!(hung["outcome"] == "failure" && hung["reason"] == "ResponseTimeout", "{hung}");
    // The timeout is a second, all of it spent on waiting for the first byte.
    ensure!(at_least(hung, "durationMs", 900.0)? - at_least(hung, "connectMs", 0.0)? > 500.0, "{hung}");
    ensure!(hung["runs"][0].get("firstByteMs").is_none(), "{hung}");
    let secure = outcome(&report, "https", "172.18.191.11")?;
    ensure!(secure["outcome"] == "success" && secure["reason"].is_null(), "{secure}");
    let phases = ["connectMs", "tlsMs", "firstByteMs"];
    let sum = phases.iter().map(|phase| at_least(secure, phase, 0.0)).sum::<Result<f64>>()?;
    ensure!(sum <= at_least(secure, "durationMs", 0.0)? + 0.01, "{secure}");
    let named = outcome(&report, "named", "172.18.191.11")?;
    ensure!(named["dnsMs"].is_f64() && named["host"] == "web.example.test", "{named}");

    let some =
        ["--host", "172.18.191.11", "--port", "tcp", "--repeat", "3", "--interval", "10ms", "-o", "yaml"];
    let well = town.cepctl(files, &[args, &some].concat(), None).await?.expect(0)?;
    ensure!(well.stdout.matches("outcome: success").count() == 1 + 3, "{well:?}");
    Ok(())
}

/// A spec or a file that is wrong, and hosts that must not be probed.
async fn what_keeps_from_probing(town: &Town, files: &Files, cluster: &Cluster) -> Result<()> {
    for (text, complaint) in [
        (CEP.replace("172.18.191.12", "nobody@home"), "spec.hosts[1]"),
        (CEP.replace("172.18.191.12", "127.0.0.1"), "127.0.0.1 is a loopback address"),
        (CEP.replace("sealyun.com", "sealos.io"), "cepctl migrate -f"),
        ("a: [".to_owned(), "neither YAML nor JSON"),
    ] {
        let file = files.write("wrong.yaml", &text)?;
        let ran = town.cepctl(files, &["probe", "-f", &file], None).await?.expect(1)?;
        ensure!(ran.stdout.is_empty() && ran.stderr.contains(complaint), "{complaint}: {ran:?}");
    }
    // The one port whose certificate is not at hand is Unknown; the others are probed.
    let file = files.write("cep.yaml", CEP)?;
    let ran = town.cepctl(files, &["probe", "-f", &file, "-o", "json"], None).await?.expect(3)?;
    let unknown = ran.json()?;
    let endpoints = unknown["items"][0]["endpoints"].as_array().context("no endpoints")?;
    let https: Vec<&Value> = endpoints.iter().filter(|endpoint| endpoint["port"] == "https").collect();
    ensure!(https.len() == 1 && https[0]["outcome"] == "unknown", "{unknown}");
    ensure!(https[0]["message"].as_str().is_some_and(|text| text.contains("web-ca")), "{unknown}");
    ensure!(outcome(&unknown, "tcp", "172.18.191.11")?["outcome"] == "success", "{unknown}");

    let loopback = "apiVersion: sealyun.com/v1beta1\nkind: ClusterEndpoint\nmetadata: {name: own}\nspec: {hosts: \
                    [127.0.0.1], ports: [{port: 7, tcpSocket: {enable: true}}]}\n";
    let here = Server::tcp(cluster.netns(), "127.0.0.1:7".parse()?).await?;
    let args = ["probe", "-f", "-", "--allow-target-cidr", "127.0.0.0/8"];
    run_with(command(cluster.netns(), &args)?, Some(loopback)).await?.expect(0)?;
    eventually(SOON, "no connection is left open", async || {
        ensure!(here.open_connections() == 0, "{} are", here.open_connections());
        Ok(())
    })
    .await
}

/// By name, with the ConfigMap read from the cluster too.
async fn in_the_cluster(stage: &Stage, town: &Town, files: &Files) -> Result<()> {
    let cluster = &stage.cluster;
    cluster.apply(CEP).await?;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web-ca"},
        "data": {"ca.crt": town.authority.certificate()},
    });
    cluster.apply(&map.to_string()).await?;
    let kubeconfig = cluster.kubeconfig();
    let one = ["probe", "web", "--port", "443"];
    let ran = town.cepctl(files, &one, Some(&kubeconfig)).await?.expect(0)?;
    ensure!(ran.stdout.contains("1 of 1 endpoints"), "{ran:?}");
    let ran = town.cepctl(files, &["probe", "nothing"], Some(&kubeconfig)).await?.expect(1)?;
    ensure!(ran.stderr.contains("ClusterEndpoint default/nothing does not exist"), "{ran:?}");
    let ran = town.cepctl(files, &["probe", "web"], None).await?.expect(1)?;
    ensure!(ran.stderr.contains("no cluster to talk to"), "{ran:?}");
    Ok(())
}
