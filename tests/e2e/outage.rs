//! The API server is away, forgets, is slow or refuses: probing goes on, and the slices are right afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testbed::cluster::Component;
use testbed::wait::always;
use testbed::{Cluster, Host, Server, eventually};

use crate::stage::{SOON, Seat, Stage};

fn cep(name: &str, hosts: &[&str]) -> Value {
    let port =
        json!({ "port": 80, "targetPort": 8080, "tcpSocket": { "enable": true }, "failureThreshold": 2 });
    json!({
        "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint", "metadata": { "name": name },
        "spec": { "hosts": hosts, "periodSeconds": 1, "ports": [port] },
    })
}

const ALL: [&str; 3] = ["172.18.191.215", "172.18.191.216", "172.18.191.217"];
const LEFT: [&str; 2] = ["172.18.191.215:8080", "172.18.191.217:8080"];

/// Three hosts that answer.
struct Hosts {
    hosts: Vec<Host>,
    _servers: Vec<Server>,
}

impl Hosts {
    async fn new(stage: &Stage) -> Result<Self> {
        let (mut hosts, mut servers) = (Vec::new(), Vec::new());
        for address in ALL {
            let host = stage.cluster.host(address)?;
            servers.push(Server::tcp(host.netns(), host.socket(8080)).await?);
            hosts.push(host);
        }
        Ok(Self { hosts, _servers: servers })
    }

    /// The one in the middle falls silent.
    fn kill(&self) -> Result<()> {
        self.hosts[1].drop_packets()
    }
}

fn ready_now(ready: &[String], expected: &[&str]) -> Result<()> {
    ensure!(ready == expected, "{ready:?}");
    Ok(())
}

/// What an operator has probed so far, and how late.
struct Lag {
    probes: f64,
    on_time: f64,
    nearly: f64,
    at: Instant,
}

