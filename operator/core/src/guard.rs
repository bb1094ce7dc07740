//! "Am I blind?" — whether failures speak of the hosts or of the operator.
//!
//! When the operator's own network is cut, every host falls silent at once, and a health checker that
//! believes its eyes empties every Service. So before a *silent* failure may evict a host (a timeout
//! or an unreachable network; a refusal or a wrong answer proves that packets travel), the guard looks
//! at all hosts that are supposed to be healthy: if nearly all of them are dark, and they are not
//! merely the hosts of one `ClusterEndpoint`, the operator is the suspect and nobody is evicted until
//! most of them answer again. Operators may name vantage targets besides; when all of those are
//! silent, the operator is blind as well.
//!
//! Hosts are probed at different paces, so that the first ones would be gone before most have had their
//! turn. Therefore silence evicts only on evidence: something must have answered since the silence began.
//! Until then the eviction waits, and the caller asks those that have not been heard of.
//!
//! Evictions are also capped per window, which bounds the damage where evidence misleads.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::outcome::{Cause, Outcome, Reason};

/// A number for a `ClusterEndpoint`, as the caller chooses it.
pub type GroupId = u32;

/// When the guard steps in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    /// Dark hosts, in percent of all that should be healthy, from which the operator counts as blind;
    /// 0 turns this off.
    pub blind_percent: u32,
    /// Fewer dark hosts than this never make it blind.
    pub min_hosts: usize,
    /// Hosts that may be evicted within `window`, in percent of all that are healthy; 100 = no cap.
    pub max_evictions_percent: u32,
    /// Evictions that are always allowed within `window`.
    pub min_evictions: usize,
    /// The window of the cap, and how long a host evicted for silence still counts as dark.
    pub window: Duration,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            blind_percent: 80,
            min_hosts: 3,
            max_evictions_percent: 50,
            min_evictions: 10,
            window: Duration::from_secs(10),
        }
    }
}

/// Silences in a row that make a vantage target dark: one may be a lost packet.
const VANTAGE_SILENCES: u32 = 2;

/// What the guard knows of one address.
#[derive(Debug, Default)]
struct Sight {
    /// Targets on this address whose verdict is Healthy.
    healthy: u32,
    /// Those of them whose latest outcome is silence.
    silent: u32,
    /// `ClusterEndpoint`s that list the address, with the number of targets each.
    groups: HashMap<GroupId, u32>,
    /// Evicted for silence at this time; it still counts as dark for a while.
    evicted: Option<Duration>,
}

impl Sight {
    fn dark(&self) -> bool {
        self.healthy > 0 && self.silent == self.healthy
    }
}

/// Whether a threshold that has been met may take its host out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Evict.
    Granted,
    /// Do not count this failure.
    Held(Cause),
    /// Nothing has answered since: ask others, and ask again when [`Guard::is_decided`] says so.
    Wait,
}

/// The state of the guard. Times are a [`Duration`] since an epoch of the caller's choosing.
#[derive(Debug)]
pub struct Guard {
    config: GuardConfig,
    hosts: HashMap<IpAddr, Sight>,
    lit: usize,
    dark: usize,
    blind: bool,
    /// Probes that started before this may have failed for the operator's sake.
    doubtful_until: Duration,
    /// Silences in a row of each vantage target.
    vantage: HashMap<SocketAddr, u32>,
    /// When the operator went blind.
    blind_since: Duration,
    /// When a host, and when a vantage target, last answered anything at all.
    heard: Duration,
    vantage_heard: Duration,
    evictions: VecDeque<(Duration, IpAddr)>,
}

impl Guard {
    /// A guard that has seen nothing.
    pub fn new(config: GuardConfig) -> Self {
        Self {
            config,
            hosts: HashMap::new(),
            lit: 0,
            dark: 0,
            blind: false,
            doubtful_until: Duration::ZERO,
            vantage: HashMap::new(),
            blind_since: Duration::ZERO,
            heard: Duration::ZERO,
            vantage_heard: Duration::ZERO,
            evictions: VecDeque::new(),
        }
    }

    /// Whether the operator doubts its own eyes.
    pub fn is_blind(&self) -> bool {
        self.blind
    }

