//! The operator's prober, whole: schedule, probes, health, guard, metrics, snapshots.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use cep_core::address_policy::AddressPolicy;
use cep_core::api::v1beta1::{ClusterEndpointSpec, Protocol};
use cep_core::check::{Cadence, Check, Definition, Materials, parse};
use cep_core::guard::GuardConfig;
use cep_core::snapshot::{CepKey, Seeds};
use endpoints_operator::metrics::Metrics;
use endpoints_operator::prober::{self, Prober};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Demand, Kind, report};
use crate::exposition::Exposition;

const HOSTS_PER_CEP: u32 = 5;

pub(super) fn run(demand: Demand) -> Result<()> {
    let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    let config = prober::Config {
        policy: AddressPolicy::default(),
        guard: GuardConfig::default(),
        vantage: Vec::new(),
        nameservers: vec!["127.0.0.1:53".parse()?],
        max_in_flight: prober::max_in_flight(descriptors),
    };
    let metrics = Metrics::new("bench");
    let (changed, mut changes) = mpsc::unbounded_channel();
    let prober = Prober::start(config, metrics.clone(), changed, || ())?;
    std::thread::spawn(move || while changes.blocking_recv().is_some() {});

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        for first in (0..demand.targets).step_by(HOSTS_PER_CEP as usize) {
            let key = CepKey::new("bench", format!("cep-{first}"));
            prober.watch(key, Arc::new(definition(demand, first)?), Seeds::default()).await?;
        }
        anyhow::Ok(())
    })?;
    let begun = || probes(&metrics, demand.kind).0 >= u64::from(demand.targets);
    for _ in 0..600 {
        if begun() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(begun(), "the prober has not reached all targets: {}", metrics.encode());
    report(move || probes(&metrics, demand.kind))
}

/// A cep of the bench, as the operator's controller would hand it over.
fn definition(demand: Demand, first: u32) -> Result<Definition> {
    let hosts: Vec<_> = (first..demand.targets.min(first + HOSTS_PER_CEP))
        .map(|target| demand.address(target).ip().to_string())
        .collect();
    let mut port =
        json!({"name": "bench", "port": super::PORT, "protocol": Protocol::Tcp, "timeoutSeconds": 1});
    match demand.kind {
        Kind::Tcp => port["tcpSocket"] = json!({"enable": true}),
        Kind::Http => port["httpGet"] = json!({"path": "/"}),
    }
    let spec = json!({"hosts": hosts, "periodSeconds": 10, "ports": [port]});
    let spec: ClusterEndpointSpec = serde_json::from_value(spec)?;
    let policy = AddressPolicy { allow: vec!["127.0.0.0/8".parse()?], deny: Vec::new() };
    let mut definition = parse("bench", &spec, &Materials::default(), &policy)
        .map_err(|errors| anyhow::anyhow!("the bench's own spec: {errors:?}"))?;
    // Shorter than any spec may ask for, where the prober is to run as fast as it can.
    definition.cadence = Cadence { period: demand.period(), retry: demand.period() };
    debug_assert!(definition.ports.iter().all(|port| !matches!(port.check, None | Some(Check::Module(_)))));
    Ok(definition)
}

/// Successes, all else, and where they are told.
fn probes(metrics: &Metrics, kind: Kind) -> (u64, u64, String) {
    let text = Exposition(metrics.encode());
    let count = |labels: &str| text.sum("endpoints_operator_probes_total", labels) as u64;
    let successes = count(&format!("kind=\"{}\",outcome=\"success\"", kind.name()));
    (successes, count("") - successes, text.0)
}
