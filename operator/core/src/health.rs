//! From outcomes to verdicts: thresholds counted across periods.
//!
//! The rules are the kubelet's (consecutive outcomes; see "Configure Probes" in the Kubernetes
//! documentation) with two additions: a first-ever outcome decides at once, and an unknown outcome
//! decides nothing.

use jiff::Timestamp;
use strum::{EnumString, IntoStaticStr};

use crate::outcome::{Cause, Outcome};
use crate::snapshot::Told;

/// What the thresholds made of the outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, IntoStaticStr, EnumString)]
pub enum Verdict {
    /// Never judged yet.
    #[default]
    Unknown,
    /// Served.
    Healthy,
    /// Taken out.
    Unhealthy,
}

impl Verdict {
    /// The word as it stands in status and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many consecutive outcomes change a verdict. Both are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thresholds {
    /// Successes that make an unhealthy target healthy.
    pub success: u32,
    /// Failures that make a healthy target unhealthy.
    pub failure: u32,
}

/// The judgement of one target under one pair of thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    verdict: Verdict,
    since: Timestamp,
    /// Consecutive outcomes that disagree with the verdict.
    against: u32,
    /// Consecutive unknown outcomes.
    unknown: u32,
    /// Why the verdict is Unhealthy: what the deciding probe said.
    cause: Option<Cause>,
    /// Why probes learn nothing, once that has lasted `failure` probes.
    obstacle: Option<Cause>,
}

/// What an outcome changed; both may happen at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The verdict is another one now.
    pub verdict: Option<Verdict>,
    /// Probing has become impossible, or possible again.
    pub obstacle: bool,
}

impl Change {
    /// Whether anything changed that people should see.
    pub fn any(self) -> bool {
        self.verdict.is_some() || self.obstacle
    }
}

impl Health {
    /// A target that was never judged.
    pub fn unjudged(now: Timestamp) -> Self {
        Self { verdict: Verdict::Unknown, since: now, against: 0, unknown: 0, cause: None, obstacle: None }
    }

    /// A verdict that an earlier run of the operator, or whoever wrote the Endpoints, left behind.
    pub fn restored(verdict: Verdict, since: Timestamp, cause: Option<Cause>) -> Self {
        Self { verdict, since, against: 0, unknown: 0, cause, obstacle: None }
    }

    /// Another replica has told since when and why, if it came to the same verdict.
    pub fn settle(&mut self, told: &Told) {
        if self.verdict == told.verdict {
            self.since = told.since;
            self.cause.clone_from(&told.cause);
        }
    }

    /// The verdict in force.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Since when it is in force.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Why the target is unhealthy.
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// Why probes have learnt nothing lately.
    pub fn obstacle(&self) -> Option<&Cause> {
        self.obstacle.as_ref()
    }

    /// Whether the last outcomes disagree with the verdict without having changed it yet.
    pub fn in_doubt(&self) -> bool {
        self.against > 0
    }

    /// Consecutive outcomes against the verdict.
    pub fn against(&self) -> u32 {
        self.against
    }

    /// Whether this outcome would take a healthy target out.
    pub fn would_evict(&self, outcome: &Outcome, thresholds: Thresholds) -> bool {
        self.verdict == Verdict::Healthy
            && matches!(outcome, Outcome::Failure(_))
            && self.against + 1 >= thresholds.failure
    }

    /// Forgets failures that were counted against a healthy target, because the operator doubts itself.
    pub fn forgive(&mut self) {
        if self.verdict == Verdict::Healthy {
            self.against = 0;
        }
    }

    /// Takes one outcome into account.
    pub fn observe(&mut self, outcome: &Outcome, thresholds: Thresholds, now: Timestamp) -> Change {
        let proposed = match outcome {
            Outcome::Unknown(cause) => return self.learnt_nothing(cause, thresholds),
            Outcome::Success => Verdict::Healthy,
            Outcome::Failure(_) => Verdict::Unhealthy,
        };
        self.unknown = 0;
        let obstacle = self.obstacle.take().is_some();
        if proposed == self.verdict {
            self.against = 0;
            return Change { verdict: None, obstacle };
        }
        self.against += 1;
        let needed = match (self.verdict, proposed) {
            (Verdict::Unknown, _) => 1,
            (_, Verdict::Healthy) => thresholds.success,
            (_, _) => thresholds.failure,
        };
        if self.against < needed {
            return Change { verdict: None, obstacle };
        }
        self.verdict = proposed;
        self.since = now;
        self.against = 0;
        self.cause = outcome.cause().cloned();
        Change { verdict: Some(proposed), obstacle }
    }

    /// An unknown outcome interrupts no streak and changes no verdict; after as many of them in a row
    /// as failures would have evicted, the obstacle itself is worth telling.
    fn learnt_nothing(&mut self, cause: &Cause, thresholds: Thresholds) -> Change {
        self.unknown = self.unknown.saturating_add(1);
        let lasting = self.unknown >= thresholds.failure || self.verdict == Verdict::Unknown;
        if !lasting || self.obstacle.as_ref().is_some_and(|o| o.reason == cause.reason) {
            return Change::default();
        }
        self.obstacle = Some(cause.clone());
        Change { verdict: None, obstacle: true }
    }
}

#[cfg(test)]
mod tests;
