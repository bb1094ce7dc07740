mod conditions;
mod events;
mod recall;

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fail_open::serve;
use crate::samples::{at, definition, snapshot, snapshots};

fn applied(snapshot: &Snapshot, before: Option<&ClusterEndpointStatus>, now: i64) -> ClusterEndpointStatus {
    let serving = serve(snapshot);
    let progress = Progress::Applied { snapshot, serving: &serving, warnings: &[] };
    status(before, Some(3), &progress, at(now))
}

fn web() -> Arc<Definition> {
    definition(
        "{hosts: [10.0.0.1, 10.0.0.2, 10.0.0.3], ports: [{name: web, port: 80, targetPort: 8080, tcpSocket: {}}]}",
    )
}

#[test]
fn phase_and_ready_follow_the_verdicts() {
    for (verdicts, phase, ready) in [
        ("HHH", Phase::Healthy, "3/3"),
        ("HUH", Phase::UnHealthy, "2/3"),
        ("H?H", Phase::Pending, "2/3"),
        ("U?H", Phase::UnHealthy, "1/3"),
        ("???", Phase::Pending, "0/3"),
    ] {
        let status = applied(&snapshot(&web(), verdicts), None, 7);
        assert_eq!((status.phase, status.ready.as_deref()), (Some(phase), Some(ready)), "{verdicts}");
        assert_eq!(status.observed_generation, Some(3));
    }
}

#[test]
fn the_sick_are_listed_first_and_at_most_64() {
    let hosts: Vec<String> = (1..=100).map(|n| format!("10.0.0.{n}")).collect();
    let many =
        definition(&format!("{{hosts: [{}], ports: [{{port: 80, tcpSocket: {{}}}}]}}", hosts.join(", ")));
    let mut state = snapshot(&many, "H");
    state.endpoints[99].verdict = Verdict::Unhealthy;
    state.endpoints[98].verdict = Verdict::Unknown;
    state.endpoints[97].obstacle = Some(crate::samples::refused());
    let status = applied(&state, None, 7);
    let listed = status.endpoints.unwrap();
    let hosts: Vec<&str> = listed.iter().take(5).map(|e| e.host.as_str()).collect();
    assert_eq!(hosts, ["10.0.0.100", "10.0.0.99", "10.0.0.98", "10.0.0.1", "10.0.0.2"]);
    assert_eq!(listed.len(), MAX_ENDPOINTS);
    assert_eq!(status.ready.as_deref(), Some("98/100"));

    state.endpoints.iter_mut().for_each(|e| e.verdict = Verdict::Unhealthy);
    let listed = applied(&state, None, 7).endpoints.unwrap();
    assert_eq!(listed.len(), MAX_ENDPOINTS);
    assert_eq!(listed[0].host, "10.0.0.1", "within a rank the order of the spec");
}

#[test]
fn a_status_as_people_read_it() {
    let status = applied(&snapshot(&web(), "HU?"), None, 7);
    insta::assert_yaml_snapshot!(status);
}

#[test]
fn a_refused_spec_leaves_what_was_known() {
    let before = applied(&snapshot(&web(), "HUH"), None, 7);
    let errors = [FieldError {
        problem: crate::check::Problem::InvalidSpec,
        field: "ports[0].port".to_owned(),
        message: "must be from 1 to 65535, not 0".to_owned(),
    }];
    let after = status(Some(&before), Some(4), &Progress::SpecRefused(&errors, None), at(9));
    assert_eq!((&after.endpoints, &after.ready), (&before.endpoints, &before.ready));
    assert_eq!((after.phase, after.observed_generation), (Some(Phase::UnHealthy), Some(4)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The steady state writes nothing: later, the same circumstances give the very same status.
    #[test]
    fn equal_circumstances_give_equal_statuses(state in snapshots(), later in 0i64..1_000_000) {
        let first = applied(&state, None, 7);
        prop_assert_eq!(&applied(&state, Some(&first), 7 + later), &first);
        // And so they do after a trip through the API server.
        let stored: ClusterEndpointStatus = serde_json::from_str(&serde_json::to_string(&first).unwrap()).unwrap();
        prop_assert_eq!(&applied(&state, Some(&stored), 7 + later), &stored);
        prop_assert_eq!(&stored, &first);
    }

    #[test]
    fn a_status_is_within_its_bounds(state in snapshots()) {
        let status = applied(&state, None, 7);
        let listed = status.endpoints.unwrap();
        prop_assert_eq!(listed.len(), state.endpoints.len().min(MAX_ENDPOINTS));
        let rank = |e: &EndpointStatus| ["Unhealthy", "Unknown", "Healthy"].iter().position(|v| *v == e.verdict);
        prop_assert!(listed.is_sorted_by_key(rank));
        let whole = |time: &Option<Time>| time.as_ref().is_some_and(|t| t.0.subsec_nanosecond() == 0);
        prop_assert!(listed.iter().all(|e| whole(&e.since)));
        let conditions = status.conditions.unwrap();
        prop_assert_eq!(conditions.len(), 5);
        prop_assert!(conditions.iter().all(|c| whole(&c.last_transition_time) && whole(&c.last_heartbeat_time)));
    }
}
