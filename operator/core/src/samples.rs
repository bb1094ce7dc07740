//! Specs, definitions and snapshots for the tests of this crate.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use crate::address_policy::AddressPolicy;
use crate::api::v1beta1::ClusterEndpointSpec;
use crate::check::{Definition, FieldError, Host, Materials, parse};
use crate::health::Verdict;
use crate::outcome::{Cause, Reason};
use crate::snapshot::{Endpoint, Snapshot};

/// A spec in YAML.
pub(crate) fn spec(yaml: &str) -> ClusterEndpointSpec {
    serde_saphyr::from_str(yaml).expect("the sample is a spec")
}

/// Parses with nothing referred to and the built-in address policy.
pub(crate) fn parsed(spec: &ClusterEndpointSpec) -> Result<Definition, Vec<FieldError>> {
    parse("shop", spec, &Materials::new(), &AddressPolicy::default())
}

/// The definition of a spec in YAML.
pub(crate) fn definition(yaml: &str) -> Arc<Definition> {
    Arc::new(parsed(&spec(yaml)).expect("the sample can be carried out"))
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("within the range of time")
}

pub(crate) fn refused() -> Cause {
    Cause::new(Reason::ConnectionRefused, "nothing listens on the port")
}

pub(crate) fn endpoint(port: usize, host: &Host, address: Option<IpAddr>, verdict: Verdict) -> Endpoint {
    let cause = (verdict == Verdict::Unhealthy).then(refused);
    Endpoint { port, host: host.clone(), address, verdict, since: at(1_000), cause, obstacle: None }
}

/// Every literal host of every port, with verdicts by turns: `H`, `U` and `?`.
pub(crate) fn snapshot(definition: &Arc<Definition>, verdicts: &str) -> Snapshot {
    let mut turns = verdicts.chars().cycle();
    let mut endpoints = Vec::new();
    for (index, port) in definition.ports.iter().enumerate() {
        for host in &port.hosts {
            let Host::Address(address) = host else { continue };
            let verdict = match turns.next() {
                Some('U') => Verdict::Unhealthy,
                Some('?') => Verdict::Unknown,
                _ => Verdict::Healthy,
            };
            endpoints.push(endpoint(index, host, Some(*address), verdict));
        }
    }
    Snapshot { definition: definition.clone(), endpoints, blind: false }
}

/// Definitions of one to four ports with up to eight hosts of both families.
pub(crate) fn definitions() -> impl Strategy<Value = Arc<Definition>> {
    let host = prop_oneof![
        3 => (1u8..30).prop_map(|n| format!("10.0.0.{n}")),
        1 => (1u8..30).prop_map(|n| format!("fd00::{n:x}")),
        1 => (1u8..5).prop_map(|n| format!("h{n}.example.org")),
    ];
    let port = (prop::collection::vec(host, 1..8), 1u16..4, prop::sample::select(vec!["TCP", "UDP"]));
    (prop::collection::vec(port, 1..5), prop::sample::select(vec!["", "None"]), 0u8..=100).prop_map(
        |(ports, cluster_ip, panic)| {
            let ports: Vec<_> = ports
                .into_iter()
                .enumerate()
                .map(|(i, (hosts, target, protocol))| {
                    serde_json::json!({
                        "name": format!("p{i}"), "port": 80 + i, "targetPort": target, "hosts": hosts,
                        "protocol": protocol, "tcpSocket": {},
                    })
                })
                .collect();
            let spec = serde_json::json!({"clusterIP": cluster_ip, "panicThreshold": panic, "ports": ports});
            let spec = serde_json::from_value(spec).expect("a spec");
            Arc::new(parsed(&spec).expect("a definition"))
        },
    )
}

/// Snapshots of [`definitions`]: names lead to none, one or two addresses.
pub(crate) fn snapshots() -> impl Strategy<Value = Snapshot> {
    definitions().prop_flat_map(snapshots_of)
}

pub(crate) fn snapshots_of(definition: Arc<Definition>) -> impl Strategy<Value = Snapshot> {
    let hosts: usize = definition.ports.iter().map(|port| port.hosts.len()).sum();
    let known = (0usize..3, 0u8..20, 0u8..20, 0i64..1_000_000_000, 0usize..4);
    let verdict = prop::sample::select(vec![Verdict::Healthy, Verdict::Unhealthy, Verdict::Unknown]);
    (prop::collection::vec((known, verdict), hosts), any::<bool>()).prop_map(move |(known, blind)| {
        let mut endpoints = Vec::new();
        let all = definition.ports.iter().enumerate().flat_map(|(i, p)| p.hosts.iter().map(move |h| (i, h)));
        for ((port, host), ((count, a, b, since, obstacle), verdict)) in all.zip(&known) {
            let addresses: Vec<Option<IpAddr>> = match host {
                Host::Address(address) => vec![Some(*address)],
                Host::Name(_) if *count == 0 => vec![None],
                Host::Name(_) => {
                    let mut addresses = vec![IpAddr::from([10, 0, 1, *a]), IpAddr::from([10, 0, 1, *b])];
                    addresses.truncate(*count);
                    addresses.sort();
                    addresses.dedup();
                    addresses.into_iter().map(Some).collect()
                }
            };
            for address in addresses {
                let verdict = if address.is_some() { *verdict } else { Verdict::Unknown };
                let mut endpoint = endpoint(port, host, address, verdict);
                endpoint.since = Timestamp::from_millisecond(*since * 1_007).expect("within range");
                endpoint.obstacle = (*obstacle == 0).then(|| Cause::new(Reason::NotResolved, "no answer"));
                endpoints.push(endpoint);
            }
        }
        Snapshot { definition: definition.clone(), endpoints, blind }
    })
}
