//! The one task that owns schedule and health.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cep_core::check::{Definition, Host};
use cep_core::guard::{GroupId, Guard};
use cep_core::health::{Health, Thresholds, Verdict};
use cep_core::outcome::{Cause, Outcome};
use cep_core::schedule::{Schedule, TargetId};
use cep_core::snapshot::{CepKey, Endpoint, Seeds, Snapshot};
use cep_core::target::Target;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::deadlines::Deadlines;
use super::dns::{Answer, Resolver};
use super::expand::Place;
use super::names::Names;
use super::probe::{Probe, Probed};
use super::suspects::Suspect;
use super::{Changed, Command, Config, IDLE_TICK, tls};
use crate::metrics::Metrics;

pub(super) struct Owner {
    pub(super) config: Config,
    pub(super) metrics: Arc<Metrics>,
    changed: mpsc::UnboundedSender<Changed>,
    pub(super) blind: watch::Sender<bool>,
    pub(super) resolver: Rc<Resolver>,
    pub(super) contexts: tls::Contexts,
    /// The epoch of all [`Duration`] times in here.
    pub(super) epoch: Instant,
    pub(super) targets: Vec<Option<Entry>>,
    pub(super) vacant: Vec<TargetId>,
    pub(super) index: HashMap<Arc<Target>, TargetId>,
    pub(super) ceps: HashMap<GroupId, Cep>,
    pub(super) groups: HashMap<CepKey, GroupId>,
    pub(super) next_group: GroupId,
    pub(super) schedule: Schedule,
    deadlines: Deadlines,
    pub(super) guard: Guard,
    pub(super) names: Names,
    /// Targets that have never been probed nor seeded; new ones are spread the wider the more there are.
    pub(super) unjudged: u32,
    /// Targets with a [`Suspect`], and since when they are silent.
    pub(super) suspects: VecDeque<(Duration, TargetId)>,
    /// When others may be asked about them again, and who was asked last.
    pub(super) next_asking: Duration,
    pub(super) asking: usize,
    /// Distinguishes a probe of a former owner of a target's number.
    next_token: u64,
    next_count: Duration,
    /// Ceps to publish, with the moment of the first change.
    pub(super) dirty: HashMap<GroupId, Instant>,
}

/// A distinct target and what is known of it.
pub(super) struct Entry {
    pub(super) target: Arc<Target>,
    pub(super) probe: Rc<Probe>,
    pub(super) judgements: Vec<Judgement>,
    /// Ceps that list it, with the number of places.
    pub(super) listeners: HashMap<GroupId, u32>,
    pub(super) token: u64,
    pub(super) last: Option<Last>,
    /// What it contributes to the guard: healthy, silent.
    pub(super) sight: (bool, bool),
    pub(super) fresh: bool,
    pub(super) vantage: bool,
    pub(super) suspect: Option<Suspect>,
}

/// The verdict under one pair of thresholds.
pub(super) struct Judgement {
    pub(super) thresholds: Thresholds,
    pub(super) health: Health,
    pub(super) places: u32,
    /// The latest failure would evict, and waits for evidence.
    pub(super) waits: bool,
    /// The guard held an eviction back: it is asked for again soon.
    pub(super) held: bool,
}

/// The latest probe.
#[derive(Clone, Debug)]
pub(super) struct Last {
    pub(super) at: Timestamp,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

pub(super) struct Cep {
    pub(super) key: CepKey,
    pub(super) definition: Arc<Definition>,
    pub(super) members: Vec<Member>,
    pub(super) snapshot: Arc<Snapshot>,
    /// What was found in the world, kept until every name has an answer.
    pub(super) seeds: Seeds,
}

impl Cep {
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

pub(super) struct Member {
    pub(super) place: Place,
    pub(super) target: Option<TargetId>,
    /// Since when it is a member, for places that are not probed.
    pub(super) since: Timestamp,
}

/// A probe that has ended.
pub(super) struct Done {
    pub(super) id: TargetId,
    pub(super) token: u64,
    pub(super) started: Duration,
    pub(super) late: bool,
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
}

/// Lookups at a time; each holds a few sockets.
const MAX_LOOKUPS: usize = 64;
/// Turns of the loop after which the runtime gets to look for packets, however busy the loop is.
const YIELD_EVERY: u32 = 64;
/// How late a probe may start so that it starts together with others: waking up costs as much as a probe.
const SLACK: Duration = Duration::from_millis(5);

type Probes = FuturesUnordered<LocalBoxFuture<'static, Done>>;
type Lookups = FuturesUnordered<LocalBoxFuture<'static, (Arc<str>, Result<Answer, Cause>)>>;

impl Owner {
    pub(super) fn new(
        config: Config,
        resolver: Resolver,
        metrics: Arc<Metrics>,
        changed: mpsc::UnboundedSender<Changed>,
        blind: watch::Sender<bool>,
    ) -> Self {
        let guard = Guard::new(config.guard);
        let mut owner = Self {
            config,
            metrics,
            changed,
            blind,
            resolver: Rc::new(resolver),
            contexts: tls::Contexts::new(),
            epoch: Instant::now(),
            targets: Vec::new(),
            vacant: Vec::new(),
            index: HashMap::new(),
            ceps: HashMap::new(),
            groups: HashMap::new(),
            next_group: 0,
            schedule: Schedule::default(),
            deadlines: Deadlines::default(),
            guard,
            names: Names::default(),
            unjudged: 0,
            suspects: VecDeque::new(),
            next_asking: Duration::ZERO,
            asking: 0,
            next_token: 0,
            next_count: Duration::ZERO,
            dirty: HashMap::new(),
        };
        owner.add_vantage_targets();
        owner
    }

