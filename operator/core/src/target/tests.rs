use std::collections::HashSet;

use super::*;
use crate::check::Definition;
use crate::samples::{definition, ip};

fn target(definition: &Definition, host: usize, address: &str) -> Option<Target> {
    let port = &definition.ports[0];
    Target::new(port, &port.hosts[host], ip(address), definition.cadence)
}

const TCP: &str = "{hosts: [a.example, 10.0.0.1], ports: [{port: 80, tcpSocket: {}}]}";
const HTTP: &str = "{hosts: [a.example, 10.0.0.1], ports: [{port: 80, httpGet: {}}]}";

#[test]
fn equal_probes_are_one_target_whoever_lists_them() {
    let other = definition(
        "{hosts: [10.0.0.1], ports: [{name: x, port: 9, targetPort: 80, failureThreshold: 9, tcpSocket: {}}]}",
    );
    assert_eq!(target(&definition(TCP), 1, "10.0.0.1"), target(&other, 0, "10.0.0.1"));
    // A connection does not ask for a name; a request does.
    assert_eq!(target(&definition(TCP), 0, "10.0.0.1"), target(&definition(TCP), 1, "10.0.0.1"));
    assert_ne!(target(&definition(HTTP), 0, "10.0.0.1"), target(&definition(HTTP), 1, "10.0.0.1"));
}

#[test]
fn what_makes_a_probe_another_one() {
    let base = target(&definition(HTTP), 1, "10.0.0.1");
    for other in [
        "{hosts: [a.example, 10.0.0.1], ports: [{port: 81, httpGet: {}}]}",
        "{hosts: [a.example, 10.0.0.1], ports: [{port: 80, httpGet: {path: /x}}]}",
        "{hosts: [a.example, 10.0.0.1], ports: [{port: 80, timeoutSeconds: 2, httpGet: {}}]}",
        "{hosts: [a.example, 10.0.0.1], periodSeconds: 9, ports: [{port: 80, httpGet: {}}]}",
        "{hosts: [a.example, 10.0.0.1], retryPeriodSeconds: 1, ports: [{port: 80, httpGet: {}}]}",
        TCP,
    ] {
        assert_ne!(target(&definition(other), 1, "10.0.0.1"), base, "{other}");
    }
    assert_ne!(target(&definition(HTTP), 1, "10.0.0.2"), base);
    let unprobed = definition("{hosts: [10.0.0.1], ports: [{port: 80}]}");
    assert_eq!(target(&unprobed, 0, "10.0.0.1"), None);
}

#[test]
fn neighbours_are_spread_evenly() {
    let tcp = definition(TCP);
    let seeds: Vec<u64> = (0..1000)
        .map(|n| target(&tcp, 1, &format!("10.0.{}.{}", n / 250, n % 250)).unwrap().seed())
        .collect();
    assert_eq!(seeds.iter().collect::<HashSet<_>>().len(), 1000);
    let mut tenths = [0; 10];
    seeds.iter().for_each(|seed| tenths[((u128::from(*seed) * 10) >> 64) as usize] += 1);
    assert!(tenths.iter().all(|n| (60..=140).contains(n)), "{tenths:?}");
}

/// A new leader must probe at the beat of the old one.
#[test]
fn the_seed_is_the_same_in_every_run() {
    insta::assert_snapshot!(
        format!("{:016x}", target(&definition(TCP), 1, "10.0.0.1").unwrap().seed()),
        @"6fed2e4cdb596cbc"
    );
}
