//! What the operator counts and measures of itself, for Prometheus.
//!
//! Labels come from closed sets; hosts and `ClusterEndpoint`s are never labels, so that the number of
//! series does not grow with the cluster. Their state is in `status`, in Events and on the status page.

mod process;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cep_core::health::Verdict;
use cep_core::outcome::{Outcome, Reason};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use strum::IntoStaticStr;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Kinds of checks that have series of their own. Whatever else comes along counts as the last one.
const KINDS: [&str; 9] = ["tcp", "http", "https", "udp", "grpc", "mysql", "redis", "module", "other"];

/// All reasons, each at the index of its discriminant.
const REASONS: [Reason; 21] = [
    Reason::ConnectionRefused,
    Reason::ConnectionReset,
    Reason::Timeout,
    Reason::ResponseTimeout,
    Reason::HostUnreachable,
    Reason::NetworkUnreachable,
    Reason::TlsFailed,
    Reason::UnexpectedStatus,
    Reason::UnexpectedBody,
    Reason::ProtocolError,
    Reason::RedirectFailed,
    Reason::NotServing,
    Reason::AddressDenied,
    Reason::NotResolved,
    Reason::SchedulerLate,
    Reason::ResourceExhausted,
    Reason::OperatorBlind,
    Reason::EvictionsCapped,
    Reason::Misconfigured,
    Reason::Undetermined,
    Reason::Other,
];
const _: () = assert!(REASONS.len() == Reason::Other as usize + 1, "every Reason has its series");

/// Series that one of the open-ended labels (`step`, `object`) may have before the rest is `other`.
const MOST_SERIES: usize = 32;

const PROBE_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const LAG_BUCKETS: [f64; 14] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const WRITE_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ReconcileResult {
    /// The world is as the spec wants it.
    Success,
    /// The spec, or what it found in its place, does not allow it: somebody has to change something.
    Refused,
    /// Something went wrong and is tried again.
    Error,
}

/// How a DNS look-up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum DnsOutcome {
    /// At least one usable address.
    Success,
    /// An authoritative answer without one.
    NoRecords,
    /// No answer: timeout, server failure, unreachable resolver.
    Failure,
}

/// Counts down again when it is dropped, however the probe ends.
#[derive(Debug)]
#[must_use = "a probe is in flight for as long as this value lives"]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The handles of one kind of check, resolved once so that a probe looks nothing up.
#[derive(Debug)]
struct Kind {
    success: Counter,
    failure: Counter,
    unknown: Counter,
    reasons: Vec<Counter>,
    duration: Histogram,
}

/// Counters by a word of the caller's, of which there may be only so many.
#[derive(Debug)]
struct ByWord {
    label: &'static str,
    family: Counters<1>,
    counters: Mutex<BTreeMap<&'static str, Counter>>,
}

impl ByWord {
    fn new(registry: &mut Registry, name: &str, label: &'static str, help: &str) -> Self {
        Self { label, family: counters(registry, name, help), counters: Mutex::default() }
    }

    fn counter(&self, word: &'static str) -> Counter {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counters.contains_key(word) || counters.len() < MOST_SERIES;
        let word = if known { word } else { "other" };
        let create = || self.family.get_or_create_owned(&[(self.label, word)]);
        counters.entry(word).or_insert_with(create).clone()
    }

    fn count(&self, word: &'static str) {
        self.counter(word).inc();
    }

    fn expect(&self, words: &[&'static str]) {
        words.iter().for_each(|word| drop(self.counter(word)));
    }
}

/// All metrics of the process. Every method is cheap.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Without the prefix: `process_*`.
    process: Registry,
    probes: Counters<2>,
    probe_failures: Counters<2>,
    probe_duration: Histograms,
    kinds: [OnceLock<Kind>; KINDS.len()],
    transitions: [Counter; 3],
    targets: [Gauge; 3],
    schedule_lag: Histogram,
    probes_in_flight: Gauge,
    evictions_held: Counters<1>,
    blind: Gauge,
    dns_lookups: Counters<1>,
    reconciles: Counters<1>,
    reconcile_errors: ByWord,
    reconcile_duration: Histogram,
    api_writes: ByWord,
    write_delay: Histogram,
    leader: Gauge,
    lease_transitions: Counter,
    repairs: ByWord,
    events_dropped: Counter,
}

