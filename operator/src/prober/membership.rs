//! Which ceps list which targets: joining, leaving, and what a new target starts from.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cep_core::check::{Cadence, Check, Definition};
use cep_core::guard::GroupId;
use cep_core::health::{Health, Thresholds, Verdict};
use cep_core::outcome::Cause;
use cep_core::schedule::{TargetId, next_turn, spread};
use cep_core::snapshot::{CepKey, Seed, Seeds, Snapshot};
use cep_core::target::Target;
use jiff::Timestamp;

use super::dns::Answer;
use super::expand::{expand, names};
use super::owner::{Cep, Entry, Judgement, Member, Owner};
use super::probe::Probe;
use crate::metrics::DnsOutcome;

/// How long the first probes of new targets are spread, for each of them.
const FIRST_TURN_SPACING: Duration = Duration::from_micros(100);
/// And at the least.
const FIRST_TURN_SPREAD: Duration = Duration::from_millis(50);

impl Owner {
    /// Starts or changes the probing of a cep.
    pub(super) fn watch(
        &mut self,
        key: CepKey,
        definition: Arc<Definition>,
        mut seeds: Seeds,
    ) -> Arc<Snapshot> {
        if let Some(cep) = self.groups.get(&key).and_then(|group| self.ceps.get(group))
            && *cep.definition == *definition
        {
            return cep.snapshot.clone();
        }
        let group = *self.groups.entry(key.clone()).or_insert_with(|| {
            self.next_group += 1;
            self.next_group
        });
        let former = self.ceps.remove(&group);
        if let Some(former) = &former {
            // Verdicts reached by the former definition go on under the new one where the place is the same.
            self.seed_from(former, &mut seeds);
        }
        let now = self.now();
        let wanted = names(&definition);
        let mut others = BTreeSet::new();
        for name in &wanted {
            others.extend(self.names.join(name, group, seeds.addresses(name), &self.config.policy, now));
        }
        let snapshot = Snapshot { definition: definition.clone(), endpoints: Vec::new(), blind: false };
        let snapshot = Arc::new(snapshot);
        let cep = Cep {
            key,
            definition: definition.clone(),
            members: Vec::new(),
            snapshot: snapshot.clone(),
            seeds,
        };
        self.ceps.insert(group, cep);
        self.expand_cep(group, &[]);
        // The old targets go after the new ones came: what both list is probed on without a break.
        if let Some(former) = &former {
            for name in names(&former.definition).iter().filter(|name| !wanted.contains(&**name)) {
                self.names.leave(name, group);
            }
            self.release_all(group, &former.definition, &former.members);
        }
        for other in others {
            self.expand_anew(other);
        }
        self.dirty.remove(&group);
        self.rebuild(group);
        self.ceps.get(&group).map_or(snapshot, |cep| cep.snapshot.clone())
    }

    /// Ends the probing of a cep.
    pub(super) fn forget(&mut self, key: &CepKey) {
        let Some(group) = self.groups.remove(key) else { return };
        let Some(cep) = self.ceps.remove(&group) else { return };
        for name in names(&cep.definition) {
            self.names.leave(&name, group);
        }
        self.release_all(group, &cep.definition, &cep.members);
        self.dirty.remove(&group);
    }

    /// Takes in the answers of lookups; a cep that several of them concern is expanded once.
    pub(super) fn resolved(&mut self, answers: Vec<(Arc<str>, Result<Answer, Cause>)>) {
        let now = self.now();
        let mut concerned = BTreeSet::new();
        for (name, answer) in answers {
            self.metrics.dns_lookup(match &answer {
                Ok(answer) if !answer.addresses.is_empty() => DnsOutcome::Success,
                Ok(_) => DnsOutcome::NoRecords,
                Err(_) => DnsOutcome::Failure,
            });
            concerned.extend(self.names.answered(&name, answer, &self.config.policy, now));
        }
        for group in concerned {
            self.expand_anew(group);
        }
    }

    /// Brings the members of a cep to what its names stand for now.
    fn expand_anew(&mut self, group: GroupId) {
        let Some(cep) = self.ceps.get_mut(&group) else { return };
        let former = std::mem::take(&mut cep.members);
        let definition = cep.definition.clone();
        self.expand_cep(group, &former);
        self.release_all(group, &definition, &former);
        self.dirty.entry(group).or_insert_with(Instant::now);
    }

    /// Fills the members of a cep that has none; `former` are those of the same definition before.
    fn expand_cep(&mut self, group: GroupId, former: &[Member]) {
        let Some(cep) = self.ceps.get_mut(&group) else { return };
        let definition = cep.definition.clone();
        let seeds = std::mem::take(&mut cep.seeds);
        let now = Timestamp::now();
        let places = expand(&definition, |name| self.names.addresses(name));
        let unprobed: HashMap<(usize, IpAddr), Timestamp> = former
            .iter()
            .filter(|member| member.target.is_none())
            .filter_map(|member| Some(((member.place.port, member.place.address?), member.since)))
            .collect();
        let mut members = Vec::with_capacity(places.len());
        for place in places {
            let port = &definition.ports[place.port];
            let seed = place.address.and_then(|a| seeds.get(port.name.as_deref(), port.target_port, a));
            let known = place.address.and_then(|a| unprobed.get(&(place.port, a))).copied();
            let since = known.or_else(|| seed.and_then(|seed| seed.since));
            let target =
                place.target.as_ref().map(|target| self.acquire(group, target, port.thresholds, seed));
            members.push(Member { place, target, since: since.unwrap_or(now) });
        }
        // An address that leaves DNS and returns much later must not come back with today's verdict.
        let complete = members.iter().all(|member| member.place.address.is_some());
        if let Some(cep) = self.ceps.get_mut(&group) {
            cep.members = members;
            cep.seeds = if complete { Seeds::default() } else { seeds };
        }
    }

