//! Starting a cluster.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::access::{self, Credential};
use super::host::{GATEWAY, GATEWAY6};
use super::relay::Relay;
use super::{Cluster, Component, SERVER, binaries};
use crate::netns::Netns;
use crate::pki::Authority;
use crate::process::Process;
use crate::reaper::TempDir;
use crate::wait::eventually;

const ADMIN_TOKEN: &str = "admin-token";
const NODE: &str = "node1";
/// How long a component may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the controller manager runs: all that works without nodes and that tests look at.
const CONTROLLERS: &str = "endpoints-controller,endpointslice-controller,endpointslice-mirroring-controller,\
    garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    root-ca-certificate-publisher-controller,clusterrole-aggregation-controller,\
    deployment-controller,replicaset-controller,validatingadmissionpolicy-status-controller";

/// How a cluster is to be.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(super) ipv6: bool,
    proxy: bool,
    args: BTreeMap<&'static str, Vec<String>>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { ipv6: true, proxy: true, args: BTreeMap::new() }
    }
}

impl Builder {
    /// Whether hosts get an IPv6 address too (the default). Services can be of both families in any case.
    #[must_use]
    pub fn ipv6(mut self, ipv6: bool) -> Self {
        self.ipv6 = ipv6;
        self
    }

    /// Whether kube-proxy runs (the default). Without it nothing answers on a ClusterIP.
    #[must_use]
    pub fn proxy(mut self, proxy: bool) -> Self {
        self.proxy = proxy;
        self
    }

    /// How many requests the API server works on at a time; the rest gets 429.
    #[must_use]
    pub fn max_requests_inflight(self, reading: u32, mutating: u32) -> Self {
        self.args(
            Component::Apiserver,
            &[
                &format!("--max-requests-inflight={reading}"),
                &format!("--max-mutating-requests-inflight={mutating}"),
            ],
        )
    }

    /// Further arguments for a component; they win over the bed's own.
    #[must_use]
    pub fn args(mut self, component: Component, args: &[&str]) -> Self {
        self.args.entry(component.program()).or_default().extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Starts it and waits until the API server and kube-proxy are ready.
    ///
    /// # Errors
    /// If a component ends or is not ready in time, with the last lines of its log.
    pub async fn start(self) -> Result<Cluster> {
        binaries::dir()?;
        let dir = TempDir::new()?;
        let netns = Netns::create()?;
        wire(&netns)?;
        let authority = Authority::new("test cluster")?;
        write_keys(dir.path(), &authority)?;
        let relay = Relay::start(netns.clone(), std::net::SocketAddr::new(GATEWAY.into(), 6443))?;
        let credential = Credential::Token(ADMIN_TOKEN);
        std::fs::write(dir.path().join("kubeconfig"), access::kubeconfig(&authority, SERVER, &credential))?;
        let relayed = format!("https://{}", relay.address());
        let outside = access::kubeconfig(&authority, &relayed, &credential);
        std::fs::write(dir.path().join("outside.kubeconfig"), &outside)?;
        let client = access::client(&outside).await?;

        let processes = Mutex::new(BTreeMap::new());
        let next_host = AtomicU32::new(1);
        let next_operator = AtomicU32::new(2);
        let cluster = Cluster {
            processes,
            client,
            _relay: relay,
            authority,
            builder: self,
            next_host,
            next_operator,
            netns,
            dir,
        };
        cluster.run(Component::Etcd)?;
        cluster.run(Component::Apiserver)?;
        cluster.wait_for_apiserver().await?;
        cluster.run(Component::ControllerManager)?;
        register_node(&cluster.client).await?;
        if cluster.builder.proxy {
            cluster.run(Component::Proxy)?;
            cluster.wait_for_proxy().await?;
        }
        Ok(cluster)
    }
}

/// The bridge, and what a namespace needs to forward for hosts.
fn wire(netns: &Netns) -> Result<()> {
    // Otherwise the default route over the bridge adds redirects, which use up the limit of ICMP messages.
    netns.sysctl("net.ipv4.conf.default.send_redirects", "0")?;
    netns.sysctl("net.ipv4.conf.all.send_redirects", "0")?;
    netns.sysctl("net.ipv4.ip_forward", "1")?;
    netns.sysctl("net.ipv6.conf.all.forwarding", "1").context("the kernel has no IPv6")?;
    // Where br_netfilter is loaded (by Docker, say) a bridge rewrites what it should hand to the router, and
    // a host does not reach itself through a ClusterIP.
    for call in ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"] {
        if Path::new("/proc/sys/net/bridge").exists() {
            netns.sysctl(call, "0")?;
        }
    }
    // A bridge without an address of its own takes the lowest of its ports', and changes it with each new
    // host; until the others ask again, seconds later, all they send to the gateway is lost.
    netns.ip("link add br0 address 02:ac:12:bf:00:01 type bridge mcast_snooping 0")?;
    netns.ip(&format!("addr add {GATEWAY}/24 dev br0"))?;
    netns.ip(&format!("addr add {GATEWAY6}/64 dev br0 nodad"))?;
    netns.ip("link set br0 up")?;
    // They lead nowhere, but a ClusterIP must have a route before nftables can rewrite it.
    netns.ip("route add default via 172.18.191.254 dev br0")?;
    netns.ip("-6 route add default via fd00:172:18:191::fe dev br0")
}

