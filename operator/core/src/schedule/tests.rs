use proptest::prelude::*;

use super::*;

const P: Duration = Duration::from_secs(10);

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

/// Runs the schedule to `until`, each probe taking `duration`; returns the start times of target 0.
fn run(schedule: &mut Schedule, until: Duration, duration: Duration, in_doubt: bool) -> Vec<Duration> {
    let mut starts = Vec::new();
    while let Some(due) = schedule.next_due().filter(|due| *due <= until) {
        let turn = schedule.take_due(due).unwrap();
        if turn.id == 0 {
            starts.push(turn.due);
        }
        schedule.finished(turn.id, due + duration, in_doubt);
    }
    starts
}

#[test]
fn turns_are_fixed_rate_whatever_a_probe_takes() {
    let mut schedule = Schedule::default();
    schedule.add(0, P, P, u64::MAX / 2, secs(0.1));
    let starts = run(&mut schedule, secs(40.0), secs(0.9), false);
    let rounded: Vec<u64> = starts.iter().map(|d| d.as_millis() as u64).collect();
    assert_eq!(rounded[0], 100);
    assert!(rounded[1..].windows(2).all(|w| w[1] - w[0] == 10_000), "{rounded:?}");
}

#[test]
fn a_probe_longer_than_its_period_skips_turns_instead_of_piling_up() {
    let mut schedule = Schedule::default();
    schedule.add(0, secs(1.0), secs(1.0), 0, secs(0.0));
    let starts = run(&mut schedule, secs(10.0), secs(2.5), false);
    let rounded: Vec<u64> = starts.iter().map(|d| d.as_millis() as u64).collect();
    assert_eq!(rounded, [0, 3000, 6000, 9000]);
}

#[test]
fn doubt_shortens_the_period_until_the_regular_turn() {
    let mut schedule = Schedule::default();
    schedule.add(0, P, secs(2.0), 0, secs(0.0));
    let starts = run(&mut schedule, secs(12.0), secs(0.5), true);
    let rounded: Vec<u64> = starts.iter().map(|d| d.as_millis() as u64).collect();
    assert_eq!(rounded, [0, 2000, 4000, 6000, 8000, 10_000, 12_000]);
}

#[test]
fn a_reused_number_does_not_inherit_turns() {
    let mut schedule = Schedule::default();
    schedule.add(0, P, P, 0, secs(1.0));
    schedule.remove(0);
    assert_eq!(schedule.next_due(), None);
    schedule.add(0, P, P, 0, secs(5.0));
    assert_eq!(schedule.next_due(), Some(secs(5.0)));
    let turn = schedule.take_due(secs(5.0)).unwrap();
    schedule.remove(0);
    schedule.add(0, P, P, 0, secs(7.0));
    // The former owner's probe ends now; the new owner's turn stays where it was.
    schedule.remove(0);
    schedule.finished(turn.id, secs(6.0), false);
    assert_eq!((schedule.next_due(), schedule.waiting()), (None, 0));
}

#[test]
fn phases_are_spread_evenly() {
    let mut buckets = [0u32; 10];
    for i in 0..10_000u64 {
        // A Weyl sequence stands in for hashes.
        let phase = spread(i.wrapping_mul(0x9E37_79B9_7F4A_7C15), P);
        buckets[(phase.as_millis() / 1000) as usize] += 1;
    }
    assert!(buckets.iter().all(|n| (900..1100).contains(n)), "{buckets:?}");
}

proptest! {
    #[test]
    fn every_target_gets_exactly_its_turns(seeds in prop::collection::vec(any::<u64>(), 1..60)) {
        let mut schedule = Schedule::default();
        for (id, seed) in seeds.iter().enumerate() {
            schedule.add(id as u32, P, P, *seed, spread(*seed, P));
        }
        let mut counts = vec![0; seeds.len()];
        let mut last = Duration::ZERO;
        while let Some(due) = schedule.next_due().filter(|due| *due < 10 * P) {
            prop_assert!(due >= last);
            last = due;
            let turn = schedule.take_due(due).unwrap();
            counts[turn.id as usize] += 1;
            schedule.finished(turn.id, due + Duration::from_millis(3), false);
        }
        prop_assert!(counts.iter().all(|n| *n == 10), "{:?}", counts);
    }
}

#[test]
fn a_turn_that_is_brought_forward_moves_no_other() {
    let mut schedule = Schedule::default();
    schedule.add(0, P, P, u64::MAX / 2, secs(5.0));
    schedule.add(1, P, P, 0, secs(6.0));
    assert!(schedule.hasten(0, secs(1.0)));
    assert!(!schedule.hasten(0, secs(2.0)), "it is due already");
    assert_eq!((schedule.next_due(), schedule.waiting()), (Some(secs(1.0)), 2));
    assert_eq!(schedule.take_due(secs(2.0)).unwrap().due, secs(1.0));
    assert!(!schedule.hasten(0, secs(2.0)), "it runs");
    assert_eq!(schedule.take_due(secs(2.0)), None);
    schedule.finished(0, secs(2.0), false);
    let due = schedule.due_of(0).unwrap();
    assert!(due > secs(4.9) && due < secs(5.1), "{due:?}");
    let order: Vec<_> = std::iter::from_fn(|| schedule.take_due(secs(60.0))).map(|turn| turn.id).collect();
    assert_eq!(order, [0, 1], "each once");
}
