//! Alive: the scheduler advances. Ready: every gate is open.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by those who report progress and the server that tells it.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    /// Milliseconds from `epoch` to the last tick, plus one; 0 before the first.
    last_tick: AtomicU64,
    limit: Duration,
    gates: Mutex<Vec<Arc<GateState>>>,
}

#[derive(Debug)]
struct GateState {
    name: &'static str,
    waiting_for: &'static str,
    open: AtomicBool,
}

/// One of the things that have to be in place before the operator is ready. Closed at first.
#[derive(Clone, Debug)]
pub struct Gate(Arc<GateState>);

impl Gate {
    /// It is in place.
    pub fn open(&self) {
        self.0.open.store(true, Ordering::Release);
    }

    /// It no longer is.
    pub fn close(&self) {
        self.0.open.store(false, Ordering::Release);
    }
}

impl Default for Readiness {
    /// With a limit of 15 seconds.
    fn default() -> Self {
        Self::new(Duration::from_secs(15))
    }
}

impl Readiness {
    /// Without gates. A scheduler that has not ticked for longer than `limit` counts as dead.
    pub fn new(limit: Duration) -> Self {
        let (epoch, last_tick) = (Instant::now(), AtomicU64::new(0));
        Self(Arc::new(Shared { epoch, last_tick, limit, gates: Mutex::default() }))
    }

    /// The scheduler has gone round once more. It has to do so even when there is nothing to probe.
    pub fn scheduler_tick(&self) {
        let millis = u64::try_from(self.0.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.0.last_tick.store(millis + 1, Ordering::Relaxed);
    }

    /// Adds a gate. `waiting_for` tells what is missing while it is closed: "watch caches not synced".
    pub fn gate(&self, name: &'static str, waiting_for: &'static str) -> Gate {
        let state = Arc::new(GateState { name, waiting_for, open: AtomicBool::new(false) });
        self.0.gates.lock().unwrap_or_else(PoisonError::into_inner).push(state.clone());
        Gate(state)
    }

    /// Why the scheduler counts as dead. Before its first tick it does not: an operator that waits for the
    /// API server gains nothing from being killed.
    pub fn stalled(&self) -> Option<String> {
        let tick = self.0.last_tick.load(Ordering::Relaxed).checked_sub(1)?;
        let age = self.0.epoch.elapsed().saturating_sub(Duration::from_millis(tick));
        let (age, limit) = (age.as_secs_f64(), self.0.limit.as_secs_f64());
        (age > limit).then(|| format!("the scheduler has not advanced for {age:.1} s (limit {limit:.1} s)"))
    }

    /// What is not in place yet, a line each; empty when the operator is ready.
    pub fn waiting_for(&self) -> Vec<String> {
        let gates = self.0.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = gates.iter().filter(|gate| !gate.open.load(Ordering::Acquire));
        closed.map(|gate| format!("{}: {}", gate.name, gate.waiting_for)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_before_the_first_tick_and_for_a_while_after_each() {
        let readiness = Readiness::new(Duration::from_millis(200));
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(readiness.stalled(), None, "not started");
        readiness.scheduler_tick();
        assert_eq!(readiness.stalled(), None);
        std::thread::sleep(Duration::from_millis(250));
        let why = readiness.stalled().unwrap();
        assert!(why.starts_with("the scheduler has not advanced for 0."), "{why}");
        assert!(why.ends_with("(limit 0.2 s)"), "{why}");
        readiness.scheduler_tick();
        assert_eq!(readiness.stalled(), None, "it advances again");
    }

    #[test]
    fn ready_when_all_gates_are_open() {
        let readiness = Readiness::default();
        assert!(readiness.waiting_for().is_empty(), "no gates");
        let caches = readiness.gate("caches", "watch caches not synced");
        let prober = readiness.gate("prober", "no definition probed yet");
        caches.open();
        assert_eq!(readiness.waiting_for(), ["prober: no definition probed yet"]);
        prober.open();
        assert!(readiness.waiting_for().is_empty());
        caches.close();
        assert_eq!(readiness.waiting_for(), ["caches: watch caches not synced"]);
    }
}
