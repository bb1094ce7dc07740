//! What happens, act by act.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use testbed::{Cluster, Host, Relay, Traffic, eventually, process};

use crate::narrator::Narrator;
use crate::operator::Operator;
use crate::web_server::WebServer;

const WORDPRESS: &str = include_str!("../wordpress.yaml");
const SHOP: &str = include_str!("shop.yaml");

const SOON: Duration = Duration::from_secs(20);
/// kube-proxy writes its rules at most this often, so a change of a slice may take as long to work.
const PROXY_SYNC: Duration = Duration::from_secs(1);

/// The slices of shop, host by host.
const SLICES_OF_SHOP: &str = "get endpointslices -l kubernetes.io/service-name=shop \
    -o custom-columns='NAME:.metadata.name,ADDRESSES:.endpoints[*].addresses[0],READY:.endpoints[*].conditions.ready'";
/// Its Events.
const EVENTS_OF_SHOP: &str = "get events --field-selector involvedObject.name=shop \
    -o custom-columns=REASON:.reason,MESSAGE:.message";

/// Everything that plays a part.
pub(crate) struct Stage {
    pub(crate) operator: Operator,
    servers: Vec<WebServer>,
    client: Host,
    page: Option<Relay>,
    cluster: Cluster,
}

impl Stage {
    /// Acts one to three: what there is before the first ClusterEndpoint.
    pub(crate) async fn set_up(narrator: &mut Narrator) -> Result<Self> {
        narrator.heading("A control plane");
        let begun = Instant::now();
        let cluster = Cluster::builder().start().await?;
        let version: serde_json::Value =
            serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/version"]).await?)?;
        let version = version["gitVersion"].as_str().context("the API server's version")?.to_owned();
        narrator.say(&format!(
            "etcd, kube-apiserver {version}, kube-controller-manager and kube-proxy (nftables) run; they were \
             ready after {:.1} s. The cluster has no Pods at all.",
            begun.elapsed().as_secs_f64()
        ));

        narrator.heading("Three web servers outside of it");
        narrator.say("Each is an nginx on a host of its own, and answers with the address of its host:");
        let mut servers = Vec::new();
        for address in ["172.18.191.215", "172.18.191.216", "172.18.191.217"] {
            servers.push(WebServer::start(cluster.host(address)?).await?);
        }
        let client = cluster.host("172.18.191.100")?;
        for server in &servers {
            let url = format!("http://{}/", server.host.ip());
            narrator.command(&format!("curl {url}    # nginx, pid {}", server.pid()));
            let answer = curl(client.netns().command("curl"), &url).await?;
            ensure!(answer.contains(&server.host.ip().to_string()), "another server has answered");
            narrator.output(&answer);
        }

        narrator.heading("The operator");
        narrator.say(
            "The cluster learns the kind ClusterEndpoint (short: cep) from a CustomResourceDefinition. The \
             operator runs beside the cluster, as it would in a Pod, and needs nothing but a kubeconfig:",
        );
        narrator.kubectl(&cluster, "apply -f crds/").await?;
        let established = "--for=condition=Established";
        cluster.kubectl(&["wait", established, "crd/clusterendpoints.sealyun.com", "--timeout=20s"]).await?;
        // Its storage may take a moment longer.
        cluster.kubectl(&["get", "cep"]).await?;
        let operator = Operator::start(&cluster).await?;
        narrator.command(&format!("endpoints-operator run &    # on {}", operator.host.ip()));
        narrator.output(&first_words(&operator));
        Ok(Self { operator, servers, client, page: None, cluster })
    }

    /// Acts four to seven.
    pub(crate) async fn play(&mut self, narrator: &mut Narrator) -> Result<()> {
        self.show_the_published_manifest(narrator).await?;
        self.show_three_hosts(narrator).await?;
        self.kill_a_server(narrator).await?;
        self.bring_it_back(narrator).await
    }