impl Metrics {
    /// All at zero. `version` is what `build_info` tells.
    pub fn new(version: &str) -> Arc<Self> {
        let mut registry = Registry::with_prefix("endpoints_operator");
        let r = &mut registry;
        r.register("build", "The version that runs", Info::new([("version", version.to_owned())]));

        let probes = counters(r, "probes", "Probes that ended, by kind of check and outcome");
        let probe_failures =
            counters(r, "probe_failures", "Probes that were no success, by kind of check and reason");
        let constructor: fn() -> Histogram = || Histogram::new(PROBE_BUCKETS);
        let probe_duration = Histograms::new_with_constructor(constructor);
        r.register_with_unit("probe_duration", "How long probes take", Unit::Seconds, probe_duration.clone());

        let transitions: Counters<1> = counters(r, "transitions", "Changes of verdict, by the new one");
        let targets = Family::<Labels<1>, Gauge>::default();
        r.register("targets", "Distinct targets, by verdict", targets.clone());
        let dns_lookups = counters(r, "dns_lookups", "Look-ups of DNS hosts");
        for outcome in [DnsOutcome::Success, DnsOutcome::NoRecords, DnsOutcome::Failure] {
            let _ = dns_lookups.get_or_create(&[("outcome", outcome.into())]);
        }
        let reconciles = counters(r, "reconciles", "Reconciles of a ClusterEndpoint, by how they ended");
        for result in [ReconcileResult::Success, ReconcileResult::Refused, ReconcileResult::Error] {
            let _ = reconciles.get_or_create(&[("result", result.into())]);
        }
        let evictions_held =
            counters(r, "evictions_held", "Evictions that were due and not made, by what held them");
        for reason in [Reason::OperatorBlind, Reason::EvictionsCapped] {
            let _ = evictions_held.get_or_create(&[("reason", reason.as_str())]);
        }

        Arc::new(Self {
            probes,
            probe_failures,
            probe_duration,
            kinds: std::array::from_fn(|_| OnceLock::new()),
            transitions: VERDICTS.map(|to| transitions.get_or_create_owned(&[("to", to.as_str())])),
            targets: VERDICTS.map(|verdict| targets.get_or_create_owned(&[("verdict", verdict.as_str())])),
            schedule_lag: histogram(r, "schedule_lag", "How late probes start", LAG_BUCKETS),
            probes_in_flight: gauge(r, "probes_in_flight", "Probes that run now"),
            evictions_held,
            blind: gauge(r, "blind", "1 while the operator doubts its own network and evicts nobody"),
            dns_lookups,
            reconciles,
            reconcile_errors: ByWord::new(
                r,
                "reconcile_errors",
                "step",
                "Reconciles that failed, by the step",
            ),
            reconcile_duration: histogram(r, "reconcile_duration", "How long reconciles take", WRITE_BUCKETS),
            api_writes: ByWord::new(
                r,
                "api_writes",
                "object",
                "Writes to the API server, by what is written",
            ),
            write_delay: histogram(
                r,
                "write_delay",
                "From the moment a threshold is met until the slice's write is acknowledged",
                WRITE_BUCKETS,
            ),
            leader: gauge(r, "leader", "1 while this process holds the Lease and writes"),
            lease_transitions: counter(r, "lease_transitions", "Times this process won or lost the Lease"),
            repairs: ByWord::new(
                r,
                "repairs",
                "object",
                "Objects put right after a foreign change or deletion",
            ),
            events_dropped: counter(r, "events_dropped", "Kubernetes Events that were not sent"),
            process: process::registry(),
            registry,
        })
    }

    /// A probe begins; it is in flight until the returned value is dropped.
    pub fn probe_started(&self) -> InFlight {
        self.probes_in_flight.inc();
        InFlight(self.probes_in_flight.clone())
    }

    /// A probe has ended. `kind` is [`cep_core::check::Check::kind`] or the name of a shipped module.
    pub fn probe_done(&self, kind: &'static str, outcome: &Outcome, took: Duration) {
        let kind = self.kind(kind);
        match outcome {
            Outcome::Success => kind.success.inc(),
            Outcome::Failure(_) => kind.failure.inc(),
            Outcome::Unknown(_) => kind.unknown.inc(),
        };
        if let Some(cause) = outcome.cause() {
            kind.reasons[cause.reason as usize].inc();
        }
        kind.duration.observe(took.as_secs_f64());
    }

