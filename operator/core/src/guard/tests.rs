use super::*;

/// Silence that began before anything was heard.
const LONG_AGO: Duration = Duration::ZERO;

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}
fn at(n: u8) -> SocketAddr {
    SocketAddr::new(ip(n), 53)
}
fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}
fn silence() -> Cause {
    Cause::new(Reason::Timeout, "no answer")
}
fn refusal() -> Cause {
    Cause::new(Reason::ConnectionRefused, "refused")
}

/// `hosts` healthy hosts, host n in group `group(n)`.
fn guard(hosts: u8, group: impl Fn(u8) -> GroupId) -> Guard {
    let mut guard = Guard::new(GuardConfig::default());
    for n in 0..hosts {
        guard.join(ip(n), group(n));
        guard.update(ip(n), (false, false), (true, false));
    }
    guard.host(&Outcome::Success, Duration::from_millis(1));
    guard
}
fn darken(guard: &mut Guard, hosts: impl IntoIterator<Item = u8>) {
    for n in hosts {
        guard.update(ip(n), (true, false), (true, true));
    }
}

#[test]
fn everything_dark_means_blind_and_holds_silence_only() {
    let mut guard = guard(10, |n| u32::from(n) / 2);
    darken(&mut guard, 0..7);
    assert_eq!(guard.look(secs(5)), None);
    darken(&mut guard, 7..8);
    assert_eq!(guard.look(secs(6)), Some(true));
    assert!(matches!(guard.admit(ip(0), &silence(), LONG_AGO, secs(7)), Permission::Held(_)));
    assert_eq!(guard.admit(ip(0), &refusal(), LONG_AGO, secs(7)), Permission::Granted);
    assert!(guard.believes(&silence(), secs(7)).is_err());
    assert!(guard.believes(&refusal(), secs(7)).is_ok());
}

#[test]
fn sight_returns_when_most_hosts_answer_and_late_failures_are_not_believed() {
    let mut guard = guard(10, u32::from);
    darken(&mut guard, 0..10);
    assert_eq!(guard.look(secs(6)), Some(true));
    for n in 0..5 {
        guard.update(ip(n), (true, true), (true, false));
    }
    assert_eq!(guard.look(secs(60)), None);
    guard.update(ip(5), (true, true), (true, false));
    assert_eq!(guard.look(secs(61)), Some(false));
    // A probe that began in the dark ends after the light came back.
    assert!(guard.believes(&silence(), secs(60)).is_err());
    assert!(guard.believes(&silence(), secs(61)).is_ok());
}

#[test]
fn the_hosts_of_one_cep_may_die_together() {
    let mut alone = guard(3, |_| 7);
    darken(&mut alone, 0..3);
    assert_eq!(alone.look(secs(5)), None);
    assert_eq!(alone.admit(ip(0), &silence(), LONG_AGO, secs(5)), Permission::Granted);

    let mut others_live = guard(10, |n| u32::from(n >= 3));
    darken(&mut others_live, 0..3);
    assert_eq!(others_live.look(secs(5)), None);
}

#[test]
fn few_hosts_prove_nothing() {
    let mut guard = guard(2, u32::from);
    darken(&mut guard, 0..2);
    assert_eq!(guard.look(secs(5)), None);
}

#[test]
fn an_address_with_one_answering_port_is_not_dark() {
    let mut guard = guard(3, u32::from);
    for n in 0..3 {
        guard.join(ip(n), u32::from(n));
        guard.update(ip(n), (false, false), (true, false));
    }
    darken(&mut guard, 0..3);
    assert_eq!((guard.tally(), guard.look(secs(5))), ((3, 0), None));
}

#[test]
fn vantage_targets_decide_alone() {
    let mut guard = guard(10, u32::from);
    let silent = Outcome::Failure(silence());
    guard.vantage(at(200), &silent, secs(1));
    guard.vantage(at(200), &silent, secs(2));
    guard.vantage(at(201), &Outcome::Success, secs(1));
    darken(&mut guard, 0..10);
    assert_eq!(guard.look(secs(5)), None, "they say that the network works");
    guard.vantage(at(201), &silent, secs(5));
    assert_eq!(guard.look(secs(5)), None, "one packet may be lost");
    guard.vantage(at(201), &silent, secs(6));
    assert_eq!(guard.look(secs(6)), Some(true));
    guard.vantage(at(200), &Outcome::Failure(refusal()), secs(7));
    assert_eq!(guard.look(secs(7)), Some(false));
}

