//! Whole plans, to be read by people: `snapshots/`.

use super::super::*;
use super::world::{World, hand_made, shown, yaml};
use crate::samples::{definition, snapshot};

#[test]
fn create() {
    let mut world = World::with_labels(&[("team", "b"), ("service.kubernetes.io/headless", "")]);
    let shop = definition(
        "{hosts: [10.0.0.2, 10.0.0.1, fd00::5], ports: [{name: web, port: 80, targetPort: 8080, tcpSocket: {}},
          {name: dns, port: 53, protocol: UDP}]}",
    );
    let writes = world.reconcile(&snapshot(&shop, "HUHHHH"));
    insta::assert_yaml_snapshot!(shown(&writes));
}

#[test]
fn adopt() {
    let mut world = hand_made();
    let db = definition("{hosts: [10.0.0.1, 10.0.0.2], ports: [{name: sql, port: 3306, tcpSocket: {}}]}");
    let writes = world.reconcile(&snapshot(&db, "HU"));
    insta::assert_yaml_snapshot!(shown(&writes));
    assert!(world.observed.foreign.is_empty(), "the mirrored slices are gone");
}

#[test]
fn rename_a_port() {
    let mut world = hand_made();
    let before = definition("{hosts: [10.0.0.1], ports: [{name: sql, port: 3306, tcpSocket: {}}]}");
    world.reconcile(&snapshot(&before, "H"));
    let after = definition("{hosts: [10.0.0.1], ports: [{name: mysql, port: 3306, tcpSocket: {}}]}");
    let writes = world.reconcile(&snapshot(&after, "H"));
    insta::assert_yaml_snapshot!(shown(&writes));
}

#[test]
fn hand_back_of_an_adopted_service() {
    let mut world = hand_made();
    let db = definition("{hosts: [10.0.0.1, 10.0.0.2], ports: [{name: sql, port: 3306, tcpSocket: {}}]}");
    world.reconcile(&snapshot(&db, "HU"));
    let mut steps = Vec::new();
    while !world.finalizers.is_empty() {
        match hand_back(&world.identity, &world.observed, true) {
            HandBack::Write(writes) => {
                world.carry_out(&writes);
                steps.push(shown(&writes));
            }
            HandBack::AwaitMirror => {
                steps.push("await the mirroring controller".into());
                world.mirror();
            }
        }
        assert!(steps.len() < 10, "a hand-back comes to an end: {steps:#?}");
    }
    insta::assert_yaml_snapshot!(steps);
    assert!(world.observed.slices.is_empty(), "our slices are gone");
    assert_eq!(world.covered_ports(), [3306].into());
    let service = world.observed.service.as_ref().unwrap();
    let before: Service = yaml(super::world::HAND_MADE_SERVICE);
    let spec = |s: &Service| s.spec.clone().unwrap();
    assert_eq!(spec(service).cluster_ip, spec(&before).cluster_ip);
    assert_eq!(spec(service).ports.unwrap()[0].node_port, Some(30306));
}
