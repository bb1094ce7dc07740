//! Handing an adopted Service back, when not all is as it should be.

use std::collections::BTreeMap;

use super::super::*;
use super::world::{World, brief, hand_made};
use crate::samples::{definition, ip, snapshot};

fn adopted(hosts: &str, verdicts: &str) -> World {
    let mut world = hand_made();
    let db = definition(&format!("{{hosts: {hosts}, ports: [{{name: sql, port: 3306, tcpSocket: {{}}}}]}}"));
    world.reconcile(&snapshot(&db, verdicts));
    world
}

/// Goes through with it; the mirroring controller works only if `mirrored`.
fn carry_out(world: &mut World, mirrored: bool) -> Vec<String> {
    let mut steps = Vec::new();
    for _ in 0..10 {
        if world.finalizers.is_empty() {
            return steps;
        }
        let patient = mirrored || steps.last().is_none_or(|step| step != "await");
        match hand_back(&world.identity, &world.observed, patient) {
            HandBack::Write(writes) => {
                world.carry_out(&writes);
                steps.extend(brief(&writes));
            }
            HandBack::AwaitMirror => {
                steps.push("await".to_owned());
                if mirrored {
                    world.mirror();
                }
            }
        }
    }
    panic!("a hand-back comes to an end: {steps:#?}");
}

fn ready_addresses(world: &World) -> Vec<std::net::IpAddr> {
    let subsets = Subset::read(world.observed.endpoints.as_ref().unwrap()).unwrap();
    assert!(subsets.iter().all(|subset| subset.not_ready.is_empty()), "{subsets:?}");
    subsets.into_iter().flat_map(|subset| subset.ready).collect()
}

