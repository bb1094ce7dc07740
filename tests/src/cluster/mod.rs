//! A control plane in a network namespace of its own, with hosts around it.
//!
//! ```text
//!   172.18.191.1 (br0)        etcd, kube-apiserver :6443, kube-controller-manager, kube-proxy (nftables)
//!        |      |      |
//!   .2 operator  .215   .216  hosts: one namespace each, default route by .1, so ClusterIPs work there too
//! ```

mod access;
pub mod binaries;
mod builder;
mod host;
mod metrics;
mod relay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use nix::sys::signal::Signal;

pub use builder::Builder;
pub use host::Host;
pub use metrics::{Write, WriteCounts};
pub use relay::Relay;

use crate::netns::Netns;
use crate::pki::Authority;
use crate::process::{self, Process};
use crate::reaper::TempDir;

/// Where the API server is, for everything that is in the cluster's namespace or on its bridge.
pub const SERVER: &str = "https://172.18.191.1:6443";

/// A part of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// kube-proxy, in nftables mode.
    Proxy,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-apiserver.
    Apiserver,
    /// etcd.
    Etcd,
}

impl Component {
    /// The name of its binary and of its log.
    pub fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Proxy => "kube-proxy",
        }
    }
}

/// A running cluster; dropping it ends all of it.
pub struct Cluster {
    // Dropped in this order: the processes first.
    processes: Mutex<BTreeMap<Component, Process>>,
    client: Client,
    _relay: relay::Relay,
    authority: Authority,
    builder: Builder,
    next_host: AtomicU32,
    next_operator: AtomicU32,
    netns: Netns,
    dir: TempDir,
}

impl Cluster {
    /// A cluster with both address families and kube-proxy, unless told otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<Component, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client with all rights, for use in the test process.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace of the control plane, which is also the cluster's one node.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The directory of keys, kubeconfig files, logs and etcd's data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The kubeconfig of the administrator, for the namespaces of the cluster and its hosts.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    /// The kubeconfig of the administrator for the machine itself, by a relay on 127.0.0.1.
    pub fn outside_kubeconfig(&self) -> PathBuf {
        self.dir().join("outside.kubeconfig")
    }

    /// The authority that signed the API server's certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The whole log of a component.
    pub fn log(&self, component: Component) -> String {
        self.processes().get(&component).map(Process::log).unwrap_or_default()
    }

    /// A host with this address, 172.18.191.2 to .253, and with an IPv6 address to match.
    ///
    /// # Errors
    /// If the address is another network's, or `ip` fails.
    pub fn host(&self, ipv4: &str) -> Result<Host> {
        let ipv4 = ipv4.parse().with_context(|| format!("{ipv4} is no IPv4 address"))?;
        let number = self.next_host.fetch_add(1, Ordering::Relaxed);
        Host::create(&self.netns, number, ipv4, self.builder.ipv6)
            .with_context(|| format!("making host {ipv4}"))
    }

    /// A host for an operator: 172.18.191.2, then .3, and so on. Its network can be cut as any host's.
    ///
    /// # Errors
    /// As [`Cluster::host`].
    pub fn operator_host(&self) -> Result<Host> {
        let last = self.next_operator.fetch_add(1, Ordering::Relaxed);
        self.host(&format!("172.18.191.{last}"))
    }

    /// Runs kubectl as the administrator and returns its standard output.
    ///
    /// # Errors
    /// If it fails, with its standard error.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        process::output(self.program("kubectl", args)?, None).await
    }

    /// Runs helm as the administrator and returns its standard output.
    ///
    /// # Errors
    /// If it fails, with its standard error.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        process::output(self.program("helm", args)?, None).await
    }

    /// `kubectl apply --server-side` of YAML or JSON text.
    ///
    /// # Errors
    /// If it fails, with its standard error.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        process::output(self.program("kubectl", &args)?, Some(manifests.to_owned())).await
    }

    /// Like [`Cluster::apply`], but the API server only says what would become of it.
    ///
    /// # Errors
    /// If it would be refused, with the reason.
    pub async fn dry_run(&self, manifests: &str) -> Result<String> {
        let args = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
        process::output(self.program("kubectl", &args)?, Some(manifests.to_owned())).await
    }

    /// kubectl and helm share a cache of discovery under the server's address, the same in every cluster.
    fn program(&self, program: &str, args: &[&str]) -> Result<std::process::Command> {
        let mut command = self.netns.command(binaries::path(program)?);
        command.args(args).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir());
        command.env("KUBECACHEDIR", self.dir().join("kubectl-cache"));
        Ok(command)
    }

    /// Stops the API server: with SIGKILL at once, with SIGTERM when it has ended what it was doing.
    ///
    /// # Errors
    /// If it does not end within a minute.
    pub async fn stop_apiserver(&self, signal: Signal) -> Result<()> {
        let process = self.processes().remove(&Component::Apiserver).context("the API server is stopped")?;
        process.signal(signal);
        process.wait(Duration::from_secs(60)).await.map(drop)
    }

    /// Starts the API server again, with the state it had, and waits until it is ready.
    ///
    /// # Errors
    /// If it is not ready in time, with the last lines of its log.
    pub async fn start_apiserver(&self) -> Result<()> {
        self.run(Component::Apiserver)?;
        self.wait_for_apiserver().await
    }

    /// Sends a component a signal: SIGSTOP makes it hang with its connections open, SIGCONT ends that.
    pub fn signal(&self, component: Component, signal: Signal) {
        if let Some(process) = self.processes().get(&component) {
            process.signal(signal);
        }
    }

    /// How many writes the API server has counted since it started, by all its clients.
    ///
    /// # Errors
    /// If its metrics cannot be read.
    pub async fn apiserver_write_counts(&self) -> Result<WriteCounts> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = self.client.request_text(request).await.context("the API server's /metrics")?;
        Ok(WriteCounts::parse(&text))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // In the order of the enum: who talks to the API server before it, and etcd last.
        for process in self.processes().values() {
            process.kill();
        }
    }
}