    /// A place of a cep starts to use a target, which may be new.
    fn acquire(
        &mut self,
        group: GroupId,
        target: &Target,
        thresholds: Thresholds,
        seed: Option<&Seed>,
    ) -> TargetId {
        let now = Timestamp::now();
        let known = self.index.get(target).copied();
        let id = known.unwrap_or_else(|| self.add_target(target.clone(), seed.is_some(), false));
        let Some(entry) = self.targets.get_mut(id as usize).and_then(Option::as_mut) else { return id };
        *entry.listeners.entry(group).or_default() += 1;
        self.guard.join(target.address.ip(), group);
        if let Some(judgement) = entry.judgements.iter_mut().find(|j| j.thresholds == thresholds) {
            judgement.places += 1;
            // Who came first without a seed does not decide for those who have one.
            if let Some(seed) = seed.filter(|_| judgement.health.verdict() == Verdict::Unknown) {
                judgement.health =
                    Health::restored(seed.verdict, seed.since.unwrap_or(now), seed.cause.clone());
                for listener in entry.listeners.keys().filter(|listener| **listener != group) {
                    self.dirty.entry(*listener).or_insert_with(Instant::now);
                }
            }
        } else {
            let other = entry.judgements.iter().find(|j| j.health.verdict() != Verdict::Unknown);
            let health = match (other, seed) {
                (Some(other), _) => Health::restored(
                    other.health.verdict(),
                    other.health.since(),
                    other.health.cause().cloned(),
                ),
                (None, Some(seed)) => {
                    Health::restored(seed.verdict, seed.since.unwrap_or(now), seed.cause.clone())
                }
                (None, None) => Health::unjudged(now),
            };
            entry.judgements.push(Judgement { thresholds, health, places: 1, waits: false, held: false });
        }
        self.update_sight(id);
        id
    }

    /// Takes a new target into the schedule. A seeded one waits for its regular turn; one that nobody
    /// has judged gets its first turn soon, because it is not served before.
    fn add_target(&mut self, target: Target, seeded: bool, vantage: bool) -> TargetId {
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.targets.push(None);
            (self.targets.len() - 1) as TargetId
        });
        let seed = target.seed();
        let now = self.now();
        let first = if seeded {
            next_turn(seed, target.cadence.period, now)
        } else {
            self.unjudged += 1;
            let window =
                (FIRST_TURN_SPACING * self.unjudged).max(FIRST_TURN_SPREAD).min(target.cadence.period);
            now + spread(seed, window)
        };
        self.schedule.add(id, target.cadence.period, target.cadence.retry, seed, first);
        let target = Arc::new(target);
        let entry = Entry {
            probe: Rc::new(Probe::prepare(&target, &self.contexts)),
            target: target.clone(),
            judgements: Vec::new(),
            listeners: HashMap::new(),
            token: 0,
            last: None,
            sight: (false, false),
            fresh: !seeded,
            vantage,
            suspect: None,
        };
        self.targets[id as usize] = Some(entry);
        if !vantage {
            self.index.insert(target, id);
        }
        id
    }

    fn release_all(&mut self, group: GroupId, definition: &Definition, members: &[Member]) {
        for member in members {
            self.release(group, definition, member);
        }
    }

    /// A place of a cep stops using its target; the last one takes the target out of the schedule.
    fn release(&mut self, group: GroupId, definition: &Definition, member: &Member) {
        let Some(id) = member.target else { return };
        let Some(entry) = self.targets.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let address = entry.target.address.ip();
        let thresholds = definition.ports[member.place.port].thresholds;
        if let Some(at) = entry.judgements.iter().position(|j| j.thresholds == thresholds) {
            entry.judgements[at].places -= 1;
            if entry.judgements[at].places == 0 {
                entry.judgements.swap_remove(at);
            }
        }
        if let Some(places) = entry.listeners.get_mut(&group) {
            *places -= 1;
            if *places == 0 {
                entry.listeners.remove(&group);
            }
        }
        let unused = entry.listeners.is_empty() && !entry.vantage;
        self.guard.leave(address, group);
        self.update_sight(id);
        if unused && let Some(entry) = self.targets[id as usize].take() {
            self.schedule.remove(id);
            self.index.remove(&entry.target);
            self.unjudged -= u32::from(entry.fresh);
            self.vacant.push(id);
        }
    }

    pub(super) fn add_vantage_targets(&mut self) {
        let second = Duration::from_secs(1);
        let cadence = Cadence { period: 5 * second, retry: second };
        for address in self.config.vantage.clone() {
            let check = Check::Tcp;
            let target = Target { address, name: None, check, timeout: second, cadence };
            self.add_target(target, false, true);
        }
    }

    /// The verdicts of a definition that is about to be replaced.
    fn seed_from(&self, former: &Cep, seeds: &mut Seeds) {
        let mut reached = Seeds::default();
        for member in &former.members {
            let (Some(address), Some(judgement)) =
                (member.place.address, self.judgement(&former.definition, member))
            else {
                continue;
            };
            if judgement.health.verdict() == Verdict::Unknown {
                continue;
            }
            let port = &former.definition.ports[member.place.port];
            let seed = Seed {
                verdict: judgement.health.verdict(),
                since: Some(judgement.health.since()),
                cause: judgement.health.cause().cloned(),
            };
            reached.insert(port.name.as_deref(), port.target_port, address, seed);
        }
        reached.fall_back_on(std::mem::take(seeds));
        *seeds = reached;
    }
}
