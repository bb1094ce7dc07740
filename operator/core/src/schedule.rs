//! When to probe: fixed-rate, spread, never bunched.
//!
//! A target's turns are `t0 + n·period`, where `t0` is a hash of the target spread over the period.
//! Turns never drift with the duration of probes, and a probe that still runs when its next turn
//! comes is not started twice: a target has at most one turn outstanding. Time is a [`Duration`]
//! since an epoch of the caller's choosing, the same for all calls.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// A scheduled target, as the caller numbers it. Numbers may be reused after [`Schedule::remove`].
pub type TargetId = u32;

/// A target whose turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which target.
    pub id: TargetId,
    /// When the turn was due; the difference to now is the schedule lag.
    pub due: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Distinguishes a reused number from its former owner in the heap.
    generation: u32,
    period: Duration,
    retry: Duration,
    phase: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Vacant,
    Waiting { due: Duration },
    Running { due: Duration },
}

/// The schedule of all targets.
#[derive(Debug, Default)]
pub struct Schedule {
    slots: Vec<Slot>,
    heap: BinaryHeap<Reverse<(Duration, TargetId, u32)>>,
    waiting: usize,
}

impl Schedule {
    /// Adds a target. `seed` decides its phase within `period`; `first` is when its first turn is due.
    ///
    /// `retry` is the period while the target's verdict is in doubt, at most `period`.
    pub fn add(&mut self, id: TargetId, period: Duration, retry: Duration, seed: u64, first: Duration) {
        let index = id as usize;
        if self.slots.len() <= index {
            let vacant = Slot {
                generation: 0,
                period: Duration::ZERO,
                retry: Duration::ZERO,
                phase: Duration::ZERO,
                state: State::Vacant,
            };
            self.slots.resize(index + 1, vacant);
        }
        self.remove(id);
        let period = period.max(Duration::from_millis(1));
        let slot = &mut self.slots[index];
        slot.period = period;
        slot.retry = retry.clamp(Duration::from_millis(1), period);
        slot.phase = spread(seed, period);
        self.wait(id, first);
    }

    /// Removes a target; a turn that is running may still be reported as finished, to no effect.
    pub fn remove(&mut self, id: TargetId) {
        let Some(slot) = self.slots.get_mut(id as usize) else { return };
        if let State::Waiting { .. } = slot.state {
            self.waiting -= 1;
        }
        slot.state = State::Vacant;
        slot.generation = slot.generation.wrapping_add(1);
        self.drop_stale();
    }

    /// When the next turn is due, if any target waits for one.
    pub fn next_due(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((due, _, _))| *due)
    }

    /// When this target's next turn is due; `None` while it is being probed.
    pub fn due_of(&self, id: TargetId) -> Option<Duration> {
        match self.slots.get(id as usize)?.state {
            State::Waiting { due } => Some(due),
            _ => None,
        }
    }

    /// Takes the earliest turn that is due at `now`. The target runs until [`Schedule::finished`].
    pub fn take_due(&mut self, now: Duration) -> Option<Turn> {
        let Reverse((due, id, generation)) = *self.heap.peek()?;
        if due > now {
            return None;
        }
        self.heap.pop();
        let slot = &mut self.slots[id as usize];
        debug_assert_eq!(slot.generation, generation);
        slot.state = State::Running { due };
        self.waiting -= 1;
        self.drop_stale();
        Some(Turn { id, due })
    }

    /// Brings a waiting target's next turn forward to `now`; its regular turns stay. Says whether it did.
    pub fn hasten(&mut self, id: TargetId, now: Duration) -> bool {
        let Some(slot) = self.slots.get(id as usize) else { return false };
        let State::Waiting { due } = slot.state else { return false };
        if due <= now {
            return false;
        }
        self.waiting -= 1;
        self.wait(id, now);
        true
    }

    /// Says that a target's turn is over, and schedules its next one after `now`.
    pub fn finished(&mut self, id: TargetId, now: Duration, in_doubt: bool) {
        let Some(slot) = self.slots.get(id as usize) else { return };
        let State::Running { due } = slot.state else { return };
        let regular = turn_after(slot.phase, slot.period, due.max(now));
        let next = if in_doubt { regular.min((due + slot.retry).max(now)) } else { regular };
        self.wait(id, next);
    }

    /// How many targets wait for their turn.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    fn wait(&mut self, id: TargetId, due: Duration) {
        let slot = &mut self.slots[id as usize];
        slot.state = State::Waiting { due };
        self.waiting += 1;
        self.heap.push(Reverse((due, id, slot.generation)));
    }

    /// Keeps the invariant that the top of the heap is a live turn.
    fn drop_stale(&mut self) {
        while let Some(Reverse((due, id, generation))) = self.heap.peek() {
            let slot = &self.slots[*id as usize];
            if slot.generation == *generation && slot.state == (State::Waiting { due: *due }) {
                break;
            }
            self.heap.pop();
        }
    }
}

/// The first regular turn strictly after `after` of a target with this seed.
pub fn next_turn(seed: u64, period: Duration, after: Duration) -> Duration {
    turn_after(spread(seed, period), period, after)
}

/// The first of `phase + n·period` that lies strictly after `after`.
fn turn_after(phase: Duration, period: Duration, after: Duration) -> Duration {
    let Some(past) = after.checked_sub(phase) else { return phase };
    let turns = past.as_nanos() / period.as_nanos() + 1;
    let next = phase.as_nanos() + turns * period.as_nanos();
    Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX))
}

/// Maps a seed evenly onto `0..period`.
pub fn spread(seed: u64, period: Duration) -> Duration {
    let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    let scaled = (u128::from(seed) * u128::from(period)) >> 64;
    Duration::from_nanos(scaled as u64)
}

#[cfg(test)]
mod tests;