    /// A verdict has changed to `to`.
    pub fn transition(&self, to: Verdict) {
        self.transitions[to as usize].inc();
    }

    /// How many distinct targets have each verdict now.
    pub fn targets(&self, healthy: usize, unhealthy: usize, unknown: usize) {
        for (verdict, count) in
            [(Verdict::Healthy, healthy), (Verdict::Unhealthy, unhealthy), (Verdict::Unknown, unknown)]
        {
            self.targets[verdict as usize].set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A probe started this much after it was due.
    pub fn lag(&self, late: Duration) {
        self.schedule_lag.observe(late.as_secs_f64());
    }

    /// A threshold was met and the host stays in all the same.
    pub fn eviction_held(&self, reason: Reason) {
        self.evictions_held.get_or_create(&[("reason", reason.as_str())]).inc();
    }

    /// Whether the operator doubts its own eyes.
    pub fn blind(&self, blind: bool) {
        self.blind.set(i64::from(blind));
    }

    /// A DNS look-up has ended.
    pub fn dns_lookup(&self, outcome: DnsOutcome) {
        self.dns_lookups.get_or_create(&[("outcome", outcome.into())]).inc();
    }

    /// A reconcile has ended.
    pub fn reconcile_done(&self, result: ReconcileResult, took: Duration) {
        self.reconciles.get_or_create(&[("result", result.into())]).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// The steps that may fail, and the kinds of objects that may be written: they have their series from
    /// now on, so that rates see the first failure, too.
    pub fn expect(&self, steps: &[&'static str], objects: &[&'static str]) {
        self.reconcile_errors.expect(steps);
        self.api_writes.expect(objects);
        self.repairs.expect(objects);
    }

    /// A reconcile failed in this step: the discriminant of the error.
    pub fn reconcile_failed(&self, step: &'static str) {
        self.reconcile_errors.count(step);
    }

    /// An object of this kind was written (`endpointslice`, `service`, …).
    pub fn api_write(&self, object: &'static str) {
        self.api_writes.count(object);
    }

    /// The slice's write is acknowledged this long after the threshold was met.
    pub fn write_delay(&self, delay: Duration) {
        self.write_delay.observe(delay.as_secs_f64());
    }

    /// Whether this process holds the Lease; each change counts as a transition.
    pub fn leader(&self, leader: bool) {
        if self.leader.set(i64::from(leader)) != i64::from(leader) {
            self.lease_transitions.inc();
        }
    }

    /// An object of this kind was put right after somebody else's change or deletion.
    pub fn repair(&self, object: &'static str) {
        self.repairs.count(object);
    }

    /// A Kubernetes Event was not sent: refused, or more of them than may be queued.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Everything as OpenMetrics text; see [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(32 * 1024);
        // Writing to a String does not fail; a collector that does leaves out the rest of its own.
        let written = text::encode_registry(&mut out, &self.registry)
            .and_then(|()| text::encode_registry(&mut out, &self.process));
        if written.is_err() {
            tracing::warn!("some metrics could not be written");
        }
        let _ = out.write_str("# EOF\n");
        out
    }

    fn kind(&self, kind: &'static str) -> &Kind {
        let index = KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len() - 1);
        self.kinds[index].get_or_init(|| {
            let kind = KINDS[index];
            // A kind that is in use has all its series, so that rates see the first failure, too.
            let probes = |outcome| self.probes.get_or_create_owned(&[("kind", kind), ("outcome", outcome)]);
            Kind {
                success: probes("success"),
                failure: probes("failure"),
                unknown: probes("unknown"),
                reasons: REASONS
                    .iter()
                    .map(|reason| [("kind", kind), ("reason", reason.as_str())])
                    .map(|labels| self.probe_failures.get_or_create_owned(&labels))
                    .collect(),
                duration: self.probe_duration.get_or_create_owned(&[("kind", kind)]),
            }
        })
    }
}

/// Each at the index of its discriminant.
const VERDICTS: [Verdict; 3] = [Verdict::Unknown, Verdict::Healthy, Verdict::Unhealthy];

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn counters<const N: usize>(registry: &mut Registry, name: &str, help: &str) -> Counters<N> {
    let counters = Counters::default();
    registry.register(name, help, counters.clone());
    counters
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn histogram<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: [f64; N],
) -> Histogram {
    let histogram = Histogram::new(buckets);
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

#[cfg(test)]
mod tests;