    /// Runs until every [`super::Prober`] is gone.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>, tick: impl Fn()) {
        let mut probes = Probes::new();
        let mut lookups = Lookups::new();
        let mut turns = 0u32;
        // One timer for everything, moved on rather than made anew.
        let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            tick();
            self.start_lookups(&mut lookups);
            self.start_probes(&mut probes);
            self.publish();
            self.count_targets();
            let wake = self.wake_at(probes.len(), lookups.len()).into();
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                Some(done) = probes.next(), if !probes.is_empty() => {
                    self.conclude(done);
                    // Whatever else has ended by now, before the loop's overhead is paid again.
                    while let Some(Some(done)) = probes.next().now_or_never() {
                        self.conclude(done);
                    }
                }
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(first) = lookups.next(), if !lookups.is_empty() => {
                    let mut answers = vec![first];
                    while let Some(Some(answer)) = lookups.next().now_or_never() {
                        answers.push(answer);
                    }
                    self.resolved(answers);
                }
                // Only here, after the runtime has looked for packets and the probes have seen them, is a
                // probe out of time: else a busy loop would take answers that are there for silence.
                () = timer.as_mut() => self.deadlines.expire(timer.deadline().into_std() - self.epoch),
            }
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(YIELD_EVERY) {
                tokio::task::yield_now().await;
            }
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(super) fn timestamp_at(&self, at: Duration) -> Timestamp {
        let ahead = i64::try_from(at.as_nanos()).unwrap_or(i64::MAX)
            - i64::try_from(self.now().as_nanos()).unwrap_or(i64::MAX);
        Timestamp::now().saturating_add(jiff::SignedDuration::from_nanos(ahead)).unwrap_or(Timestamp::MAX)
    }

    /// When the loop must wake although nothing has happened.
    fn wake_at(&mut self, in_flight: usize, looking_up: usize) -> Instant {
        let idle = self.now() + IDLE_TICK;
        // At the limit, an ending probe wakes the loop.
        let probe = self.schedule.next_due().filter(|_| in_flight < self.config.max_in_flight);
        let probe = probe.map(|due| due + SLACK);
        let lookup = self.names.next_due().filter(|_| looking_up < MAX_LOOKUPS);
        let next = [probe, lookup, self.deadlines.next()];
        let next = next.into_iter().flatten().fold(idle, Duration::min);
        self.epoch + next
    }

    fn start_probes(&mut self, probes: &mut Probes) {
        while probes.len() < self.config.max_in_flight {
            let now = self.now();
            let Some(turn) = self.schedule.take_due(now) else { return };
            let lag = now.saturating_sub(turn.due);
            self.metrics.lag(lag);
            self.next_token += 1;
            let token = self.next_token;
            let Some(entry) = self.targets.get_mut(turn.id as usize).and_then(Option::as_mut) else {
                continue;
            };
            entry.token = token;
            let (id, probe, timeout) = (turn.id, entry.probe.clone(), entry.target.timeout);
            let late = lag > entry.target.cadence.period;
            let in_flight = self.metrics.probe_started();
            let expiry = self.deadlines.start(now, timeout);
            probes.push(
                async move {
                    let Probed { outcome, took, .. } = probe.run(timeout, expiry).await;
                    drop(in_flight);
                    Done { id, token, started: now, late, took, outcome }
                }
                .boxed_local(),
            );
        }
    }

