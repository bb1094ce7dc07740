use proptest::prelude::*;

use super::*;
use crate::outcome::Reason;

const T: Thresholds = Thresholds { success: 2, failure: 3 };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}
fn fail() -> Outcome {
    Outcome::failure(Reason::Timeout, "no answer")
}
fn unknown() -> Outcome {
    Outcome::unknown(Reason::SchedulerLate, "late")
}

/// Feeds a word of S, F and U and returns the verdict after each letter.
fn verdicts(health: &mut Health, word: &str) -> String {
    word.chars()
        .enumerate()
        .map(|(i, c)| {
            let outcome = match c {
                'S' => Outcome::Success,
                'F' => fail(),
                _ => unknown(),
            };
            health.observe(&outcome, T, at(i as i64));
            match health.verdict() {
                Verdict::Unknown => '?',
                Verdict::Healthy => 'h',
                Verdict::Unhealthy => 'u',
            }
        })
        .collect()
}

#[test]
fn thresholds_count_consecutive_outcomes_across_periods() {
    for (start, word, expected) in [
        // A first-ever outcome decides at once, whatever the thresholds.
        (Verdict::Unknown, "S", "h"),
        (Verdict::Unknown, "F", "u"),
        (Verdict::Unknown, "UUUS", "???h"),
        // Three failures in a row, no fewer.
        (Verdict::Healthy, "FFSFFSFFF", "hhhhhhhhu"),
        (Verdict::Unhealthy, "SFSS", "uuuh"),
        // Unknown neither counts nor interrupts.
        (Verdict::Healthy, "FUFUUF", "hhhhhu"),
        (Verdict::Healthy, "UUUUUUUU", "hhhhhhhh"),
        (Verdict::Unhealthy, "UUSUS", "uuuuh"),
    ] {
        let mut health = Health::restored(start, at(0), None);
        assert_eq!(verdicts(&mut health, word), expected, "{start} {word}");
    }
}

#[test]
fn since_and_cause_are_those_of_the_deciding_probe_and_stay() {
    let mut health = Health::restored(Verdict::Healthy, at(0), None);
    for second in 1..=2 {
        assert!(!health.observe(&fail(), T, at(second)).any());
    }
    assert!(health.would_evict(&fail(), T));
    let refused = Outcome::failure(Reason::ConnectionRefused, "refused");
    assert_eq!(health.observe(&refused, T, at(3)).verdict, Some(Verdict::Unhealthy));
    assert!(!health.observe(&fail(), T, at(4)).any());
    assert_eq!(health.since(), at(3));
    assert_eq!(health.cause().map(|c| c.reason), Some(Reason::ConnectionRefused));
}

#[test]
fn a_lasting_obstacle_is_told_once_and_its_end_too() {
    let mut health = Health::restored(Verdict::Healthy, at(0), None);
    let told: Vec<bool> = (0..5).map(|i| health.observe(&unknown(), T, at(i)).obstacle).collect();
    assert_eq!(told, [false, false, true, false, false]);
    assert_eq!(health.obstacle().map(|c| c.reason), Some(Reason::SchedulerLate));
    assert_eq!(health.observe(&Outcome::Success, T, at(9)), Change { verdict: None, obstacle: true });
    assert_eq!(health.obstacle(), None);
}

#[test]
fn forgiving_starts_the_count_anew() {
    let mut health = Health::restored(Verdict::Healthy, at(0), None);
    health.observe(&fail(), T, at(1));
    health.observe(&fail(), T, at(2));
    health.forgive();
    assert_eq!(verdicts(&mut health, "FF"), "hh");
    assert_eq!(verdicts(&mut health, "F"), "u");
}

proptest! {
    /// A healthy target is evicted exactly when the last three conclusive outcomes are failures.
    #[test]
    fn eviction_needs_an_unbroken_run(word in "[SFU]{0,40}") {
        let mut health = Health::restored(Verdict::Healthy, at(0), None);
        let mut run = 0;
        for c in word.chars() {
            let outcome = match c { 'S' => Outcome::Success, 'F' => fail(), _ => unknown() };
            match c { 'S' => run = 0, 'F' => run += 1, _ => {} }
            health.observe(&outcome, T, at(0));
            prop_assert_eq!(health.verdict() == Verdict::Unhealthy, run >= 3);
            if health.verdict() == Verdict::Unhealthy { break; }
        }
    }

    /// Whatever comes, unknown outcomes alone never change a verdict.
    #[test]
    fn unknown_never_evicts(n in 0usize..200, success in 1u32..5, failure in 1u32..5) {
        for start in [Verdict::Unknown, Verdict::Healthy, Verdict::Unhealthy] {
            let mut health = Health::restored(start, at(0), None);
            for _ in 0..n { health.observe(&unknown(), Thresholds { success, failure }, at(0)); }
            prop_assert_eq!(health.verdict(), start);
        }
    }
}
