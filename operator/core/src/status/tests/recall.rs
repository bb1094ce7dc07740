//! After a restart: slices say what, the status says since when and why.

use proptest::prelude::*;

use super::super::*;
use super::applied;
use crate::endpoints::slices;
use crate::fail_open::serve;
use crate::samples::{at, definition, ip, snapshot, snapshots};

/// What the controller reads from our own slices.
fn seeds(snapshot: &Snapshot) -> Seeds {
    let mut seeds = Seeds::default();
    for slice in slices("db", snapshot, &serve(snapshot)) {
        for (address, ready) in slice.endpoints {
            let verdict = if ready { Verdict::Healthy } else { Verdict::Unhealthy };
            let seed = Seed { verdict, since: None, cause: None };
            seeds.insert(Some(&slice.port.name), slice.port.number, address, seed);
        }
    }
    seeds
}

fn restarted(snapshot: &Snapshot) -> Seeds {
    let mut seeds = seeds(snapshot);
    recall(&mut seeds, Some(&applied(snapshot, None, 7)), &snapshot.definition);
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_changes_no_verdict(state in snapshots()) {
        let seeds = restarted(&state);
        let definition = &state.definition;
        for endpoint in &state.endpoints {
            let Some(address) = endpoint.address else { continue };
            let port = &definition.ports[endpoint.port];
            // An address under two hosts has one seed.
            let twice = state.endpoints.iter().filter(|e| e.port == endpoint.port && e.address == endpoint.address).count() > 1;
            let found = seeds.get(port.name.as_deref(), port.target_port, address);
            if twice || endpoint.verdict == Verdict::Unknown {
                continue;
            }
            let seed = found.expect("what was judged is in the slices");
            prop_assert_eq!(seed.verdict, endpoint.verdict);
            prop_assert_eq!(&seed.cause, &endpoint.cause);
            prop_assert_eq!(seed.since.map(|t| t.as_second()), Some(endpoint.since.as_second()));
        }
    }
}

#[test]
fn panic_does_not_hide_who_is_sick() {
    let db =
        definition("{hosts: [10.0.0.1, 10.0.0.2], panicThreshold: 60, ports: [{port: 80, tcpSocket: {}}]}");
    let state = snapshot(&db, "HU");
    assert_eq!(seeds(&state).get(None, 80, ip("10.0.0.2")).unwrap().verdict, Verdict::Healthy);
    let seed = restarted(&state).get(None, 80, ip("10.0.0.2")).cloned().unwrap();
    assert_eq!((seed.verdict, seed.since), (Verdict::Unhealthy, Some(at(1_000))));
}

/// A slice is written before the status: when they disagree, the status is the older one.
#[test]
fn a_status_that_lags_behind_is_not_believed() {
    for threshold in [0, 60] {
        let db = definition(&format!(
            "{{hosts: [10.0.0.1, 10.0.0.2, 10.0.0.3], panicThreshold: {threshold}, ports: [{{port: 80, tcpSocket: {{}}}}]}}"
        ));
        let mut seeds = seeds(&snapshot(&db, "HHU"));
        recall(&mut seeds, Some(&applied(&snapshot(&db, "H"), None, 7)), &db);
        let seed = seeds.get(None, 80, ip("10.0.0.3")).unwrap();
        assert_eq!((seed.verdict, seed.since), (Verdict::Unhealthy, None), "{threshold}");
    }
}

#[test]
fn one_number_of_two_protocols_is_not_mixed_up() {
    let dns = definition(
        "{hosts: [10.0.0.1], panicThreshold: 1, ports: [{name: tcp, port: 53, tcpSocket: {}},
          {name: udp, port: 53, protocol: UDP, tcpSocket: {}}]}",
    );
    let mut state = snapshot(&dns, "HU");
    let definition = Definition { panic_threshold: 1, ..(*dns).clone() };
    state.definition = definition.into();
    let seeds = restarted(&state);
    assert_eq!(seeds.get(Some("tcp"), 53, ip("10.0.0.1")).unwrap().verdict, Verdict::Healthy);
}

#[test]
fn nonsense_in_a_status_is_passed_over() {
    let db = definition("{hosts: [10.0.0.1], ports: [{port: 80, tcpSocket: {}}]}");
    let odd = |port: i32, address: Option<&str>, verdict: &str, reason: Option<&str>| EndpointStatus {
        port,
        host: "x".to_owned(),
        address: address.map(str::to_owned),
        verdict: verdict.to_owned(),
        reason: reason.map(str::to_owned),
        message: reason.map(str::to_owned),
        since: Some(Time(at(5))),
    };
    let endpoints = vec![
        odd(-1, Some("10.0.0.1"), "Healthy", None),
        odd(99_999, Some("10.0.0.1"), "Healthy", None),
        odd(80, Some("nowhere"), "Healthy", None),
        odd(80, None, "Healthy", None),
        odd(80, Some("10.0.0.1"), "Splendid", None),
        odd(80, Some("10.0.0.1"), "Unknown", None),
        odd(80, Some("10.0.0.1"), "Unhealthy", Some("FromALaterVersion")),
    ];
    let status = ClusterEndpointStatus { endpoints: Some(endpoints), ..Default::default() };
    let mut seeds = seeds(&snapshot(&db, "U"));
    recall(&mut seeds, Some(&status), &db);
    let cause = seeds.get(None, 80, ip("10.0.0.1")).unwrap().cause.clone().unwrap();
    assert_eq!((cause.reason, &*cause.message), (Reason::Other, "FromALaterVersion"));
    recall(&mut seeds, None, &db);
}

#[test]
fn another_replica_came_to_the_same_verdicts_at_other_moments() {
    let db = definition("{hosts: [10.0.0.1, 10.0.0.2, 10.0.0.3], ports: [{port: 80, tcpSocket: {}}]}");
    let mut state = snapshot(&db, "HUU");
    let told = applied(&state, None, 7);
    assert_eq!(told_otherwise(&told, &state), [], "both say the same");
    state.endpoints[0].since = at(1_003);
    state.endpoints[1].cause = Some(Cause::new(Reason::Timeout, "no answer"));
    state.endpoints[2].verdict = Verdict::Healthy;
    let otherwise = told_otherwise(&told, &state);
    let hosts: Vec<_> = otherwise.iter().map(|told| (told.host.as_str(), told.since)).collect();
    assert_eq!(hosts, [("10.0.0.2", at(1_000)), ("10.0.0.1", at(1_000))], "not where the verdict differs");
    assert_eq!(otherwise[0].cause, Some(crate::samples::refused()));
}