#[test]
fn every_host_is_in_addresses_again() {
    let mut world = adopted("[10.0.0.1, 10.0.0.2, 10.0.0.3]", "HUU");
    let steps = carry_out(&mut world, true);
    assert_eq!(steps[..3], ["replace endpoints", "await", "delete db.sql-ipv4-0"]);
    assert_eq!(steps.last().map(String::as_str), Some("remove finalizer"));
    assert_eq!(ready_addresses(&world), [ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.3")]);
    let labels = world.observed.endpoints.as_ref().unwrap().metadata.labels.clone().unwrap_or_default();
    assert!(!labels.contains_key(SKIP_MIRROR_LABEL) && !labels.contains_key(MANAGED_BY_LABEL), "{labels:?}");
}

#[test]
fn without_a_mirroring_controller_our_slices_stay_as_hand_made_ones() {
    let mut world = adopted("[10.0.0.1, 10.0.0.2]", "HU");
    let steps = carry_out(&mut world, false);
    assert_eq!(steps[..3], ["replace endpoints", "await", "replace db.sql-ipv4-0"]);
    let left = &world.observed.foreign;
    assert_eq!((left.len(), left[0].managed_by.as_deref()), (1, Some("staff")), "{left:?}");
}

#[test]
fn of_two_families_one_is_mirrored_and_the_other_left_as_slices() {
    let mut world = adopted("[10.0.0.1, 'fd00::1']", "UU");
    let steps = carry_out(&mut world, true);
    assert!(steps.contains(&"delete db.sql-ipv4-0".to_owned()), "{steps:?}");
    assert!(steps.contains(&"replace db.sql-ipv6-0".to_owned()), "{steps:?}");
    assert_eq!(ready_addresses(&world), [ip("10.0.0.1")]);
    assert!(world.observed.foreign.iter().any(|f| f.name == "db.sql-ipv6-0"), "{:?}", world.observed.foreign);
}

#[test]
fn a_service_that_is_gone_needs_no_hand_back() {
    let mut world = adopted("[10.0.0.1]", "H");
    world.observed.service = None;
    assert_eq!(carry_out(&mut world, true), ["remove finalizer"]);
}

#[test]
fn a_cluster_that_writes_no_endpoints_gets_them_back_too() {
    let mut world = hand_made();
    world.write_endpoints = false;
    let db = definition("{hosts: [10.0.0.1, 10.0.0.2], ports: [{name: sql, port: 3306, tcpSocket: {}}]}");
    world.reconcile(&snapshot(&db, "HU"));
    let steps = carry_out(&mut world, true);
    assert_eq!(steps[..2], ["create endpoints", "await"]);
    assert_eq!(ready_addresses(&world), [ip("10.0.0.1"), ip("10.0.0.2")]);
}

#[test]
fn more_addresses_than_endpoints_hold_stay_in_slices() {
    let hosts: Vec<String> = (0..1001).map(|n| format!("10.1.{}.{}", n / 250, n % 250 + 1)).collect();
    let mut world = adopted(&format!("[{}]", hosts.join(", ")), "U");
    let steps = carry_out(&mut world, true);
    assert_eq!(steps[..2], ["replace db.sql-ipv4-0", "replace db.sql-ipv4-1"]);
    assert_eq!(world.observed.foreign.iter().filter(|f| f.managed_by.as_deref() == Some("staff")).count(), 2);
}

#[test]
fn it_goes_on_after_any_of_its_writes() {
    let mut world = hand_made();
    let db = definition(
        "{hosts: [10.0.0.1, 10.0.0.2], ports: [{name: sql, port: 3306, tcpSocket: {}}, \
         {name: admin, port: 33060, tcpSocket: {}}]}",
    );
    world.reconcile(&snapshot(&db, "HUUH"));
    let before = world.observed.service.clone().unwrap();
    for stop in 0.. {
        if world.finalizers.is_empty() {
            assert!(stop > 4, "Endpoints, two slices, the Service, the finalizer");
            break;
        }
        // One write, and another process goes on.
        match hand_back(&world.identity, &world.observed, true) {
            HandBack::Write(writes) => world.carry_out(&writes[..1]),
            HandBack::AwaitMirror => world.mirror(),
        }
    }
    let subsets = Subset::read(world.observed.endpoints.as_ref().unwrap()).unwrap();
    let ports: Vec<_> = subsets.iter().flat_map(|s| &s.ports).map(|port| port.name.as_str()).collect();
    assert_eq!(ports, ["sql", "admin"], "no port is lost on the way");
    assert_eq!(ready_addresses(&world), [ip("10.0.0.1"), ip("10.0.0.2")]);
    assert_eq!(world.observed.slices, []);
    assert_eq!(world.observed.service.unwrap().spec, before.spec);
}

#[test]
fn what_came_from_the_cep_goes_and_what_others_set_stays() {
    let mut world = World::with_labels(&[("team", "b"), ("tier", "front")]);
    let made = hand_made();
    world.observed = made.observed;
    // `team` was there before the cep.
    let labels = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| meta.labels.clone();
    let theirs = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    world.observed.service.as_mut().unwrap().metadata.labels = Some(theirs.clone());
    world.observed.endpoints.as_mut().unwrap().metadata.labels = Some(theirs.clone());
    let annotations = world.observed.service.as_ref().unwrap().metadata.annotations.clone();
    let db = definition("{hosts: [10.0.0.1], ports: [{name: sql, port: 3306, tcpSocket: {}}]}");
    world.reconcile(&snapshot(&db, "H"));
    let adopted = labels(&world.observed.service.as_ref().unwrap().metadata).unwrap();
    assert_eq!((adopted["team"].as_str(), adopted["tier"].as_str()), ("a", "front"));
    carry_out(&mut world, true);
    let service = world.observed.service.unwrap();
    assert_eq!(labels(&service.metadata), Some(theirs.clone()));
    assert_eq!(service.metadata.annotations, annotations);
    assert_eq!(labels(&world.observed.endpoints.unwrap().metadata), Some(theirs));
}

#[test]
fn a_service_that_has_pods_by_now_loses_our_hosts() {
    let mut world = adopted("[10.0.0.1, 10.0.0.2]", "HU");
    let spec = world.observed.service.as_mut().and_then(|service| service.spec.as_mut()).unwrap();
    spec.selector = Some(BTreeMap::from([("app".to_owned(), "db".to_owned())]));
    let steps = carry_out(&mut world, false);
    assert_eq!(steps.first().map(String::as_str), Some("delete db.sql-ipv4-0"));
    assert_eq!(steps.last().map(String::as_str), Some("remove finalizer"));
    assert!(!steps.iter().any(|step| step.contains("endpoints")), "{steps:?}");
}
