use cep_core::overview::Overview;
use jiff::Timestamp;
use serde_json::json;

use super::findings::{self, Explanation};
use super::live::Live;
use super::*;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn cep(panic_threshold: i32) -> ClusterEndpoint {
    serde_json::from_value(json!({
        "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint",
        "metadata": {"name": "wordpress", "namespace": "shop", "generation": 3},
        "spec": {
            "hosts": ["10.0.0.1", "db.example.org"], "panicThreshold": panic_threshold,
            "ports": [{"name": "https", "port": 38082, "targetPort": 443, "tcpSocket": {"enable": true}}]
        },
        "status": {
            "observedGeneration": 3, "phase": "UnHealthy", "ready": "2/3",
            "endpoints": [{
                "port": 38082, "host": "10.0.0.1", "address": "10.0.0.1", "verdict": "Unhealthy",
                "since": "2026-03-01T11:56:48Z", "reason": "ConnectionRefused", "message": "connection refused"
            }],
            "conditions": [
                {"type": "Initialized", "status": "True", "reason": "Initialized", "message": "x"},
                {"type": "SyncServiceReady", "status": "True", "reason": "SyncServiceReady",
                    "message": "sync service successfully"},
                {"type": "SyncEndpointReady", "status": "False", "reason": "EndpointSyncPortError",
                    "message": "1 of 3 endpoints are unhealthy: 10.0.0.1 port 443 (connection refused)",
                    "lastTransitionTime": "2026-03-01T11:56:48Z"},
                {"type": "Ready", "status": "False", "reason": "NotReady",
                    "message": "ClusterEndpoint is not available now"}
            ]
        }
    }))
    .unwrap()
}

fn slice(out_is_ready: bool) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": "wordpress.https-ipv4-0"}, "addressType": "IPv4",
        "ports": [{"name": "https", "port": 443}],
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": out_is_ready}},
            {"addresses": ["10.0.0.7"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.8"]},
        ]
    }))
    .unwrap()
}

fn text(explanation: &Explanation) -> String {
    report::text(explanation, now(), Palette::plain())
}

#[test]
fn without_the_operator() {
    let explanation = findings::of(&cep(0), &[slice(false)], None, now());
    assert_eq!(
        text(&explanation),
        "\
ClusterEndpoint shop/wordpress: UnHealthy, 2/3 endpoints served

PORT   HOST            ADDRESS   STATE  SINCE  WHY
https  10.0.0.1                  out    3m12s  ConnectionRefused: connection refused; the host is up, but nothing listens on the port: start the server, or see targetPort
https  db.example.org  10.0.0.7  in
https  db.example.org  10.0.0.8  in

SyncEndpointReady is False for 3m12s: EndpointSyncPortError
  1 of 3 endpoints are unhealthy: 10.0.0.1 port 443 (connection refused)
  → The endpoints are written; hosts are out because their probes fail. See the hosts above.
Ready is False: NotReady
  ClusterEndpoint is not available now
"
    );
}

fn live(blind: bool) -> Live {
    let endpoint = |address: &str, verdict: &str, against: u32| {
        json!({
            "port": "https", "portNumber": 38082, "targetPort": 443, "host": "db.example.org",
            "address": address, "check": "tcp", "verdict": verdict, "served": verdict == "Healthy",
            "since": "2026-03-01T11:00:10Z", "reason": null, "message": null,
            "last": {"at": "2026-03-01T12:00:07Z", "outcome": "failure", "reason": "Timeout", "message": "late",
                "durationMs": 1000.0},
            "against": against, "threshold": 3, "nextProbe": "2026-03-01T12:00:14Z", "periodSeconds": 10
        })
    };
    let overview: Overview = serde_json::from_value(json!({
        "version": "0.1.0", "identity": "endpoints-operator-abc_1f", "leader": true, "blind": blind,
        "started": "2026-03-01T10:00:10Z", "now": "2026-03-01T12:00:10Z", "targets": 2,
        "ceps": [{"namespace": "shop", "name": "wordpress", "endpoints": [
            endpoint("10.0.0.7", "Healthy", 2), endpoint("10.0.0.9", "Unknown", 0),
        ]}]
    }))
    .unwrap();
    Live::new(overview, now())
}

#[test]
fn with_the_operator_whose_clock_is_ahead() {
    let live = live(true);
    let explanation = findings::of(&cep(0), &[slice(false)], Some(&live), now());
    let text = text(&explanation);
    let table: Vec<&str> = text.lines().skip(2).take(3).collect();
    assert_eq!(
        table,
        [
            "PORT   HOST            ADDRESS   CHECK  STATE             SINCE  LAST PROBE      NEXT PROBE  WHY",
            "https  db.example.org  10.0.0.7  tcp    in                60m    failure 3s ago  in 4s       Timeout: late; 2 of 3 failures in a row until it is out; packets get no answer in time: host down, a firewall or route in between, or timeoutSeconds too short",
            "https  db.example.org  10.0.0.9  tcp    out (not judged)  60m    failure 3s ago  in 4s",
        ]
    );
    let last = report::operator(&live, Palette::plain());
    assert!(
        last.starts_with(
            "Operator endpoints-operator-abc_1f 0.1.0, up for 2h, probes 2 targets; its clock is 10s off"
        ),
        "{last}"
    );
    assert!(last.contains("The operator is blind"), "{last}");
}

#[test]
fn panic_threshold() {
    let explanation = findings::of(&cep(50), &[slice(true)], None, now());
    let text = text(&explanation);
    assert!(text.contains("in (unhealthy)"), "{text}");
    assert!(text.contains("fewer than 50 % of the hosts of this port are healthy"), "{text}");
}

#[test]
fn what_the_operator_has_not_done_yet() {
    let mut cep = cep(0);
    cep.metadata.generation = Some(4);
    let explanation = findings::of(&cep, &[], None, now());
    assert!(!explanation.current);
    assert!(text(&explanation).contains("has not been worked off yet"));
    cep.status = None;
    let explanation = findings::of(&cep, &[], None, now());
    assert!(text(&explanation).contains("the operator has never looked at it"));
}

#[test]
fn every_refusal_has_advice() {
    for reason in [
        "ServiceHasSelector",
        "ServiceIsExternalName",
        "ServiceHasOwner",
        "ClusterIPMismatch",
        "ForeignEndpointSlices",
        "InvalidSpec",
        "ReferenceNotReady",
        "ProbeKindNotBuilt",
        "OperatorBlind",
    ] {
        let text = advice::condition("SyncServiceReady", "False", reason, "m").unwrap();
        assert!(!text.starts_with("See the message"), "{reason}");
    }
    let policy = "sync service successfully; warning: internalTrafficPolicy is Local";
    assert!(advice::condition("SyncServiceReady", "True", "SyncServiceReady", policy).is_some());
    assert_eq!(advice::condition("Ready", "True", "Ready", ""), None);
}

#[test]
fn holders() {
    assert_eq!(live::pod_of("endpoints-operator-6f_1c9b"), "endpoints-operator-6f");
    assert_eq!(live::pod_of("endpoints-operator-6f"), "endpoints-operator-6f");
}
