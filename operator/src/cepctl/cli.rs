//! What can be typed, and the help that teaches it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  something went wrong; the message says what to do
  2  the command line was not understood
  3  probe: a host failed, or could not be probed";

/// Helps with ClusterEndpoints: turns what you have into them, tries their probes, and says why a host
/// is in or out.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_STATUS, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) global: Global,
}

/// Flags that every command understands.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Output for programs; without it, output for people
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub(super) output: Option<Format>,
    /// Namespace; default: that of the kubeconfig's context
    #[arg(short, long, global = true)]
    pub(super) namespace: Option<String>,
    /// Context of the kubeconfig; default: its current one
    #[arg(long, global = true)]
    pub(super) context: Option<String>,
    /// Kubeconfig file; default: $KUBECONFIG, ~/.kube/config, or the Pod's service account
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
}

/// Output for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Convert(Convert),
    Migrate(Migrate),
    Probe(Probe),
    Explain(Explain),
}

/// Print ClusterEndpoints for Services with hand-written Endpoints or EndpointSlices
///
/// Reads a Service without selector and its Endpoints or EndpointSlices, from the cluster or from
/// files, and prints the ClusterEndpoint that stands for them. Nothing is written to the cluster. Apply
/// the output, and the operator adopts the Service: it keeps its cluster IP, node ports, labels and
/// annotations, and no connection is lost.
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
#[command(group = ArgGroup::new("what").required(true).args(["names", "all", "files"]))]
pub(super) struct Convert {
    /// Services in the cluster
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// All Services of the namespace that have no selector
    #[arg(long)]
    pub(super) all: bool,
    /// With --all: those of all namespaces
    #[arg(short = 'A', long, requires = "all", conflicts_with_all = ["names", "files"])]
    pub(super) all_namespaces: bool,
    /// YAML or JSON with Services and their Endpoints or EndpointSlices, - for standard input; several
    /// documents and Lists are understood
    #[arg(short, long = "filename", value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Probe to put on the TCP ports
    #[arg(long, value_name = "KIND", default_value = "tcp")]
    pub(super) probe: ProbeKind,
    /// Seconds between two probes of a host
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=3600))]
    pub(super) period_seconds: i32,
    /// Write the Service's cluster IP into the ClusterEndpoint. Only needed where the Service is to be
    /// created anew with the same IP: an adopted one keeps it anyway
    #[arg(long)]
    pub(super) keep_cluster_ip: bool,
}

const CONVERT_EXAMPLES: &str = "\
Examples:
  # see what would become of Service db, then let it become so
  cepctl convert db -n shop
  cepctl convert db -n shop | kubectl apply -f -

  # out of files, with an HTTP probe in place of a TCP one
  cepctl convert -f service.yaml -f endpoints.yaml --probe http

  # everything that has no selector, in one file to look over
  cepctl convert --all -A > ceps.yaml

Services with a selector are refused: their endpoints are Pods, which Kubernetes keeps itself.";

/// What `convert` puts on TCP ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ProbeKind {
    /// tcpSocket: the host accepts a connection
    Tcp,
    /// httpGet on /, HTTPS where the port's name, appProtocol or number says so
    Http,
    /// No probe: the hosts are always served
    None,
}