    async fn show_the_published_manifest(&self, narrator: &mut Narrator) -> Result<()> {
        narrator.heading("A first ClusterEndpoint");
        narrator.say(
            "The manifest that the operator of 2022 published, unchanged: one host, two ports, one probed by \
             opening a TCP connection, the other by an HTTP request.",
        );
        narrator.command("cat tests/wordpress.yaml");
        narrator.output(WORDPRESS);
        narrator.kubectl(&self.cluster, "apply -f tests/wordpress.yaml").await?;
        self.until_phase("wordpress", "Healthy", SOON).await?;
        let shown = narrator.kubectl(&self.cluster, "get cep,svc,ep,endpointslices").await?;
        for expected in ["38082/TCP,38081/TCP", "172.18.191.215:80,172.18.191.215:80", "Healthy"] {
            ensure!(shown.contains(expected), "{expected:?} is missing above");
        }
        narrator.say(
            "The first probe of a host decides at once. The Service has both ports, and a slice for each of \
             them, for a host may be well on one port and not on another.",
        );
        for port in [38082, 38081] {
            let at = self.cluster_ip("wordpress", port).await?;
            eventually(SOON, "the ClusterIP answers", async || {
                let (status, body) = self.client.netns().http_get(at, "/").await?;
                ensure!(status == 200 && body.contains("172.18.191.215"), "{status} {body}");
                Ok(())
            })
            .await?;
            narrator.checked(&format!("through the ClusterIP, http://{at}/ says hello from 172.18.191.215"));
        }
        Ok(())
    }

    async fn show_three_hosts(&self, narrator: &mut Narrator) -> Result<()> {
        narrator.heading("Three hosts behind one Service");
        narrator.say("A second one, with all three servers and a quicker beat:");
        narrator.command("cat tests/demo/shop.yaml");
        narrator.output(SHOP);
        narrator.kubectl(&self.cluster, "apply -f tests/demo/shop.yaml").await?;
        self.until_phase("shop", "Healthy", SOON).await?;
        narrator.kubectl(&self.cluster, "get cep -o wide").await?;
        let shown = narrator.kubectl(&self.cluster, SLICES_OF_SHOP).await?;
        ensure!(shown.contains("true,true,true"), "not all three hosts are ready above");
        Ok(())
    }

    async fn kill_a_server(&mut self, narrator: &mut Narrator) -> Result<()> {
        narrator.heading("A server dies");
        let at = self.cluster_ip("shop", 80).await?;
        narrator.say(&format!(
            "A client on {} asks for http://{}/, the ClusterIP of shop, every 10 ms, each time on a new \
             connection. Then the nginx on 172.18.191.215 gets SIGKILL.",
            self.client.ip(),
            at.ip()
        ));
        self.until_all_answer(at).await?;
        let traffic =
            Traffic::get(self.client.netns(), at, "/", Duration::from_millis(10), Duration::from_secs(1));
        let begun = Instant::now();
        self.let_flow(&traffic, begun, 200).await?;
        let pid = self.servers[0].pid();
        let killed = Instant::now();
        self.servers[0].kill().await?;
        narrator.command(&format!("kill -KILL {pid}"));
        let written = self.until_out("shop", "172.18.191.215", SOON).await?;
        narrator.output(&format!(
            "{:.1} s later three probes in a row have failed, and the slice is written.",
            (written - killed).as_secs_f64()
        ));
        self.let_flow(&traffic, written + PROXY_SYNC, 200).await?;
        let ended = Instant::now();
        let tally = traffic.stop();

        self.until_phase("shop", "UnHealthy", SOON).await?;
        narrator.kubectl(&self.cluster, "get cep shop -o wide").await?;
        let shown = narrator.kubectl(&self.cluster, SLICES_OF_SHOP).await?;
        ensure!(shown.contains("false,true,true"), "the dead host is not the only one out above");
        eventually(SOON, "an Event tells of it", async || {
            let events = self.cluster.kubectl(&EVENTS_OF_SHOP.split_whitespace().collect::<Vec<_>>()).await?;
            ensure!(events.contains("HostUnhealthy"), "{events}");
            Ok(())
        })
        .await?;
        narrator.kubectl(&self.cluster, EVENTS_OF_SHOP).await?;

        narrator.say("And what the client saw:");
        let spans = [
            ("before the kill", begun, killed),
            ("from the kill until the slice was written", killed, written),
            ("in the second after that (*)", written, written + PROXY_SYNC),
            ("later", written + PROXY_SYNC, ended),
        ];
        let mut table = format!("{:<44}{:>8}{:>8}\n", "", "requests", "failed");
        for (what, from, to) in spans {
            let span = tally.between(from, to);
            table += &format!("{what:<44}{:>8}{:>8}\n", span.total(), span.failures());
        }
        narrator.table(&table);
        narrator.say(
            "(*) kube-proxy writes its rules at most once a second. The operator stands in no packet's way: \
             it only says who is ready.",
        );
        ensure!(tally.failures_between(begun, killed) == 0, "requests failed before the kill");
        ensure!(tally.failures_between(killed, written) > 0, "nobody noticed the kill, so nothing was shown");
        let late = tally.failures_between(written + PROXY_SYNC, ended);
        ensure!(late == 0, "{late} requests failed after kube-proxy must have known");
        narrator
            .checked("requests failed only between the kill and the slice, or within kube-proxy's second");
        Ok(())
    }