    fn start_lookups(&mut self, lookups: &mut Lookups) {
        let now = self.now();
        while lookups.len() < MAX_LOOKUPS
            && let Some(name) = self.names.take_due(now)
        {
            let resolver = self.resolver.clone();
            lookups.push(
                async move {
                    let answer = resolver.resolve(&name).await;
                    (name, answer)
                }
                .boxed_local(),
            );
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Watch { key, definition, seeds, reply } => {
                let snapshot = self.watch(key, definition, seeds);
                // Whoever asked may have been cancelled.
                let _ = reply.send(snapshot);
            }
            Command::Settle { key, told, reply } => {
                let _ = reply.send(self.settle(&key, &told));
            }
            Command::Forget { key } => self.forget(&key),
            Command::Snapshot { key, reply } => {
                let group = self.groups.get(&key);
                let snapshot = group.and_then(|g| self.ceps.get(g)).map(|cep| cep.snapshot.clone());
                let _ = reply.send(snapshot);
            }
            Command::Overview { wanted, reply } => {
                let _ = reply.send((self.index.len(), self.overview(&wanted)));
            }
        }
    }

    pub(super) fn judgement(&self, definition: &Definition, member: &Member) -> Option<&Judgement> {
        let entry = self.targets.get(member.target? as usize)?.as_ref()?;
        let thresholds = definition.ports[member.place.port].thresholds;
        entry.judgements.iter().find(|j| j.thresholds == thresholds)
    }

    /// Publishes every cep that has changed.
    fn publish(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        for (group, at) in std::mem::take(&mut self.dirty) {
            if self.rebuild(group)
                && let Some(cep) = self.ceps.get(&group)
            {
                // Nobody listens during shutdown.
                let _ = self.changed.send(Changed { key: cep.key.clone(), at });
            }
        }
    }

    /// Makes a cep's snapshot anew; says whether it differs from the former one.
    pub(super) fn rebuild(&mut self, group: GroupId) -> bool {
        let Some(cep) = self.ceps.get(&group) else { return false };
        let endpoints = cep.members.iter().map(|member| self.endpoint(cep, member)).collect();
        let blind = self.guard.is_blind();
        let snapshot = Snapshot { definition: cep.definition.clone(), endpoints, blind };
        if snapshot == *cep.snapshot {
            return false;
        }
        if let Some(cep) = self.ceps.get_mut(&group) {
            cep.snapshot = Arc::new(snapshot);
        }
        true
    }

    fn endpoint(&self, cep: &Cep, member: &Member) -> Endpoint {
        let place = &member.place;
        let unresolved = match &place.host {
            Host::Name(name) => self.names.obstacle(name).cloned(),
            Host::Address(_) => None,
        };
        let mut endpoint = Endpoint {
            port: place.port,
            host: place.host.clone(),
            address: place.address,
            verdict: Verdict::Unknown,
            since: member.since,
            cause: None,
            obstacle: unresolved,
        };
        if let Some(judgement) = self.judgement(&cep.definition, member) {
            let health = &judgement.health;
            endpoint.verdict = health.verdict();
            endpoint.since = health.since();
            endpoint.cause = health.cause().filter(|_| health.verdict() == Verdict::Unhealthy).cloned();
            endpoint.obstacle = endpoint.obstacle.or_else(|| health.obstacle().cloned());
        } else if place.address.is_some() && place.target.is_none() {
            // Never probed, always served.
            endpoint.verdict = Verdict::Healthy;
        }
        endpoint
    }

    /// Counting walks over all targets, so it is done once a second.
    fn count_targets(&mut self) {
        let now = self.now();
        if now < self.next_count {
            return;
        }
        self.next_count = now + IDLE_TICK;
        let mut counts = [0; 3];
        for judgement in self.targets.iter().flatten().flat_map(|entry| &entry.judgements) {
            counts[judgement.health.verdict() as usize] += 1;
        }
        let of = |verdict: Verdict| counts[verdict as usize];
        self.metrics.targets(of(Verdict::Healthy), of(Verdict::Unhealthy), of(Verdict::Unknown));
    }

    /// All ceps as people name them, sorted.
    pub(super) fn sorted_groups(&self) -> BTreeSet<(CepKey, GroupId)> {
        self.groups.iter().map(|(key, group)| (key.clone(), *group)).collect()
    }
}