/// Bring objects of the original endpoints-operator over
///
/// Turns ClusterEndpoints of sealos.io/v1beta1 (and early ones of sealyun.com/v1beta1) into those of
/// sealyun.com/v1beta1. By default the new objects are printed, whether the old ones come from files or
/// from the cluster; what has no counterpart is named on standard error.
///
/// With --apply, each object of the cluster is handed over without losing a connection: create the new
/// object; wait until the operator has adopted the Service; take the references to the old object off
/// Service and Endpoints, so that garbage collection leaves them alone; watch for a period of the old
/// object that they do not come back; strip the old finalizers; remove the old object with propagation
/// policy Orphan. Each step is decided from what is found in the cluster, so after an interruption run
/// the same command again.
///
/// SCALE THE OLD OPERATOR DOWN FIRST. Two operators that write the same Service undo each other's work.
/// When the old one is seen at work (the status of an old object changes, or references come back),
/// there is a warning, and the old object is not removed.
#[derive(Debug, Args)]
#[command(after_help = MIGRATE_EXAMPLES)]
#[command(group = ArgGroup::new("what").required(true).args(["names", "all", "files"]))]
pub(super) struct Migrate {
    /// Old objects in the cluster
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// All old objects of the namespace
    #[arg(long)]
    pub(super) all: bool,
    /// With --all: those of all namespaces
    #[arg(short = 'A', long, requires = "all", conflicts_with_all = ["names", "files"])]
    pub(super) all_namespaces: bool,
    /// YAML or JSON with old objects, - for standard input
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "apply")]
    pub(super) files: Vec<PathBuf>,
    /// API group of the old objects in the cluster. With sealyun.com, --apply rewrites them in place
    #[arg(long, value_name = "GROUP", default_value = "sealos.io")]
    pub(super) from_group: OldGroup,
    /// Carry it out in the cluster
    #[arg(long)]
    pub(super) apply: bool,
    /// With --apply: say what would be done, and have the API server check the new objects
    #[arg(long, requires = "apply")]
    pub(super) dry_run: bool,
    /// With --apply: how long to wait for one object, for example 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub(super) timeout: Duration,
}

const MIGRATE_EXAMPLES: &str = "\
Examples:
  # look first
  cepctl migrate --all -A

  # the whole way
  kubectl -n kube-system scale deployment/endpoints-operator --replicas=0    # the old operator
  helm install endpoints-operator ...                                        # the new one
  cepctl migrate --all -A --apply --dry-run
  cepctl migrate --all -A --apply

  # manifests that are kept in git
  cepctl migrate -f old/dmz.yaml > new/dmz.yaml

  # early objects of sealyun.com: before the new CRD is installed it prunes fields that it does not
  # know, so save them while the old CRD is there
  kubectl get clusterendpoints.sealyun.com -A -o yaml > backup.yaml
  cepctl migrate -f backup.yaml | kubectl apply -f -";

/// Groups under which the original operator kept its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OldGroup {
    #[value(name = "sealos.io")]
    Sealos,
    #[value(name = "sealyun.com")]
    Sealyun,
}

impl OldGroup {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            OldGroup::Sealos => "sealos.io",
            OldGroup::Sealyun => "sealyun.com",
        }
    }
}

/// Run the probes of a ClusterEndpoint once, from here
///
/// Uses the operator's own prober, from where you stand: other firewalls and routes may lie between you
/// and the hosts than between the operator and them. Nothing is written to the cluster, and with -f none
/// is needed. DNS names are resolved, and each of their addresses is probed, as the operator does.
///
/// Secrets and ConfigMaps that the probes refer to are looked for among the documents of -f, then in
/// --material, then in the cluster.
#[derive(Debug, Args)]
#[command(after_help = PROBE_EXAMPLES)]
#[command(group = ArgGroup::new("what").required(true).args(["names", "files"]))]
pub(super) struct Probe {
    /// ClusterEndpoints in the cluster
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// YAML or JSON with ClusterEndpoints, and the Secrets and ConfigMaps they refer to; - for standard
    /// input
    #[arg(short, long = "filename", value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Only this host, as the spec lists it; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    pub(super) hosts: Vec<String>,
    /// Only this port, by its name or number in the Service; may be repeated
    #[arg(long = "port", value_name = "PORT")]
    pub(super) ports: Vec<String>,
    /// Only the first address of a DNS name
    #[arg(long)]
    pub(super) first_address: bool,
    /// How many times to probe each target
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) repeat: u32,
    /// Pause between two probes of a target, for example 500ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(super) interval: Duration,
    /// A value that the ClusterEndpoint refers to: secret/NAME/KEY=FILE or configmap/NAME/KEY=FILE
    #[arg(long = "material", value_name = "REF=FILE")]
    pub(super) materials: Vec<String>,
    /// Probe hosts of this range although they are loopback, link-local or the like
    #[arg(long = "allow-target-cidr", value_name = "CIDR")]
    pub(super) allow: Vec<IpNet>,
    /// Refuse hosts of this range
    #[arg(long = "deny-target-cidr", value_name = "CIDR")]
    pub(super) deny: Vec<IpNet>,
}