    /// Hosts that are supposed to be healthy, and how many of them are dark.
    pub fn tally(&self) -> (usize, usize) {
        (self.lit, self.dark)
    }

    /// A `ClusterEndpoint` lists one more target on this address.
    pub fn join(&mut self, address: IpAddr, group: GroupId) {
        *self.hosts.entry(address).or_default().groups.entry(group).or_default() += 1;
    }

    /// A `ClusterEndpoint` no longer lists a target on this address.
    pub fn leave(&mut self, address: IpAddr, group: GroupId) {
        let Some(sight) = self.hosts.get_mut(&address) else { return };
        if let Some(n) = sight.groups.get_mut(&group) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                sight.groups.remove(&group);
            }
        }
        if sight.groups.is_empty() && sight.healthy == 0 {
            self.hosts.remove(&address);
        }
    }

    /// A target's contribution changes: whether it is healthy, and whether its latest outcome is silence.
    /// Both arguments are `(healthy, silent)`; a target that is gone is `(false, false)`.
    pub fn update(&mut self, address: IpAddr, was: (bool, bool), is: (bool, bool)) {
        if was == is {
            return;
        }
        let sight = self.hosts.entry(address).or_default();
        let (was_lit, was_dark) = (sight.healthy > 0, sight.dark());
        // Saturating: a caller's slip must not end the prober.
        sight.healthy = (sight.healthy + u32::from(is.0)).saturating_sub(u32::from(was.0));
        sight.silent = (sight.silent + u32::from(is.0 && is.1)).saturating_sub(u32::from(was.0 && was.1));
        if is.0 && !is.1 {
            sight.evicted = None;
        }
        let (lit, dark) = (sight.healthy > 0, sight.dark());
        self.lit = (self.lit + usize::from(lit)).saturating_sub(usize::from(was_lit));
        self.dark = (self.dark + usize::from(dark)).saturating_sub(usize::from(was_dark));
        if !lit && sight.groups.is_empty() {
            self.hosts.remove(&address);
        }
    }

    /// What a host said, be it that it refuses.
    pub fn host(&mut self, outcome: &Outcome, now: Duration) {
        if answers(outcome) == Some(true) {
            self.heard = now;
        }
    }

    /// What a vantage target said.
    pub fn vantage(&mut self, target: SocketAddr, outcome: &Outcome, now: Duration) {
        let Some(answers) = answers(outcome) else { return };
        let silences = self.vantage.entry(target).or_default();
        if answers {
            *silences = 0;
            self.vantage_heard = now;
        } else {
            *silences = silences.saturating_add(1);
        }
    }

    /// Whether a vantage target is silent, be it by one lost packet: then it is asked again soon.
    pub fn vantage_in_doubt(&self, target: SocketAddr) -> bool {
        self.vantage.get(&target).is_some_and(|silences| *silences > 0)
    }

    /// Whether enough is known for an eviction for a silence that lasts since then.
    pub fn is_decided(&self, silent_since: Duration) -> bool {
        self.blind || self.last_heard() > silent_since || !self.may_hear()
    }

    /// Vantage targets are there to say whether the network works; without them any host will do.
    fn last_heard(&self) -> Duration {
        if self.vantage.is_empty() { self.heard } else { self.vantage_heard }
    }

    /// Whether anybody is left who is supposed to answer.
    fn may_hear(&self) -> bool {
        match self.vantage.is_empty() {
            true => self.config.blind_percent > 0 && self.lit > self.dark,
            false => !self.vantage_is_dark(),
        }
    }

    /// Looks again whether the operator is blind; returns the new state if it changed.
    pub fn look(&mut self, now: Duration) -> Option<bool> {
        // Vantage targets are there to decide it; hosts only do where there are none.
        let blind = if self.vantage.is_empty() { self.hosts_are_dark(now) } else { self.vantage_is_dark() };
        if blind {
            self.doubtful_until = now;
        }
        if blind == self.blind {
            return None;
        }
        self.blind = blind;
        if blind {
            self.blind_since = now;
        } else {
            self.doubtful_until = now;
        }
        Some(blind)
    }

    /// Whether a failure of a probe that began at `started` is to be believed at all.
    pub fn believes(&self, cause: &Cause, started: Duration) -> Result<(), Cause> {
        if cause.reason.is_silence() && (self.blind || started < self.doubtful_until) {
            return Err(self.blind_cause());
        }
        Ok(())
    }

    /// Asks to take a host out whose threshold has been met by `cause`. For silence, `silent_since` is when
    /// an answer was overdue.
    pub fn admit(
        &mut self,
        address: IpAddr,
        cause: &Cause,
        silent_since: Duration,
        now: Duration,
    ) -> Permission {
        let silence = cause.reason.is_silence();
        if silence && self.blind {
            return Permission::Held(self.blind_cause());
        }
        if silence && !self.is_decided(silent_since) {
            return Permission::Wait;
        }
        let horizon = now.saturating_sub(self.config.window);
        while self.evictions.front().is_some_and(|(at, _)| *at < horizon) {
            self.evictions.pop_front();
        }
        let known = self.evictions.iter().any(|(_, other)| *other == address);
        if silence && !known && self.evictions.len() >= self.quota() {
            return Permission::Held(Cause::new(
                Reason::EvictionsCapped,
                "more hosts fall silent at once than may be taken out within one window \
                 (--max-evictions-percent)",
            ));
        }
        if silence {
            if !known {
                self.evictions.push_back((now, address));
            }
            self.hosts.entry(address).or_default().evicted = Some(now);
        }
        Permission::Granted
    }

    fn quota(&self) -> usize {
        if self.config.max_evictions_percent >= 100 {
            return usize::MAX;
        }
        let base = self.lit + self.evictions.len();
        (base * self.config.max_evictions_percent as usize / 100).max(self.config.min_evictions)
    }

    fn blind_cause(&self) -> Cause {
        Cause::new(
            Reason::OperatorBlind,
            "nearly all hosts fell silent together: the operator's own network is the suspect, \
             nobody is taken out for it",
        )
    }

    fn vantage_is_dark(&self) -> bool {
        !self.vantage.is_empty() && self.vantage.values().all(|silences| *silences >= VANTAGE_SILENCES)
    }

    fn hosts_are_dark(&self, now: Duration) -> bool {
        let config = &self.config;
        if config.blind_percent == 0 {
            return false;
        }
        // Once blind, sight is believed again only when most hosts answer.
        let percent = if self.blind { config.blind_percent.min(50) } else { config.blind_percent };
        let most = self.dark + self.evictions.len();
        if most < config.min_hosts || most * 100 < self.lit * percent as usize {
            return false; // By far: nothing needs to be counted.
        }
        let evicted = self.recently_evicted(now);
        let (dark, lit) = (self.dark + evicted, self.lit + evicted);
        if dark < config.min_hosts || dark * 100 < lit * percent as usize {
            return false;
        }
        // Once something answers again, hosts of one ClusterEndpoint may be dead like any others.
        let deaf = self.blind && self.heard <= self.blind_since;
        deaf || !self.one_group_covers_the_dark(now)
    }

    fn is_recently_evicted(&self, sight: &Sight, now: Duration) -> bool {
        sight.healthy == 0 && sight.evicted.is_some_and(|at| now <= at + self.config.window)
    }

    fn recently_evicted(&self, now: Duration) -> usize {
        self.evictions
            .iter()
            .filter(|(_, address)| {
                self.hosts.get(address).is_some_and(|sight| self.is_recently_evicted(sight, now))
            })
            .count()
    }

    /// Hosts of one `ClusterEndpoint` may well die together: one rack, one database cluster.
    fn one_group_covers_the_dark(&self, now: Duration) -> bool {
        let mut dark =
            self.hosts.values().filter(|sight| sight.dark() || self.is_recently_evicted(sight, now));
        let Some(first) = dark.next() else { return true };
        let mut common: Vec<GroupId> = first.groups.keys().copied().collect();
        for sight in dark {
            common.retain(|group| sight.groups.contains_key(group));
            if common.is_empty() {
                return false;
            }
        }
        true
    }
}

/// Whether anything came back; `None` when nothing was learnt.
fn answers(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Success => Some(true),
        Outcome::Failure(cause) => Some(!cause.reason.is_silence()),
        Outcome::Unknown(_) => None,
    }
}

#[cfg(test)]
mod tests;
