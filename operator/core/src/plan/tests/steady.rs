//! What was applied is enough, from any state to any other, and no step on the way leaves a port of the
//! Service without slices.

use proptest::prelude::*;

use super::super::*;
use super::world::{World, brief, hand_made};
use crate::check::ClusterIp;
use crate::samples::{definition, snapshot, snapshots};
use crate::snapshot::Snapshot;

const WEB: &str = "{hosts: [10.0.0.1, 10.0.0.2], ports: [{name: web, port: 80, tcpSocket: {}}]}";

fn web(verdicts: &str) -> Snapshot {
    snapshot(&definition(WEB), verdicts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_plan_is_enough(states in prop::collection::vec(snapshots(), 1..4), adopted: bool, endpoints: bool) {
        let kind = if adopted { ClusterIp::Allocated } else { states[0].definition.cluster_ip };
        let mut world = if adopted { hand_made() } else { World::new() };
        world.write_endpoints = endpoints;
        for state in states {
            if state.definition.cluster_ip != kind {
                // The API forbids to change between headless and not.
                prop_assert!(world.claim(&state.definition).is_err());
                continue;
            }
            let writes = world.plan(&state);
            world.carry_out(&writes);
            world.mirror();
            prop_assert_eq!(brief(&world.plan(&state)), Vec::<String>::new());
            prop_assert_eq!(world.observed.foreign.len(), 0);
            prop_assert_eq!(world.finalizers.len(), usize::from(adopted));
            let kept = world.observed.endpoints.as_ref().map(|e| Subset::read(e).unwrap().len());
            prop_assert!(kept.is_some() == endpoints, "{:?}", kept);
        }
    }

    /// A transition is one write a slice, and the Endpoints; nothing else moves.
    #[test]
    fn a_transition_is_one_write_a_slice(hosts in 2usize..40, out in 0usize..40) {
        let hosts: Vec<String> = (0..hosts).map(|n| format!("10.0.0.{n}")).collect();
        let yaml = format!("{{hosts: [{}], ports: [{{port: 80, tcpSocket: {{}}}}]}}", hosts.join(", "));
        let mut world = World::new();
        let mut state = snapshot(&definition(&yaml), "H");
        world.reconcile(&state);
        let out = out % hosts.len();
        state.endpoints[out].verdict = crate::health::Verdict::Unhealthy;
        prop_assert_eq!(brief(&world.reconcile(&state)), ["replace db.80-ipv4-0", "replace endpoints"]);
    }
}

#[test]
fn the_order_of_creation_adoption_and_change() {
    let mut world = World::new();
    assert_eq!(
        brief(&world.reconcile(&web("H"))),
        ["create service", "create db.web-ipv4-0", "create endpoints"]
    );

    let mut world = hand_made();
    let adopted = brief(&world.reconcile(&web("H")));
    assert_eq!(adopted, ["add finalizer", "create db.web-ipv4-0", "patch service", "replace endpoints"]);

    let https = definition("{hosts: [10.0.0.1, 10.0.0.2], ports: [{name: https, port: 80, tcpSocket: {}}]}");
    let renamed = brief(&world.reconcile(&snapshot(&https, "H")));
    assert_eq!(
        renamed,
        ["create db.https-ipv4-0", "patch service", "replace endpoints", "delete db.web-ipv4-0"]
    );
}

#[test]
fn hand_made_slices_and_left_over_ones_go_after_ours_exist() {
    let mut world = hand_made();
    for (name, managed_by) in [
        ("by-hand", None),
        ("by-staff", Some("staff")),
        ("of-the-selector", Some("endpointslice-controller.k8s.io")),
    ] {
        let managed_by = managed_by.map(str::to_owned);
        world.observed.foreign.push(ForeignSlice { name: name.to_owned(), managed_by });
    }
    let writes = brief(&world.reconcile(&web("H")));
    let expected = ["add finalizer", "create db.web-ipv4-0", "patch service", "replace endpoints"];
    assert_eq!(writes[..4], expected);
    assert_eq!(writes[4..], ["delete by-hand", "delete by-staff", "delete of-the-selector"]);
}

#[test]
fn a_slice_whose_service_was_changed_is_made_anew() {
    let mut world = World::new();
    world.reconcile(&web("H"));
    let labels = world.observed.slices[0].metadata.labels.as_mut().unwrap();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), "other".to_owned());
    assert_eq!(brief(&world.reconcile(&web("H"))), ["delete db.web-ipv4-0", "create db.web-ipv4-0"]);
}

#[test]
fn a_slice_that_lost_our_label_is_made_anew() {
    let mut world = World::new();
    world.reconcile(&web("H"));
    let name = world.observed.slices.remove(0).metadata.name.unwrap();
    world.observed.foreign.push(ForeignSlice { name, managed_by: None });
    assert_eq!(brief(&world.reconcile(&web("H"))), ["delete db.web-ipv4-0", "create db.web-ipv4-0"]);
}