const PROBE_EXAMPLES: &str = "\
Examples:
  # before you apply it
  cepctl probe -f cep.yaml

  # one host of what is in the cluster, ten times
  cepctl probe wordpress -n shop --host db.example.org --port https --repeat 10

  # a server on your own machine, with a CA that no cluster knows
  cepctl probe -f cep.yaml --allow-target-cidr 127.0.0.0/8 --material configmap/db-ca/ca.crt=ca.pem

  # in a script: 3 means that a host failed
  cepctl probe -f cep.yaml -o json > result.json || test $? -ne 1";

/// Say for every host whether it is in or out, why, since when, and when it is probed next
///
/// Reads the status of the ClusterEndpoint and its EndpointSlices, and, if it can be reached, asks the
/// operator itself for what is not kept in the cluster: the last and the next probe of each host. Says
/// for each condition that is not as it should be what it means and what to do.
#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub(super) struct Explain {
    /// ClusterEndpoints; without any, all of the namespace
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "names")]
    pub(super) all_namespaces: bool,
    /// Ask the operator here, for example http://127.0.0.1:8080 at the end of a port-forward; default:
    /// through the API server, which needs leave to get pods/proxy in the operator's namespace
    #[arg(long, value_name = "URL")]
    pub(super) admin_url: Option<http::Uri>,
    /// Namespace in which the operator runs
    #[arg(long, value_name = "NAMESPACE", default_value = "endpoints-operator")]
    pub(super) operator_namespace: String,
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  cepctl explain wordpress -n shop

  # everything, for a script
  cepctl explain -A -o json

  # when the API server does not let you ask the operator
  kubectl -n endpoints-operator port-forward deployment/endpoints-operator 8080 &
  cepctl explain wordpress --admin-url http://127.0.0.1:8080";

/// The command line under the name by which the program was called.
pub(super) fn command(program: Option<&OsStr>) -> clap::Command {
    let name = match program.map(Path::new).and_then(Path::file_stem).and_then(OsStr::to_str) {
        Some(stem) if stem.starts_with("kubectl-cep") => "kubectl cep",
        _ => "cepctl",
    };
    let mut command = Cli::command().name(name).bin_name(name);
    let subcommands: Vec<String> =
        command.get_subcommands().map(|subcommand| subcommand.get_name().to_owned()).collect();
    for subcommand in subcommands {
        command = command.mut_subcommand(subcommand, |subcommand| {
            let examples = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            subcommand.after_help(examples.replace("  cepctl ", &format!("  {name} ")))
        });
    }
    command
}

/// A number with unit ms, s or m.
fn duration(text: &str) -> Result<Duration, String> {
    let complaint = || format!("{text:?} is not a time such as 500ms, 30s or 2m");
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(complaint)?;
    let number: u64 = text[..at].parse().map_err(|_| complaint())?;
    match &text[at..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(complaint()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let matches = command(None).try_get_matches_from(line.split(' '))?;
        <Cli as clap::FromArgMatches>::from_arg_matches(&matches)
    }

    #[test]
    fn definition_is_sound() {
        command(None).debug_assert();
        command(Some(OsStr::new("/usr/local/bin/kubectl-cep"))).debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["cepctl -n shop -o json explain db", "cepctl explain db -n shop -o json"] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.namespace.as_deref(), Some("shop"));
            assert_eq!(cli.global.output, Some(Format::Json));
        }
    }

    #[test]
    fn usage_errors() {
        for line in [
            "cepctl",
            "cepctl convert",
            "cepctl convert db --all",
            "cepctl convert db -A",
            "cepctl convert db --probe udp",
            "cepctl convert db --period-seconds 0",
            "cepctl migrate",
            "cepctl migrate -f x.yaml --apply",
            "cepctl migrate --all --dry-run",
            "cepctl migrate --all --apply --timeout soon",
            "cepctl probe",
            "cepctl probe -f x.yaml --allow-target-cidr localhost",
            "cepctl explain db -A",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn plugin_shows_its_own_name() {
        let mut command = command(Some(OsStr::new("kubectl-cep")));
        let help = command.find_subcommand_mut("convert").unwrap().render_long_help().to_string();
        assert!(help.contains("  kubectl cep convert db -n shop"), "{help}");
        let usage = command.render_usage().to_string();
        assert!(usage.contains("kubectl cep"), "{usage}");
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "5", "s", "1h", "-1s", "1.5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
