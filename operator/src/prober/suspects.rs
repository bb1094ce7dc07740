//! Evictions that wait for evidence: has the host fallen silent, or has the operator gone deaf?
//!
//! Silence that would evict is put aside until anything else answers. Those who are supposed to answer are
//! asked at once, whatever their period, so that with a working network this takes milliseconds.

use std::time::Duration;

use cep_core::outcome::Outcome;
use cep_core::schedule::TargetId;
use jiff::Timestamp;

use super::owner::Owner;

/// A silent failure that would evict.
#[derive(Debug)]
pub(super) struct Suspect {
    /// When its answer was overdue: halfway through the probe, for hardly any answer takes so long.
    pub(super) silent_since: Duration,
    pub(super) outcome: Outcome,
}

/// Targets that are asked at once.
const AT_ONCE: usize = 16;
/// The pause before more are asked.
const PAUSE: Duration = Duration::from_millis(100);
/// Targets that are looked at, at the most, in search of those to ask.
const LOOKED_AT: usize = 1024;

impl Owner {
    /// Decides about those for which there is evidence by now, and asks for more of it.
    pub(super) fn settle_suspects(&mut self) {
        while let Some(&(silent_since, id)) = self.suspects.front() {
            if !self.guard.is_decided(silent_since) {
                self.ask_others();
                return;
            }
            self.suspects.pop_front();
            let entry = self.targets.get_mut(id as usize).and_then(Option::as_mut);
            let suspect = entry.and_then(|entry| entry.suspect.take_if(|s| s.silent_since == silent_since));
            let Some(Suspect { outcome: Outcome::Failure(cause), .. }) = suspect else { continue };
            let outcome = match self.guard.believes(&cause, silent_since) {
                Ok(()) => Outcome::Failure(cause),
                Err(doubt) => {
                    self.metrics.eviction_held(doubt.reason);
                    Outcome::Unknown(doubt)
                }
            };
            self.pass_judgement(id, &outcome, silent_since, Timestamp::now(), true);
        }
    }

    /// Brings the turns of a few forward that have not been silent: vantage targets, or else any host.
    fn ask_others(&mut self) {
        let now = self.now();
        if now < self.next_asking {
            return;
        }
        self.next_asking = now + PAUSE;
        // Vantage targets come first and never go.
        let candidates = match self.config.vantage.len() {
            0 => self.targets.len(),
            vantage => vantage,
        };
        let mut asked = 0;
        for _ in 0..candidates.min(LOOKED_AT) {
            self.asking = (self.asking + 1) % candidates;
            let Some(entry) = self.targets.get(self.asking).and_then(Option::as_ref) else { continue };
            let promising = entry.vantage || entry.sight == (true, false);
            if promising && self.schedule.hasten(self.asking as TargetId, now) {
                asked += 1;
                if asked == AT_ONCE {
                    return;
                }
            }
        }
    }
}