#[test]
fn edits_by_others_are_undone_and_what_is_theirs_stays() {
    let mut world = World::with_labels(&[("team", "b")]);
    world.reconcile(&web("HU"));
    let pristine = world.observed.clone();

    let slice = &mut world.observed.slices[0];
    slice.endpoints.as_mut().unwrap()[1].conditions.as_mut().unwrap().ready = Some(true);
    assert_eq!(brief(&world.reconcile(&web("HU"))), ["replace db.web-ipv4-0"]);

    let slice = &mut world.observed.slices[0];
    slice.endpoints = None;
    slice.metadata.owner_references = None;
    assert_eq!(brief(&world.reconcile(&web("HU"))), ["replace db.web-ipv4-0"]);

    let endpoints = world.observed.endpoints.as_mut().unwrap();
    endpoints.metadata.labels.as_mut().unwrap().remove(SKIP_MIRROR_LABEL);
    endpoints.metadata.labels.as_mut().unwrap().insert("theirs".into(), "stays".into());
    assert_eq!(brief(&world.reconcile(&web("HU"))), ["replace endpoints"]);
    let labels = world.observed.endpoints.as_ref().unwrap().metadata.labels.clone().unwrap();
    assert_eq!((labels["theirs"].as_str(), labels[SKIP_MIRROR_LABEL].as_str()), ("stays", "true"));

    let service = world.observed.service.as_mut().unwrap();
    service.spec.as_mut().unwrap().selector = Some([("app".to_owned(), "x".to_owned())].into());
    service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].name = Some("other".to_owned());
    service.metadata.labels.as_mut().unwrap().insert("team".into(), "z".into());
    service.metadata.annotations.get_or_insert_default().insert("theirs".into(), "stays".into());
    assert_eq!(brief(&world.reconcile(&web("HU"))), ["patch service"]);
    let service = world.observed.service.as_ref().unwrap();
    assert_eq!(service.metadata.labels.as_ref().unwrap()["team"], "b");
    assert_eq!(service.metadata.annotations.as_ref().unwrap()["theirs"], "stays");
    let spec = |observed: &Observed| observed.service.as_ref().unwrap().spec.clone().unwrap();
    assert_eq!(spec(&world.observed).ports, spec(&pristine).ports);
    assert!(spec(&world.observed).selector.is_none_or(|selector| selector.is_empty()));
}

#[test]
fn labels_follow_the_cep_and_those_of_kubernetes_never_do() {
    let mut world = World::with_labels(&[
        ("team", "b"),
        ("stage", "prod"),
        ("service.kubernetes.io/headless", ""),
        ("app.kubernetes.io/name", "db"),
        ("x.k8s.io/y", "z"),
        ("notkubernetes.io/a", "stays"),
    ]);
    world.reconcile(&web("H"));
    world.identity.labels.remove("stage");
    let writes = brief(&world.reconcile(&web("H")));
    assert_eq!(writes, ["replace db.web-ipv4-0", "patch service", "replace endpoints"]);
    let own = |labels: &Option<std::collections::BTreeMap<String, String>>| -> Vec<String> {
        labels.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect()
    };
    let copied = ["notkubernetes.io/a=stays", "team=b"];
    assert_eq!(own(&world.observed.service.as_ref().unwrap().metadata.labels), copied);
    let slice = own(&world.observed.slices[0].metadata.labels);
    assert!(copied.iter().all(|label| slice.contains(&(*label).to_owned())), "{slice:?}");
    assert_eq!(slice.len(), 4, "{slice:?}");
}

#[test]
fn more_addresses_than_endpoints_hold_make_several_slices_and_no_endpoints() {
    let hosts: Vec<String> = (0..1200).map(|n| format!("10.1.{}.{}", n / 250, n % 250 + 1)).collect();
    let yaml =
        format!("{{hosts: [{}], ports: [{{name: web, port: 80}}, {{name: x, port: 81}}]}}", hosts.join(", "));
    let state = snapshot(&definition(&yaml), "H");
    let mut world = World::new();
    world.reconcile(&web("H"));
    let writes = brief(&world.reconcile(&state));
    let expected = [
        "replace db.web-ipv4-0",
        "create db.web-ipv4-1",
        "create db.x-ipv4-0",
        "create db.x-ipv4-1",
        "patch service",
        "delete endpoints",
    ];
    assert_eq!(writes, expected);
    let sizes: Vec<usize> =
        world.observed.slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect();
    assert_eq!(sizes, [1000, 200, 1000, 200]);
}

#[test]
fn without_endpoints_none_are_written_and_none_stay() {
    let mut world = World::new();
    world.write_endpoints = false;
    assert_eq!(brief(&world.reconcile(&web("H"))), ["create service", "create db.web-ipv4-0"]);

    let mut world = hand_made();
    world.write_endpoints = false;
    let writes = brief(&world.reconcile(&web("H")));
    assert_eq!(writes, ["add finalizer", "create db.web-ipv4-0", "patch service", "delete endpoints"]);

    // Those of the original operator carry no label of ours, and would go on being mirrored.
    let mut world = World::new();
    world.reconcile(&web("H"));
    world.write_endpoints = false;
    world.observed.endpoints.as_mut().unwrap().metadata.labels = None;
    world.mirror();
    assert_eq!(brief(&world.reconcile(&web("H"))), ["delete endpoints"]);
}
