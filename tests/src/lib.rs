//! The test bed: a real control plane (etcd, kube-apiserver, kube-controller-manager, kube-proxy) and real
//! hosts, each in a network namespace of its own, with scripted servers, a DNS server and measured traffic.
//!
//! A test starts what it needs and drops it. Any number of clusters run side by side, in one process or in
//! many, because nothing is shared: addresses and ports are the same in each of them, but the namespaces
//! differ. Whatever way the test process ends, SIGKILL included, its processes, namespaces and temporary
//! directories go with it ([`reaper`]).
//!
//! It needs root, `ip` and `nft` (`tests/setup.sh`) and the control plane's binaries (`make cluster`).
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use testbed::{Cluster, Operator, Response, Server};
//!
//! let cluster = Cluster::builder().start().await?;
//! let host = cluster.host("172.18.191.215")?;
//! let web = Server::http(host.netns(), host.socket(80), Response::ok("hello")).await?;
//! let on = cluster.operator_host()?;
//! let operator = Operator::start(&on, cluster.kubeconfig(), ["run"])?;
//! # Ok(()) }
//! ```

pub mod cluster;
pub mod dns;
pub mod netns;
pub mod operator;
pub mod pki;
pub mod process;
pub mod reaper;
pub mod server;
pub mod traffic;
pub mod wait;

pub use cluster::{Cluster, Host, Relay};
pub use dns::Dns;
pub use netns::Netns;
pub use operator::Operator;
pub use process::Process;
pub use server::{Behaviour, Response, Server, Tls};
pub use traffic::Traffic;
pub use wait::eventually;