impl Lag {
    async fn of(seat: &Seat) -> Result<Self> {
        // All of one answer, or they would not match.
        let (_, text) = seat.get("/metrics").await?;
        let of = |series: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse::<f64>().ok());
            value.with_context(|| format!("no {series}"))
        };
        let bucket = "endpoints_operator_schedule_lag_seconds_bucket";
        Ok(Self {
            probes: of("endpoints_operator_schedule_lag_seconds_count")?,
            on_time: of(&format!("{bucket}{{le=\"0.25\"}}"))?,
            nearly: of(&format!("{bucket}{{le=\"1.0\"}}"))?,
            at: Instant::now(),
        })
    }

    /// That since then about `rate` probes a second have started, and in time.
    async fn is_unaffected(&self, seat: &Seat, rate: f64, what: &str) -> Result<()> {
        let now = Self::of(seat).await?;
        let (probes, seconds) = (now.probes - self.probes, (now.at - self.at).as_secs_f64());
        let (late, very_late) = (probes - (now.on_time - self.on_time), probes - (now.nearly - self.nearly));
        println!("{what}: {probes} probes in {seconds:.1} s, {late} later than 0.25 s, {very_late} than 1 s");
        ensure!(
            probes >= 0.8 * rate * seconds,
            "{what}: {probes} probes in {seconds:.1} s, not {rate} a second"
        );
        // A busy machine makes a few late; whoever waited for the API server would be very late.
        ensure!(
            very_late == 0.0 && late <= 0.1 * probes,
            "{what}: {late} of {probes} late, {very_late} very"
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_is_away_for_30_seconds_while_a_host_dies() -> Result<()> {
    let stage = Stage::on(Cluster::builder().ipv6(false).proxy(false).start().await?).await?;
    let hosts = Hosts::new(&stage).await?;
    let seats = [stage.operator(&["--identity=one"]).await?, stage.operator(&["--identity=two"]).await?];
    stage.cluster.apply(&cep("shop", &ALL).to_string()).await?;
    stage.phase("shop", "Healthy").await?;
    for seat in &seats {
        eventually(SOON, "both know the verdicts", async || {
            let healthy = seat.metric("endpoints_operator_targets", "Healthy").await?;
            ensure!(healthy == 3.0, "{healthy} healthy targets");
            Ok(())
        })
        .await?;
    }

    let gone = Instant::now();
    stage.cluster.stop_apiserver(Signal::SIGKILL).await?;
    hosts.kill()?;
    let lags = [Lag::of(&seats[0]).await?, Lag::of(&seats[1]).await?];
    for (n, seat) in seats.iter().enumerate() {
        eventually(SOON, "both see the host die", async || {
            let unhealthy = seat.metric("endpoints_operator_targets", "Unhealthy").await?;
            ensure!(unhealthy == 1.0, "operator {n}: {unhealthy} unhealthy targets");
            Ok(())
        })
        .await?;
    }
    let rest = Duration::from_secs(30).saturating_sub(gone.elapsed());
    always(rest, "both keep running and are alive", async || {
        for seat in &seats {
            seat.process.ensure_running()?;
            let (status, body) = seat.get("/livez").await?;
            ensure!(status == 200, "/livez says {status}: {body}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    })
    .await?;
    for (lag, seat) in lags.iter().zip(&seats) {
        // The silent host takes a second to be silent, and its period is one.
        lag.is_unaffected(seat, 2.5, "without API server").await?;
        let leads = seat.metric("endpoints_operator_leader", "").await?;
        ensure!(leads == 0.0, "who cannot renew the Lease does not lead");
    }

    let right = async {
        let minute = Duration::from_secs(60);
        eventually(minute, "the slice is right", async || {
            ready_now(&stage.ready("shop").await?, &LEFT).map(|()| Instant::now())
        })
        .await
    };
    let led = async {
        let minute = Duration::from_secs(60);
        eventually(minute, "one of them leads again", async || {
            for (n, seat) in seats.iter().enumerate() {
                if seat.metric("endpoints_operator_leader", "").await? == 1.0 {
                    return Ok((n, Instant::now()));
                }
            }
            anyhow::bail!("none leads")
        })
        .await
    };
    let (started, right, led) = tokio::join!(stage.cluster.start_apiserver(), right, led);
    started?;
    let (right, (leader, led)) = (right?, led?);
    let took = right.saturating_duration_since(led);
    println!("operator {leader} leads again; the slice was right {took:?} later");
    ensure!(took < Duration::from_secs(2), "the slice was right {took:?} after operator {leader} led again");
    stage.phase("shop", "UnHealthy").await?;
    hosts.hosts[1].restore()?;
    stage.phase("shop", "Healthy").await
}

/// An operator whose way to the API server can be closed while its hosts stay in reach.
fn close_way(seat: &Seat, closed: bool) -> Result<()> {
    let rule = "chain out {\n type filter hook output priority 0;\n tcp dport 6443 reject with tcp reset\n }";
    let rules = if closed { rule } else { "" };
    seat.host
        .netns()
        .nft(&format!("add table inet way\ndelete table inet way\ntable inet way {{\n{rules}\n}}\n"))
}

/// How often the API server has been asked for a whole list of ceps since it started.
async fn lists_of_ceps(cluster: &Cluster) -> Result<f64> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let text = cluster.client().request_text(request).await?;
    let is_it = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && line.contains("resource=\"clusterendpoints\"")
            && line.contains("verb=\"LIST\"")
    };
    Ok(text.lines().filter(is_it).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_the_watches_had_lapsed_is_noticed() -> Result<()> {
    let stage = Stage::on(Cluster::builder().ipv6(false).proxy(false).start().await?).await?;
    let _hosts = Hosts::new(&stage).await?;
    let seat = stage.operator(&[]).await?;
    let names = ["kept", "edited", "remade", "unserved", "unsliced", "gone"];
    for name in names {
        stage.cluster.apply(&cep(name, &ALL).to_string()).await?;
    }
    for name in names {
        stage.phase(name, "Healthy").await?;
    }
    let only = json!({ "port": 80, "targetPort": 8081, "tcpSocket": { "enable": true } });
    let mut last = cep("gone-too", &["172.18.191.217"]);
    last["spec"]["ports"] = json!([only]);
    stage.cluster.apply(&last.to_string()).await?;
    stage.phase("gone-too", "UnHealthy").await?;
    let cluster_ip = stage.cluster_ip("unserved", 80).await?;

    let lag = Lag::of(&seat).await?;
    close_way(&seat, true)?;
    // A new API server has not the history that a watch would go on from.
    stage.cluster.stop_apiserver(Signal::SIGKILL).await?;
    stage.cluster.start_apiserver().await?;
    eventually(SOON, "the operator has noticed", async || {
        let failed = seat.process.log().matches("watch failed").count();
        ensure!(failed >= 5, "{failed} watches in its log");
        Ok(())
    })
    .await?;
    for name in ["gone", "gone-too", "remade"] {
        stage.ceps().delete(name, &DeleteParams::default()).await?;
    }
    // The garbage collector finds the new API server in its own time.
    let minutes = Duration::from_secs(120);
    eventually(minutes, "what belonged to deleted ceps is gone", async || {
        for name in ["gone", "gone-too", "remade"] {
            ensure!(stage.services().get_opt(name).await?.is_none(), "Service {name}");
            let slices = stage.listed(name).await?;
            ensure!(slices.is_empty(), "{name}: {slices:?}");
        }
        Ok(())
    })
    .await?;
    stage.cluster.apply(&cep("remade", &["172.18.191.217"]).to_string()).await?;
    stage.cluster.apply(&cep("edited", &["172.18.191.216"]).to_string()).await?;
    stage.services().delete("unserved", &DeleteParams::default()).await?;
    stage.slices().delete("unsliced.80-ipv4-0", &DeleteParams::default()).await?;
    let lists = lists_of_ceps(&stage.cluster).await?;
    // Probes of the deleted one go on; nobody has told.
    lag.is_unaffected(&seat, 4.0, "with watches broken").await?;

    close_way(&seat, false)?;
    stage.until_ready("remade", &["172.18.191.217:8080"]).await?;
    stage.until_ready("edited", &["172.18.191.216:8080"]).await?;
    let all = ["172.18.191.215:8080", "172.18.191.216:8080", "172.18.191.217:8080"];
    for name in ["kept", "unserved", "unsliced"] {
        stage.until_ready(name, &all).await?;
        stage.phase(name, "Healthy").await?;
    }
    eventually(SOON, "the Service is back with its address", async || {
        let now = stage.cluster_ip("unserved", 80).await?;
        ensure!(now == cluster_ip, "{now}, not {cluster_ip}");
        Ok(())
    })
    .await?;
    eventually(SOON, "deleted ceps are not probed any more", async || {
        let targets = seat.metric("endpoints_operator_targets", "").await?;
        ensure!(targets == 3.0, "{targets} targets");
        Ok(())
    })
    .await?;
    let lists = lists_of_ceps(&stage.cluster).await? - lists;
    ensure!(lists >= 1.0, "the watch began anew with a list, or this shows nothing");
    Ok(())
}

/// An operator that is nobody special to the API server, which can so be made to refuse it.
async fn humble(stage: &Stage, args: &[&str]) -> Result<Seat> {
    let kubeconfig = stage.cluster.kubeconfig_of_user("humble", &["operators"])?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": "humble" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "humble" }],
    });
    stage.cluster.apply(&binding.to_string()).await?;
    let rule = |verbs: &str, groups: &str, resources: &str| {
        json!({ "verbs": [verbs], "apiGroups": [groups], "resources": [resources], "namespaces": ["*"],
                "clusterScope": true })
    };
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": { "name": "humble" },
        "spec": {
            "matchingPrecedence": 10,
            "priorityLevelConfiguration": { "name": "humble" },
            "rules": [{
                "subjects": [{ "kind": "User", "user": { "name": "humble" } }],
                "resourceRules": [rule("*", "*", "*")],
            }],
        },
    });
    share(&stage.cluster, 100).await?;
    stage.cluster.apply(&schema.to_string()).await?;
    let host = stage.cluster.operator_host()?;
    let mut all = vec!["--kubeconfig", kubeconfig.to_str().context("a path")?];
    all.extend(args);
    Seat::start(&stage.cluster, host, &all)
}

/// Of what the API server can do at a time, how much is left for the humble: at 0, one request.
async fn share(cluster: &Cluster, shares: u32) -> Result<()> {
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": { "name": "humble" },
        "spec": { "type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": { "type": "Reject" },
        } },
    });
    cluster.apply(&level.to_string()).await.map(drop)
}

