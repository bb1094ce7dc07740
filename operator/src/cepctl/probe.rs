//! `cepctl probe`: run the probes of ClusterEndpoints once, from here.

mod adapter;
mod attempts;
mod materials;
mod report;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cep_core::address_policy::AddressPolicy;
use cep_core::api::v1beta1::{ClusterEndpoint, GROUP, KIND};
use cep_core::outcome::{Cause, Outcome};
use cep_core::target::Target;
use futures::{StreamExt, stream};
use kube::ResourceExt;

use super::Exit;
use super::cli::{Global, Probe as Arguments};
use super::cluster::Cluster;
use super::documents::{self, Document};
use super::output;
use attempts::{Attempt, Filter, Work};
use report::Report;

/// How many targets are probed at a time.
const AT_A_TIME: usize = 128;

/// What can probe: the operator's prober, or a made-up one in tests.
trait Probe {
    /// All addresses of a DNS name.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Cause>;
    /// One probe of one target.
    async fn once(&self, target: &Target) -> Probed;
}

/// One probe, and how long each of its steps took, as far as it came.
#[derive(Clone, Debug)]
struct Probed {
    outcome: Outcome,
    took: Duration,
    connect: Option<Duration>,
    tls: Option<Duration>,
    first_byte: Option<Duration>,
}

pub(super) async fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<Exit> {
    let prober = adapter::OperatorProber::new()?;
    let policy = AddressPolicy { allow: arguments.allow.clone(), deny: arguments.deny.clone() };
    let given = materials::given(&arguments.materials)?;
    let (ceps, documents, cluster) = load(arguments, global).await?;
    let filter = Filter { hosts: &arguments.hosts, ports: &arguments.ports };
    let mut reports = Vec::new();
    for cep in &ceps {
        let namespace = cep.namespace().or_else(|| global.namespace.clone()).unwrap_or_default();
        let sources =
            materials::Sources { documents: &documents, given: &given, cluster: cluster.as_ref(), global };
        let materials = materials::gather(&cep.spec, &namespace, &sources).await;
        let attempts = attempts::of(cep, &namespace, &materials, &policy)?;
        let attempts = attempts.into_iter().filter(|attempt| filter.admits(attempt)).collect();
        reports.push(Report {
            namespace,
            name: cep.name_any(),
            endpoints: probe_all(&prober, attempts, &policy, arguments).await,
        });
    }
    if reports.iter().all(|report| report.endpoints.is_empty()) {
        anyhow::bail!("no host is left to probe: --host and --port are compared with what the spec lists");
    }
    match global.output {
        Some(format) => output::print(&output::render(&report::json(&reports), format)?)?,
        None => output::print(&report::table(&reports, output::Palette::of(&std::io::stdout())))?,
    }
    let all_well = reports.iter().all(Report::all_well);
    Ok(if all_well { Exit::Done } else { Exit::HostFailed })
}

async fn load(
    arguments: &Arguments,
    global: &Global,
) -> anyhow::Result<(Vec<ClusterEndpoint>, Vec<Document>, Option<Cluster>)> {
    if arguments.files.is_empty() {
        let cluster = Cluster::connect(global).await?;
        let mut ceps = Vec::new();
        for name in &arguments.names {
            ceps.push(cluster.get(name).await?);
        }
        return Ok((ceps, Vec::new(), Some(cluster)));
    }
    let documents = documents::read(&arguments.files)?;
    let ceps: Vec<&Document> = documents.iter().filter(|document| document.is(GROUP, KIND)).collect();
    if ceps.is_empty() {
        let old = documents.iter().any(|document| document.is("sealos.io", KIND));
        anyhow::bail!(
            "there is no ClusterEndpoint of {GROUP} in what was given with -f{}",
            if old { "; turn those of sealos.io into such with cepctl migrate -f" } else { "" }
        );
    }
    let ceps = ceps.into_iter().map(Document::parse).collect::<Result<_, _>>()?;
    Ok((ceps, documents, None))
}

async fn probe_all(
    prober: &impl Probe,
    attempts: Vec<Attempt>,
    policy: &AddressPolicy,
    arguments: &Arguments,
) -> Vec<report::Endpoint> {
    let resolved = stream::iter(attempts)
        .map(|attempt| resolve(prober, attempt, policy, arguments.first_address))
        .buffered(AT_A_TIME)
        .collect::<Vec<_>>()
        .await;
    stream::iter(resolved.into_iter().flatten())
        .map(|endpoint| probe(prober, endpoint, arguments))
        .buffered(AT_A_TIME)
        .collect()
        .await
}

/// One endpoint for each address of the host.
async fn resolve(
    prober: &impl Probe,
    attempt: Attempt,
    policy: &AddressPolicy,
    first_only: bool,
) -> Vec<(report::Endpoint, Option<Target>)> {
    let fixed = |outcome| (report::Endpoint::new(&attempt, None, Some(outcome)), None);
    let (name, template) = match &attempt.work {
        Work::Probe(target) => {
            let address = Some(target.address.ip());
            return vec![(report::Endpoint::new(&attempt, address, None), Some(target.clone()))];
        }
        Work::Hindered(cause) => return vec![fixed(Outcome::Unknown(cause.clone()))],
        Work::Nothing => return vec![(report::Endpoint::new(&attempt, None, None), None)],
        Work::Resolve(name, template) => (name, template),
    };
    let started = Instant::now();
    let mut addresses = match prober.resolve(name).await {
        Ok(addresses) => addresses,
        Err(cause) => return vec![fixed(Outcome::Unknown(cause))],
    };
    let took = started.elapsed();
    addresses.truncate(if first_only { 1 } else { usize::MAX });
    addresses
        .into_iter()
        .map(|address| {
            let (denied, target) = match policy.permit(address) {
                Ok(()) => (None, template(address)),
                Err(denied) => (Some(attempts::denied(address, denied)), None),
            };
            let mut endpoint = report::Endpoint::new(&attempt, Some(address), denied);
            endpoint.dns = Some(took);
            (endpoint, target)
        })
        .collect()
}

async fn probe(
    prober: &impl Probe,
    (mut endpoint, target): (report::Endpoint, Option<Target>),
    arguments: &Arguments,
) -> report::Endpoint {
    let Some(target) = target else { return endpoint };
    for round in 0..arguments.repeat {
        if round > 0 {
            tokio::time::sleep(arguments.interval).await;
        }
        endpoint.runs.push(prober.once(&target).await);
    }
    endpoint
}

#[cfg(test)]
mod tests;
