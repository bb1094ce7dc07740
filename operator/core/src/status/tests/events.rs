use super::super::*;
use super::{applied, web};
use crate::fail_open::serve;
use crate::samples::{at, definition, endpoint, ip, refused, snapshot};

fn told(before: &str, after: &str) -> Vec<String> {
    let text =
        |n: Notice| format!("{} {}: {}", if n.warning { "Warning" } else { "Normal" }, n.reason, n.note);
    changes(&snapshot(&web(), before), &snapshot(&web(), after)).into_iter().map(text).collect()
}

#[test]
fn a_change_of_a_verdict_is_told_once() {
    assert_eq!(told("HUH", "HUH"), [] as [&str; 0]);
    assert_eq!(
        told("HHU", "UHH"),
        [
            "Warning HostUnhealthy: 10.0.0.1 port 8080 is taken out: ConnectionRefused: nothing listens on the port",
            "Normal HostHealthy: 10.0.0.3 port 8080 answers and is served",
        ]
    );
    assert_eq!(told("HHH", "H?H"), [] as [&str; 0], "to be unjudged again is no verdict");
}

fn many(count: usize) -> std::sync::Arc<Definition> {
    let hosts: Vec<String> = (0..count).map(|n| format!("10.1.{}.{}", n / 250, n % 250 + 1)).collect();
    definition(&format!("{{hosts: [{}], ports: [{{port: 80, tcpSocket: {{}}}}]}}", hosts.join(", ")))
}

#[test]
fn more_than_four_are_told_together() {
    for (count, notices) in [(4, 4), (5, 1), (3000, 1)] {
        let (before, after) = (snapshot(&many(count), "H"), snapshot(&many(count), "U"));
        let told = changes(&before, &after);
        assert_eq!(told.len(), notices, "{count}");
        assert!(told.iter().all(|notice| notice.note.len() <= 1024));
        if notices == 1 {
            assert!(
                told[0].note.starts_with(&format!("{count} endpoints were taken out: 10.1.0.1 port 80, ")),
                "{}",
                told[0].note
            );
            assert!(told[0].note.ends_with("and more"));
        }
    }
}

#[test]
fn hosts_of_a_new_spec_are_told_only_when_they_are_sick() {
    let one =
        definition("{hosts: [10.0.0.1], ports: [{name: web, port: 80, targetPort: 8080, tcpSocket: {}}]}");
    let told = changes(&snapshot(&one, "H"), &snapshot(&web(), "HHU"));
    assert_eq!(told.len(), 1);
    assert!(told[0].note.starts_with("10.0.0.3 port 8080 is taken out"));
}

/// One address under two names has two verdicts, neither of which is news because of the other.
#[test]
fn names_that_share_an_address_do_not_tell_of_each_other() {
    let two = definition("{hosts: [a.example, b.example], ports: [{port: 80, httpGet: {}}]}");
    let of = |n: usize, verdict| endpoint(0, &two.ports[0].hosts[n], Some(ip("10.0.0.1")), verdict);
    let state =
        |a, b| Snapshot { definition: two.clone(), endpoints: vec![of(0, a), of(1, b)], blind: false };
    let divided = state(Verdict::Healthy, Verdict::Unhealthy);
    assert_eq!(changes(&divided, &divided), []);
    let told = changes(&state(Verdict::Healthy, Verdict::Healthy), &divided);
    assert_eq!(told.len(), 1);
    assert!(told[0].note.starts_with("b.example (10.0.0.1) port 80 is taken out"), "{}", told[0].note);
}

#[test]
fn notes_are_cut_between_characters() {
    for length in 1010..1040 {
        let note =
            Notice::new(true, "X", "Probe", format!("{}{}", "a".repeat(length % 3), "ü".repeat(length / 2)))
                .note;
        assert!(note.len() <= 1024, "{}", note.len());
        assert_eq!(note.ends_with('…'), length % 3 + length / 2 * 2 > 1024);
    }
}

#[test]
fn refusals_are_told_once_and_under_their_own_condition() {
    let state = snapshot(&web(), "H");
    let refusal = Refusal { reason: "ServiceHasSelector", message: "Service db has a selector".to_owned() };
    for (progress, reason, note) in [
        (Progress::ServiceRefused(&refusal, &state), "ServiceHasSelector", "Service db has a selector"),
        (
            Progress::WriteFailed { service: true, message: "quota", snapshot: &state },
            "ServiceSyncError",
            "quota",
        ),
        (
            Progress::WriteFailed { service: false, message: "quota", snapshot: &state },
            "EndpointSyncError",
            "quota",
        ),
    ] {
        let now = status(None, Some(1), &progress, at(7));
        let notice = notice_of_refusal(None, &now, &progress).unwrap();
        assert_eq!((notice.reason.as_str(), notice.note.as_str(), notice.warning), (reason, note, true));
        assert_eq!(notice_of_refusal(Some(&now), &now, &progress), None);
    }
}

#[test]
fn obstacles_are_told_and_blindness_is_not() {
    let mut state = snapshot(&web(), "H");
    let quiet = applied(&state, None, 7);
    state.endpoints[0].obstacle = Some(refused());
    let notice = |state: &Snapshot| {
        let serving = serve(state);
        let progress = Progress::Applied { snapshot: state, serving: &serving, warnings: &[] };
        let now = status(Some(&quiet), Some(3), &progress, at(9));
        notice_of_refusal(Some(&quiet), &now, &progress)
    };
    assert!(notice(&state).unwrap().note.contains("10.0.0.1 port 8080"));
    state.blind = true;
    assert_eq!(notice(&state), None, "the operator tells it once, about itself");
}