    async fn bring_it_back(&mut self, narrator: &mut Narrator) -> Result<()> {
        narrator.heading("The only host of a Service");
        narrator.say(
            "The first ClusterEndpoint lists the same host, and keeps its own time: a probe every 10 s, and \
             three must fail. Then its Service has no ready endpoint any more.",
        );
        self.until_phase("wordpress", "UnHealthy", Duration::from_secs(45)).await?;
        self.until_out("wordpress", "172.18.191.215", SOON).await?;
        let shown = narrator.kubectl(&self.cluster, "get cep,ep,endpointslices").await?;
        ensure!(shown.matches("UnHealthy").count() == 2, "both should be UnHealthy above");
        let why =
            "get cep wordpress -o jsonpath='{.status.conditions[?(@.type==\"SyncEndpointReady\")].message}'";
        let shown = narrator.kubectl(&self.cluster, why).await?;
        ensure!(shown.contains("connection refused"), "the condition does not say why");
        let at = self.cluster_ip("wordpress", 38081).await?;
        eventually(SOON, "the ClusterIP stops answering", async || {
            let answer = self.client.netns().http_get(at, "/").await;
            ensure!(answer.is_err(), "it answers");
            Ok(())
        })
        .await?;
        narrator.checked(&format!("nothing answers at http://{at}/, the ClusterIP of wordpress"));

        narrator.heading("It comes back");
        self.servers[0].bring_back().await?;
        let back = Instant::now();
        narrator.command("nginx -c nginx.conf &    # on 172.18.191.215");
        narrator.output(&format!("runs again, pid {}", self.servers[0].pid()));
        self.until_phase("shop", "Healthy", SOON).await?;
        let shop = back.elapsed();
        self.until_phase("wordpress", "Healthy", SOON).await?;
        let wordpress = back.elapsed();
        narrator.say(&format!(
            "One successful probe is enough by default: shop is Healthy {:.1} s after nginx answers again, \
             wordpress after {:.1} s.",
            shop.as_secs_f64(),
            wordpress.as_secs_f64()
        ));
        let shown = narrator.kubectl(&self.cluster, "get cep -o wide").await?;
        ensure!(!shown.contains("UnHealthy"), "both should be Healthy above");
        self.until_all_answer(self.cluster_ip("shop", 80).await?).await?;
        narrator.checked("all three servers answer through the ClusterIP of shop");
        Ok(())
    }