#[test]
fn evictions_for_silence_are_capped_within_a_window() {
    let mut guard = guard(40, u32::from);
    let mut granted = 0;
    for n in 0..40 {
        darken(&mut guard, [n]);
        if guard.admit(ip(n), &silence(), LONG_AGO, secs(1)) == Permission::Granted {
            guard.update(ip(n), (true, true), (false, true));
            granted += 1;
        }
    }
    assert_eq!(granted, 20);
    // The window moves on.
    assert_eq!(guard.admit(ip(39), &silence(), LONG_AGO, secs(12)), Permission::Granted);
}

#[test]
fn hosts_evicted_at_the_first_failure_still_count_as_dark() {
    let mut guard = guard(10, u32::from);
    for n in 0..5 {
        guard.update(ip(n), (true, false), (true, true));
        assert_eq!(guard.admit(ip(n), &silence(), LONG_AGO, secs(1)), Permission::Granted);
        guard.update(ip(n), (true, true), (false, true));
    }
    darken(&mut guard, 5..8);
    assert_eq!(guard.look(secs(3)), Some(true));
}

#[test]
fn targets_that_go_leave_nothing_behind() {
    let mut guard = guard(3, u32::from);
    darken(&mut guard, 0..3);
    for n in 0..3 {
        guard.update(ip(n), (true, true), (false, false));
        guard.leave(ip(n), u32::from(n));
    }
    assert_eq!((guard.tally(), guard.hosts.len()), ((0, 0), 0));
}

#[test]
fn silence_evicts_only_when_something_else_has_answered_since() {
    let mut guard = guard(10, u32::from);
    guard.host(&Outcome::Success, secs(4));
    darken(&mut guard, [0]);
    assert_eq!(guard.admit(ip(0), &silence(), secs(5), secs(6)), Permission::Wait);
    assert_eq!(guard.admit(ip(0), &refusal(), secs(5), secs(6)), Permission::Granted);
    // Another silent one proves nothing, a probe that could not be carried out neither.
    guard.host(&Outcome::Failure(silence()), secs(6));
    guard.host(&Outcome::Unknown(silence()), secs(6));
    assert!(!guard.is_decided(secs(5)));
    guard.host(&Outcome::Failure(refusal()), secs(6));
    assert!(guard.is_decided(secs(5)));
    assert_eq!(guard.admit(ip(0), &silence(), secs(5), secs(6)), Permission::Granted);
}

#[test]
fn where_nobody_is_left_to_ask_silence_evicts() {
    let mut alone = guard(1, u32::from);
    darken(&mut alone, [0]);
    assert_eq!(alone.admit(ip(0), &silence(), secs(5), secs(6)), Permission::Granted);

    let mut rack = guard(3, |_| 7);
    darken(&mut rack, 0..2);
    assert_eq!(rack.admit(ip(0), &silence(), secs(5), secs(6)), Permission::Wait);
    darken(&mut rack, 2..3);
    assert_eq!(rack.admit(ip(0), &silence(), secs(5), secs(6)), Permission::Granted);
}

#[test]
fn vantage_targets_give_the_evidence_where_there_are_any() {
    let mut guard = guard(2, u32::from);
    darken(&mut guard, 0..2);
    guard.vantage(at(200), &Outcome::Success, secs(4));
    assert_eq!(guard.admit(ip(0), &silence(), secs(5), secs(6)), Permission::Wait);
    guard.host(&Outcome::Success, secs(6));
    assert_eq!(guard.admit(ip(0), &silence(), secs(5), secs(6)), Permission::Wait);
    guard.vantage(at(200), &Outcome::Success, secs(7));
    assert_eq!(guard.admit(ip(0), &silence(), secs(5), secs(7)), Permission::Granted);
}

#[test]
fn once_something_answers_the_hosts_of_one_cep_may_be_dead() {
    let mut guard = guard(10, |n| u32::from(n >= 8));
    darken(&mut guard, 0..10);
    assert_eq!(guard.look(secs(5)), Some(true));
    for n in 8..10 {
        guard.update(ip(n), (true, true), (true, false));
    }
    guard.host(&Outcome::Success, secs(60));
    assert_eq!(guard.look(secs(60)), Some(false));
}