fn write_keys(dir: &Path, authority: &Authority) -> Result<()> {
    let serving = authority.server(&[
        "kubernetes.default.svc",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        "::1",
        "10.96.0.1",
        &GATEWAY.to_string(),
        &GATEWAY6.to_string(),
    ])?;
    let tokens = rcgen::KeyPair::generate()?;
    for (name, text) in [
        ("ca.crt", authority.certificate().to_owned()),
        ("apiserver.crt", serving.certificate),
        ("apiserver.key", serving.key),
        ("tokens.key", tokens.serialize_pem()),
        ("tokens.pub", tokens.public_key_pem()),
        ("tokens.csv", format!("{ADMIN_TOKEN},admin,1,\"system:masters\"\n")),
    ] {
        std::fs::write(dir.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    std::fs::create_dir(dir.join("log")).context("cannot make the log directory")
}

/// kube-proxy asks the node object for its address families.
async fn register_node(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": NODE } }))?;
    nodes.create(&PostParams::default(), &node).await.context("registering the node")?;
    let addresses = json!({ "status": { "addresses": [
        { "type": "InternalIP", "address": GATEWAY.to_string() },
        { "type": "InternalIP", "address": GATEWAY6.to_string() },
    ] } });
    let patch = Patch::Merge(addresses);
    nodes.patch_status(NODE, &PatchParams::default(), &patch).await.context("the node's addresses")?;
    Ok(())
}

impl Cluster {
    /// Starts a component.
    pub(super) fn run(&self, component: Component) -> Result<()> {
        let program = component.program();
        let dir = self.dir.path();
        let mut command: Command = self.netns.command(binaries::path(program)?);
        command.current_dir(dir).env("HOME", dir).args(arguments(component));
        command.args(self.builder.args.get(program).into_iter().flatten());
        let process = Process::start(program, command, &dir.join("log").join(format!("{program}.log")))?;
        self.processes().insert(component, process);
        Ok(())
    }

    pub(super) async fn wait_for_apiserver(&self) -> Result<()> {
        let what = "the API server is ready";
        let ready = eventually(PATIENCE, what, async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            self.client.request_text(request).await.context("/readyz")?;
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            namespaces.get("default").await.context("the namespace default")?;
            Ok(())
        });
        self.watching(&[Component::Etcd, Component::Apiserver], ready).await
    }

    async fn wait_for_proxy(&self) -> Result<()> {
        let health = "127.0.0.1:10256".parse()?;
        let ready = eventually(PATIENCE, "kube-proxy is ready", async || {
            let (status, body) = self.netns.http_get(health, "/healthz").await?;
            ensure!(status == 200, "/healthz says {status} {body}");
            Ok(())
        });
        self.watching(&[Component::Proxy, Component::ControllerManager], ready).await
    }

    /// Waits for `ready`, but not longer than the components live.
    async fn watching(
        &self,
        components: &[Component],
        ready: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let alive = async {
            loop {
                for component in components {
                    if let Some(process) = self.processes().get(component) {
                        process.ensure_running()?;
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let result = tokio::select! {
            result = ready => result,
            result = alive => result,
        };
        result.with_context(|| {
            let processes = self.processes();
            let logs = components.iter().filter_map(|component| {
                let process = processes.get(component)?;
                Some(format!("{} wrote last:\n{}", component.program(), process.log_tail(8)))
            });
            logs.collect::<Vec<_>>().join("\n")
        })
    }
}

fn arguments(component: Component) -> Vec<String> {
    let args: &[&str] = match component {
        Component::Etcd => &[
            "--data-dir=etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
        Component::Apiserver => &[
            "--etcd-servers=http://127.0.0.1:2379",
            // It refuses to advertise or to listen on loopback alone.
            "--bind-address=0.0.0.0",
            "--advertise-address=172.18.191.1",
            "--secure-port=6443",
            "--tls-cert-file=apiserver.crt",
            "--tls-private-key-file=apiserver.key",
            "--client-ca-file=ca.crt",
            "--token-auth-file=tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=tokens.pub",
            "--service-account-signing-key-file=tokens.key",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
            "--disable-admission-plugins=ServiceAccount",
            "--shutdown-delay-duration=0s",
        ],
        Component::ControllerManager => &[
            "--kubeconfig=kubeconfig",
            "--leader-elect=false",
            "--service-account-private-key-file=tokens.key",
            "--root-ca-file=ca.crt",
            "--use-service-account-credentials=false",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ],
        Component::Proxy => &[
            "--kubeconfig=kubeconfig",
            "--proxy-mode=nftables",
            // Hosts share a network: without it a backend would answer a client behind the Service's back.
            "--masquerade-all",
            // These are not a namespace's own and are left alone.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ],
    };
    let mut args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    match component {
        Component::ControllerManager => args.push(format!("--controllers={CONTROLLERS}")),
        Component::Proxy => args.push(format!("--hostname-override={NODE}")),
        Component::Etcd | Component::Apiserver => {}
    }
    args
}
