use jiff::Timestamp;

use super::super::*;
use super::{applied, web};
use crate::api::v1beta1::Condition;
use crate::check::Problem;
use crate::fail_open::serve;
use crate::samples::{at, definition, parsed, snapshot, spec};

fn condition(status: &ClusterEndpointStatus, type_: &str) -> Condition {
    status.conditions.iter().flatten().find(|c| c.type_ == type_).cloned().unwrap()
}

/// Type, status and reason of all, then their messages.
fn says(status: &ClusterEndpointStatus) -> (Vec<String>, Vec<String>) {
    let conditions = status.conditions.clone().unwrap_or_default();
    let line = |c: &Condition| format!("{} {} {}", c.type_, c.status, c.reason.clone().unwrap_or_default());
    let message = |c: &Condition| c.message.clone().unwrap_or_default();
    (conditions.iter().map(line).collect(), conditions.iter().map(message).collect())
}

#[test]
fn a_healthy_cep_says_what_it_said_in_2022() {
    let (lines, messages) = says(&applied(&snapshot(&web(), "H"), None, 7));
    assert_eq!(
        lines,
        [
            "Initialized True Initialized",
            "SyncServiceReady True SyncServiceReady",
            "SyncEndpointReady True SyncEndpointReady",
            "ProbesReady True ProbesReady",
            "Ready True Ready",
        ]
    );
    assert_eq!(messages[0], "cluster endpoints has been initialized");
    assert_eq!(messages[1], "sync service successfully");
    assert_eq!(messages[2], "sync endpoint successfully");
    assert_eq!(messages[4], "ClusterEndpoint is available now");
}

#[test]
fn sick_and_unjudged_hosts_are_named_with_their_port_and_cause() {
    let (lines, messages) = says(&applied(&snapshot(&web(), "HUU"), None, 7));
    assert_eq!(lines[2], "SyncEndpointReady False EndpointSyncPortError");
    assert_eq!(
        messages[2],
        "2 of 3 endpoints are unhealthy: 10.0.0.2 port 8080 (nothing listens on the port), \
         10.0.0.3 port 8080 (nothing listens on the port)"
    );
    assert_eq!(
        (lines[4].as_str(), messages[4].as_str()),
        ("Ready False NotReady", "ClusterEndpoint is not available now")
    );

    let (lines, messages) = says(&applied(&snapshot(&web(), "H?H"), None, 7));
    assert_eq!(lines[2], "SyncEndpointReady Unknown Probing");
    assert_eq!(messages[2], "1 of 3 endpoints have not been judged yet");
}

#[test]
fn obstacles_and_blindness_are_probes_not_ready() {
    let mut state = snapshot(&web(), "H");
    state.endpoints[1].obstacle = Some(Cause::new(Reason::NotResolved, "no such name"));
    let (lines, messages) = says(&applied(&state, None, 7));
    assert_eq!(lines[3], "ProbesReady False NotResolved");
    assert!(messages[3].contains("1 endpoints: 10.0.0.2 port 8080 (no such name)"), "{}", messages[3]);
    // It counts against no host.
    assert_eq!(lines[4], "Ready True Ready");
    state.blind = true;
    assert_eq!(says(&applied(&state, None, 7)).0[3], "ProbesReady False OperatorBlind");
}

#[test]
fn a_refused_spec_is_told_with_its_fields_and_the_worst_reason() {
    let errors =
        parsed(&spec("{periodSeconds: 0, hosts: [10.0.0.1], ports: [{port: 80, grpc: {}}]}")).unwrap_err();
    let progress = Progress::SpecRefused(&errors, None);
    let (lines, messages) = says(&status(None, Some(1), &progress, at(7)));
    let expected = [
        "Initialized True Initialized",
        "SyncServiceReady Unknown SpecRefused",
        "SyncEndpointReady Unknown SpecRefused",
        "ProbesReady False InvalidSpec",
        "Ready False NotReady",
    ];
    assert_eq!(lines, expected);
    assert!(
        messages[3].starts_with("spec.periodSeconds: must be from 1 to 3600 seconds, not 0; spec.ports[0].")
    );

    // What was applied before stays true.
    let before = applied(&snapshot(&web(), "H"), None, 7);
    let after = status(Some(&before), Some(2), &progress, at(9));
    assert_eq!(condition(&after, "SyncServiceReady").status, "True");
    assert_eq!(condition(&after, "SyncEndpointReady").status, "True");
    assert_eq!(condition(&after, "Ready").status, "False");
}