    /// The last act: the operator's own page, reachable from the machine for as long as the stage stands.
    pub(crate) async fn open_status_page(&mut self, narrator: &mut Narrator) -> Result<String> {
        narrator.heading("The status page");
        let relay = Relay::start(self.operator.host.netns().clone(), self.operator.admin_address())?;
        let url = format!("http://{}/", relay.address());
        self.page = Some(relay);
        narrator.say(&format!(
            "The operator shows every host, its verdict, why, and when it is probed next. Its port 8080 is \
             passed on to this machine: {url}"
        ));
        // From this machine, as anybody's browser would.
        let page = curl(Command::new("curl"), &url).await?;
        ensure!(page.contains("<title>"), "{url} is no page");
        let overview = curl(Command::new("curl"), &format!("{url}api/v1/overview")).await?;
        let overview: serde_json::Value = serde_json::from_str(&overview)?;
        let ceps: Vec<&str> = overview["ceps"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|cep| cep["name"].as_str())
            .collect();
        ensure!(ceps == ["shop", "wordpress"], "the page lists {ceps:?}");
        narrator.checked(&format!("{url} answers, and lists {}", ceps.join(" and ")));
        Ok(url)
    }

    /// What there is to try while everything stands.
    pub(crate) fn invite(&self, narrator: &mut Narrator, page: &str) {
        narrator.say(&format!("Everything stays up. Open {page} or, in another terminal, as root:"));
        narrator.command(&format!("export KUBECONFIG={}", self.cluster.outside_kubeconfig().display()));
        narrator.output(
            "$ kubectl get cep -o wide -w\n$ kubectl explain cep.spec\n$ kubectl describe cep shop\n\
             $ kubectl delete svc shop; kubectl get svc    # it is back",
        );
        narrator.say("Enter or Ctrl-C ends the demo and removes everything.");
    }

    async fn until_phase(&self, cep: &str, phase: &str, patience: Duration) -> Result<()> {
        eventually(patience, &format!("{cep} is {phase}"), async || {
            let now = self.cluster.kubectl(&["get", "cep", cep, "-o", "jsonpath={.status.phase}"]).await?;
            ensure!(now == phase, "it is {now:?}");
            Ok(())
        })
        .await
    }

    /// Waits until no slice of a Service lists this address as ready; says when that was seen.
    async fn until_out(&self, service: &str, address: &str, patience: Duration) -> Result<Instant> {
        let slices: Api<EndpointSlice> = Api::default_namespaced(self.cluster.client());
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        eventually(patience, &format!("{address} is out of {service}"), async || {
            let list = slices.list(&of_service).await?;
            let seen = Instant::now();
            let endpoints = list.items.iter().flat_map(|slice| slice.endpoints.iter().flatten());
            let ready = endpoints
                .filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|c| c.ready != Some(false)))
                .any(|endpoint| endpoint.addresses.iter().any(|listed| listed == address));
            ensure!(!ready, "it is listed as ready");
            Ok(seen)
        })
        .await
    }

    /// Waits until each server has answered through a ClusterIP: kube-proxy knows all of them.
    async fn until_all_answer(&self, at: SocketAddr) -> Result<()> {
        for server in &self.servers {
            let address = server.host.ip().to_string();
            eventually(SOON, &format!("{address} answers through {at}"), async || {
                let (status, body) = self.client.netns().http_get(at, "/").await?;
                ensure!(status == 200 && body.contains(&address), "{status} {body}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Lets the client go on until so many of its requests have ended that began after a moment.
    async fn let_flow(&self, traffic: &Traffic, after: Instant, requests: usize) -> Result<()> {
        eventually(SOON, "the client goes on", async || {
            let count = traffic.tally().between(after, Instant::now()).total();
            ensure!(count >= requests, "{count} of {requests} requests");
            Ok(())
        })
        .await
    }

    async fn cluster_ip(&self, service: &str, port: u16) -> Result<SocketAddr> {
        let services: Api<Service> = Api::default_namespaced(self.cluster.client());
        let ip = services.get(service).await?.spec.and_then(|spec| spec.cluster_ip);
        Ok(SocketAddr::new(ip.context("no clusterIP")?.parse::<IpAddr>()?, port))
    }
}

/// What it logged when it started.
fn first_words(operator: &Operator) -> String {
    operator.log_tail(100).lines().take(3).collect::<Vec<_>>().join("\n")
}

/// The body of a page. `command` is curl, in this or that network namespace.
async fn curl(mut command: Command, url: &str) -> Result<String> {
    command.args(["--silent", "--show-error", "--fail", "--max-time", "5", "--noproxy", "*", url]);
    process::output(command, None).await
}
