//! `outcome → verdict`, with the guard in between.

use std::time::{Duration, Instant};

use cep_core::guard::Permission;
use cep_core::health::Verdict;
use cep_core::outcome::{Outcome, Reason};
use cep_core::schedule::TargetId;
use jiff::Timestamp;

use super::owner::{Done, Last, Owner};
use super::suspects::Suspect;

/// A probe that ends so long after its time was up says that the operator was busy elsewhere: the answer
/// may have been there in time.
const OVERTIME: Duration = Duration::from_millis(250);

impl Owner {
    /// Takes in a probe that has ended, and schedules the target's next turn.
    pub(super) fn conclude(&mut self, done: Done) {
        let Some(entry) = self.targets.get_mut(done.id as usize).and_then(Option::as_mut) else { return };
        if entry.token != done.token {
            return; // The number belongs to another target by now.
        }
        self.unjudged -= u32::from(std::mem::take(&mut entry.fresh));
        self.metrics.probe_done(entry.target.check.kind(), &done.outcome, done.took);
        let at = Timestamp::now();
        entry.last = Some(Last { at, outcome: done.outcome.clone(), took: done.took });
        let now = self.now();
        if self.targets[done.id as usize].as_ref().is_some_and(|entry| entry.vantage) {
            self.conclude_vantage(&done);
        } else {
            self.judge(&done, at);
        }
        let in_doubt = self.targets[done.id as usize].as_ref().is_some_and(|entry| {
            entry.judgements.iter().any(|j| j.waits || j.held || j.health.in_doubt())
                || entry.vantage && self.guard.vantage_in_doubt(entry.target.address)
        });
        self.schedule.finished(done.id, now, in_doubt);
        if !self.suspects.is_empty() {
            self.settle_suspects();
        }
    }

    fn conclude_vantage(&mut self, done: &Done) {
        if let Some(entry) = self.targets[done.id as usize].as_ref() {
            self.guard.vantage(entry.target.address, &done.outcome, self.epoch.elapsed());
        }
        self.look_around();
    }

    fn judge(&mut self, done: &Done, at: Timestamp) {
        // The guard sees what the probe saw, believed or not.
        let was_silent = self.targets[done.id as usize].as_ref().is_some_and(|entry| entry.sight.1);
        self.guard.host(&done.outcome, self.now());
        self.update_sight(done.id);
        let silent = done.outcome.cause().is_some_and(|cause| cause.reason.is_silence());
        if silent || was_silent || self.guard.is_blind() {
            self.look_around();
        }
        let outcome = self.credible(done);
        let entry = self.targets[done.id as usize].as_ref();
        let suspect = entry.and_then(|entry| entry.suspect.as_ref());
        let silent_since = suspect.map_or(done.started + done.took / 2, |suspect| suspect.silent_since);
        self.pass_judgement(done.id, &outcome, silent_since, at, false);
    }

    /// Lets an outcome count; with `waiting_only`, under those thresholds that waited with it for evidence.
    pub(super) fn pass_judgement(
        &mut self,
        id: TargetId,
        outcome: &Outcome,
        silent_since: Duration,
        at: Timestamp,
        waiting_only: bool,
    ) {
        let now = self.now();
        let Some(entry) = self.targets.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let address = entry.target.address.ip();
        let mut changed = false;
        for judgement in &mut entry.judgements {
            if !std::mem::take(&mut judgement.waits) && waiting_only {
                continue;
            }
            judgement.held = false;
            let mut outcome = outcome.clone();
            if judgement.health.would_evict(&outcome, judgement.thresholds)
                && let Outcome::Failure(cause) = &outcome
            {
                match self.guard.admit(address, cause, silent_since, now) {
                    Permission::Granted => {}
                    Permission::Held(why) => {
                        self.metrics.eviction_held(why.reason);
                        judgement.held = true;
                        outcome = Outcome::Unknown(why);
                    }
                    Permission::Wait => {
                        judgement.waits = true;
                        continue;
                    }
                }
            }
            let change = judgement.health.observe(&outcome, judgement.thresholds, at);
            if let Some(verdict) = change.verdict {
                self.metrics.transition(verdict);
                tracing::info!(
                    address = %entry.target.address,
                    check = entry.target.check.kind(),
                    verdict = verdict.as_str(),
                    cause = outcome.cause().map(tracing::field::display),
                    "verdict changed"
                );
            }
            changed |= change.any();
        }
        let waits = entry.judgements.iter().any(|judgement| judgement.waits);
        let former = std::mem::take(&mut entry.suspect);
        if waits {
            entry.suspect = Some(Suspect { silent_since, outcome: outcome.clone() });
            if former.is_none() {
                self.suspects.push_back((silent_since, id));
            }
        }
        if changed {
            let listeners: Vec<_> = entry.listeners.keys().copied().collect();
            let moment = Instant::now();
            for group in listeners {
                self.dirty.entry(group).or_insert(moment);
            }
            self.update_sight(id);
        }
    }

    /// A failure that may be the operator's own fault is no failure.
    fn credible(&self, done: &Done) -> Outcome {
        let Outcome::Failure(cause) = &done.outcome else { return done.outcome.clone() };
        let overtime = self.targets[done.id as usize]
            .as_ref()
            .is_some_and(|entry| done.took > entry.target.timeout + OVERTIME);
        if done.late || overtime {
            return Outcome::unknown(
                Reason::SchedulerLate,
                "the operator was late; it is overloaded or was suspended",
            );
        }
        match self.guard.believes(cause, done.started) {
            Ok(()) => done.outcome.clone(),
            Err(doubt) => Outcome::Unknown(doubt),
        }
    }

    /// Tells the guard what a target contributes now.
    pub(super) fn update_sight(&mut self, id: TargetId) {
        let Some(entry) = self.targets.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let last = entry.last.as_ref().map(|last| &last.outcome);
        // Of one that cannot be probed nothing will be heard, whatever its verdict.
        let healthy = entry.judgements.iter().any(|j| j.health.verdict() == Verdict::Healthy)
            && !matches!(last, Some(Outcome::Unknown(_)));
        let silent = matches!(last, Some(Outcome::Failure(cause)) if cause.reason.is_silence());
        let sight = (healthy, silent);
        self.guard.update(entry.target.address.ip(), entry.sight, sight);
        entry.sight = sight;
    }

    /// Has the operator gone blind, or can it see again?
    fn look_around(&mut self) {
        let Some(blind) = self.guard.look(self.now()) else { return };
        let (hosts, dark) = self.guard.tally();
        self.metrics.blind(blind);
        // Nobody listens during shutdown.
        let _ = self.blind.send(blind);
        if blind {
            tracing::error!(
                hosts,
                dark,
                "nearly all hosts fell silent together: the operator's own network is the suspect; no host is \
                 taken out for silence until most answer again"
            );
        } else {
            tracing::warn!(hosts, dark, "hosts answer again; evictions are possible again");
        }
        let moment = Instant::now();
        for entry in self.targets.iter_mut().flatten() {
            for judgement in &mut entry.judgements {
                judgement.health.forgive();
            }
        }
        for group in self.ceps.keys() {
            self.dirty.entry(*group).or_insert(moment);
        }
    }
}