#[test]
fn refusals_and_failed_writes_say_which_object() {
    let state = snapshot(&web(), "H");
    let refusal = Refusal { reason: "ServiceHasSelector", message: "Service db has a selector".to_owned() };
    let (lines, messages) = says(&status(None, Some(1), &Progress::ServiceRefused(&refusal, &state), at(7)));
    assert_eq!(
        (lines[1].as_str(), messages[1].as_str()),
        ("SyncServiceReady False ServiceHasSelector", "Service db has a selector")
    );
    assert_eq!(lines[2], "SyncEndpointReady False ServiceRefused");
    assert_eq!(lines[4], "Ready False NotReady");
    for (service, line, index) in [
        (true, "SyncServiceReady False ServiceSyncError", 1),
        (false, "SyncEndpointReady False EndpointSyncError", 2),
    ] {
        let progress = Progress::WriteFailed { service, message: "quota exceeded", snapshot: &state };
        let status = status(None, Some(1), &progress, at(7));
        let (lines, messages) = says(&status);
        assert_eq!((lines[index].as_str(), messages[index].as_str()), (line, "quota exceeded"));
        assert_eq!(status.phase, Some(Phase::UnHealthy));
    }
}

#[test]
fn warnings_leave_the_condition_true() {
    let state = snapshot(&web(), "H");
    let warnings = ["first".to_owned(), "second".to_owned()];
    let progress = Progress::Applied { snapshot: &state, serving: &serve(&state), warnings: &warnings };
    let condition = condition(&status(None, Some(1), &progress, at(7)), "SyncServiceReady");
    assert_eq!(condition.status, "True");
    assert_eq!(
        condition.message.as_deref(),
        Some("sync service successfully; warning: first; warning: second")
    );
}

#[test]
fn times_change_with_what_they_are_about() {
    let time = |status: &ClusterEndpointStatus, type_: &str| {
        let c = condition(status, type_);
        (c.last_heartbeat_time.unwrap().0, c.last_transition_time.unwrap().0)
    };
    let first = applied(&snapshot(&web(), "H"), None, 10);
    let moment = Timestamp::from_millisecond(20_999).unwrap();
    let state = snapshot(&web(), "HUH");
    let progress = Progress::Applied { snapshot: &state, serving: &serve(&state), warnings: &[] };
    let second = status(Some(&first), Some(3), &progress, moment);
    assert_eq!(time(&second, "Initialized"), (at(10), at(10)));
    assert_eq!(time(&second, "SyncEndpointReady"), (at(20), at(20)), "in whole seconds");
    let third = applied(&snapshot(&web(), "UUH"), Some(&second), 30);
    assert_eq!(time(&third, "SyncEndpointReady"), (at(30), at(20)), "another message, the same status");
    assert_eq!(time(&third, "Ready"), (at(20), at(20)));
    let fourth = applied(&snapshot(&web(), "H"), Some(&third), 40);
    assert_eq!(time(&fourth, "SyncEndpointReady"), (at(40), at(40)));
}

#[test]
fn messages_stay_within_the_bound_of_the_api() {
    let errors: Vec<FieldError> = (0..4096)
        .map(|i| FieldError {
            problem: Problem::InvalidSpec,
            field: format!("hosts[{i}]"),
            message: "bücher.example is not an IPv4 address, IPv6 address or DNS name".to_owned(),
        })
        .collect();
    let message =
        condition(&status(None, Some(1), &Progress::SpecRefused(&errors, None), at(7)), "ProbesReady")
            .message
            .unwrap();
    assert!(message.len() <= 32_768 && message.ends_with('…'), "{}", message.len());

    let hosts: Vec<String> = (0..3000).map(|n| format!("10.1.{}.{}", n / 250, n % 250 + 1)).collect();
    let many =
        definition(&format!("{{hosts: [{}], ports: [{{port: 80, tcpSocket: {{}}}}]}}", hosts.join(", ")));
    let message = condition(&applied(&snapshot(&many, "U"), None, 7), "SyncEndpointReady").message.unwrap();
    assert!(message.ends_with("and 2995 more"), "{message}");
}
