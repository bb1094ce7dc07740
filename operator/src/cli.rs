//! The command line of `endpoints-operator`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::telemetry::LogArgs;

/// Gives hosts outside the cluster a Service with health checks.
///
/// One object, a ClusterEndpoint (short: cep), names the hosts, their ports and how to probe them. The
/// operator keeps a Service of the same name and its EndpointSlices, and takes a host out while its probe
/// fails.
#[derive(Debug, Parser)]
#[command(name = "endpoints-operator", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = FIRST_STEPS)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const FIRST_STEPS: &str = "\
First steps, with a kubeconfig at hand:
  endpoints-operator crd | kubectl apply -f -
  endpoints-operator run
  kubectl explain cep.spec --recursive

`endpoints-operator run --help` tells about every option. Why a host is in or out: cepctl explain NAME.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator: probe the hosts of all ClusterEndpoints and keep their Services
    ///
    /// In the cluster nothing needs to be set. Outside of it the kubeconfig is used that kubectl would use.
    /// It runs until SIGTERM or SIGINT, and then gives its Lease back, so that a standby takes over at once.
    Run(Box<Run>),
    /// Print the CustomResourceDefinition, to be piped into kubectl apply -f -
    Crd,
}

/// The options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Kubeconfig file; default: the Pod's ServiceAccount, else $KUBECONFIG, else ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Look after the ClusterEndpoints of this namespace only; default: of all namespaces
    #[arg(long, value_name = "NAMESPACE", env = "WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Where the status page (/), /metrics, /livez and /readyz are served, over plain HTTP, read-only
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8080")]
    pub admin_address: SocketAddr,
    /// Whether Endpoints are kept beside EndpointSlices, for readers of the old API (kubectl get ep)
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub write_endpoints: WriteEndpoints,

    #[command(flatten)]
    pub lease: LeaseArgs,
    #[command(flatten)]
    pub probing: ProbingArgs,
    #[command(flatten)]
    pub guard: GuardArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WriteEndpoints {
    /// Unless there are more than 1000 addresses
    #[default]
    Auto,
    /// EndpointSlices only
    Never,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Leader election")]
pub struct LeaseArgs {
    /// Namespace of the Lease; default: the Pod's own, else that of the kubeconfig's context
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of the Lease. Of the replicas that share it one writes; all of them probe
    #[arg(long, value_name = "NAME", default_value = "endpoints-operator")]
    pub lease_name: String,
    /// Who this process is in the Lease, different for every replica; default: the host's name with a
    /// suffix of its own
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub identity: Option<String>,
    /// Seconds after which a leader that does not renew the Lease is replaced, 2 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub lease_duration: Duration,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Probing")]
pub struct ProbingArgs {
    /// Allow hosts in this range although they are loopback, link-local, multicast or the like, which are
    /// refused otherwise; may be repeated
    #[arg(long, value_name = "CIDR")]
    pub allow_target_cidr: Vec<IpNet>,
    /// Refuse hosts in this range, whatever else is said; may be repeated. The API server's own address is
    /// always refused when the kubeconfig gives it as an IP address
    #[arg(long, value_name = "CIDR")]
    pub deny_target_cidr: Vec<IpNet>,
    /// DNS server for hosts that are names, in place of those of /etc/resolv.conf; may be repeated
    #[arg(long, value_name = "IP:PORT")]
    pub nameserver: Vec<SocketAddr>,
    /// How many probes may run at the same time; default: as many as file descriptors allow, 16384 at most
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub max_probes: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "When the operator's own network fails")]
pub struct GuardArgs {
    /// When this share of all healthy hosts falls silent together, and they are not merely those of one
    /// ClusterEndpoint, the operator suspects its own network and takes nobody out for silence. 0: never
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub blind_percent: u32,
    /// With fewer silent hosts than this the operator does not suspect itself
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub blind_min_hosts: usize,
    /// Something that accepts TCP connections for as long as the operator's network works, a router say;
    /// while all of these are silent, nobody is taken out for silence. May be repeated
    #[arg(long, value_name = "IP:PORT")]
    pub vantage_target: Vec<SocketAddr>,
    /// At most this share of all healthy hosts is taken out for silence within ten seconds; ten hosts
    /// always may. 100: no limit
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_evictions_percent: u32,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds) if (2..=3600).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a whole number of seconds from 2 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