/// How often the API server has refused with 429.
async fn refused(cluster: &Cluster) -> Result<f64> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let text = cluster.client().request_text(request).await?;
    let is_it = |line: &&str| {
        line.starts_with("apiserver_flowcontrol_rejected_requests_total{") && line.contains("humble")
    };
    Ok(text.lines().filter(is_it).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_refuses_or_stutters_is_survived() -> Result<()> {
    let stage = Stage::on(Cluster::builder().ipv6(false).proxy(false).start().await?).await?;
    let hosts = Hosts::new(&stage).await?;
    let seat = humble(&stage, &["--lease-duration=60"]).await?;
    let names: Vec<String> = (0..20).map(|n| format!("shop-{n}")).collect();
    let list: Vec<Value> = names.iter().map(|name| cep(name, &ALL)).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": list }).to_string();
    stage.cluster.apply(&list).await?;
    for name in &names {
        stage.phase(name, "Healthy").await?;
    }
    let until_all = async |what: &str, within: Duration, expected: &[&str]| -> Result<()> {
        let begun = Instant::now();
        eventually(within, what, async || {
            for name in &names {
                let ready = stage.ready(name).await?;
                ensure!(ready == expected, "{name}: {ready:?}");
            }
            Ok(())
        })
        .await?;
        println!("{what}: {:?}", begun.elapsed());
        Ok(())
    };
    let all = ["172.18.191.215:8080", "172.18.191.216:8080", "172.18.191.217:8080"];

    // Next to nothing is let through, of sixteen requests that come at once.
    share(&stage.cluster, 0).await?;
    let lag = Lag::of(&seat).await?;
    let before = refused(&stage.cluster).await?;
    hosts.kill()?;
    until_all("right although most requests are refused", Duration::from_secs(30), &LEFT).await?;
    hosts.hosts[1].restore()?;
    until_all("and again", Duration::from_secs(30), &all).await?;
    let times = refused(&stage.cluster).await? - before;
    println!("{times} requests were refused");
    ensure!(times >= 20.0, "only {times} requests were refused");
    lag.is_unaffected(&seat, 2.5, "with 429").await?;
    share(&stage.cluster, 100).await?;

    // It hangs, answers for a moment, hangs.
    let lag = Lag::of(&seat).await?;
    hosts.kill()?;
    for _ in 0..4 {
        stage.cluster.signal(Component::Apiserver, Signal::SIGSTOP);
        let hung = Instant::now();
        always(Duration::from_millis(2500), "probing goes on", async || {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let (status, body) = seat.get("/livez").await?;
            ensure!(status == 200, "/livez says {status} after {:?}: {body}", hung.elapsed());
            Ok(())
        })
        .await?;
        stage.cluster.signal(Component::Apiserver, Signal::SIGCONT);
        always(Duration::from_millis(300), "probing goes on", async || seat.process.ensure_running()).await?;
    }
    lag.is_unaffected(&seat, 2.5, "with an API server that hangs").await?;
    until_all("right after it stuttered", Duration::from_secs(5), &LEFT).await
}
