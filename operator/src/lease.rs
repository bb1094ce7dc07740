//! Leader election on a Lease, by the rules of client-go's `leaderelection`.
//!
//! A candidate never compares another machine's clock with its own: it notes, by its own clock, when it
//! last saw the Lease change, and takes it over when it has not changed for its whole duration. The
//! holder gives up leading before the others may take over, also when the API server is out of reach.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;

/// Which Lease, and in whose name.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Of this process. A restarted process of the same identity goes on leading at once.
    pub identity: String,
    /// How long a silent holder keeps it.
    pub duration: Duration,
}

impl LeaseConfig {
    /// Until when a holder that cannot renew still leads: two thirds of the duration, as in client-go's
    /// defaults of 10 and 15 seconds.
    fn renew_deadline(&self) -> Duration {
        self.duration * 2 / 3
    }

    /// How often it is renewed, and looked at by those who wait.
    fn retry_period(&self) -> Duration {
        (self.duration / 8).clamp(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// The Lease as the object that Events about the operator itself refer to.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("coordination.k8s.io/v1".to_owned()),
            kind: Some("Lease".to_owned()),
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectReference::default()
        }
    }
}

/// What a candidate knows.
struct Candidate {
    config: LeaseConfig,
    api: Api<Lease>,
    /// The Lease as last seen, and when it last changed, by our clock.
    seen: Option<(Lease, Instant)>,
    /// When we last renewed it.
    renewed: Option<Instant>,
    /// Attempts that failed in a row.
    failures: u32,
}

/// Takes part in the election until `shutdown` resolves, then gives the Lease back. `leader` says at
/// every moment whether this process may write.
pub async fn campaign(
    client: Client,
    config: LeaseConfig,
    leader: watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let api = Api::namespaced(client, &config.namespace);
    let mut candidate = Candidate { api, seen: None, renewed: None, failures: 0, config };
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = candidate.step(&leader) => {}
            () = &mut shutdown => break,
        }
        tokio::select! {
            () = tokio::time::sleep(candidate.config.retry_period()) => {}
            () = &mut shutdown => break,
        }
    }
    leader.send_replace(false);
    candidate.release().await;
}

impl Candidate {
    async fn step(&mut self, leader: &watch::Sender<bool>) {
        // Within this bound the answer counts; later, another may have taken over.
        let left = self.renewed.map_or(self.config.renew_deadline(), |at| {
            self.config.renew_deadline().saturating_sub(at.elapsed()).max(self.config.retry_period())
        });
        let begun = Instant::now();
        let attempt = tokio::time::timeout(left.min(Duration::from_secs(5)), self.acquire_or_renew()).await;
        match &attempt {
            Ok(Ok(true)) => self.renewed = Some(begun),
            Ok(Ok(false)) => self.renewed = None,
            Ok(Err(error)) => self.complain(&error.to_string()),
            Err(_) => self.complain("the API server did not answer in time"),
        }
        if matches!(attempt, Ok(Ok(_))) {
            self.failures = 0;
        }
        let leads = self.renewed.is_some_and(|at| at.elapsed() < self.config.renew_deadline());
        let changed = leader.send_if_modified(|current| std::mem::replace(current, leads) != leads);
        if changed && leads {
            tracing::info!(lease = %self.config.name, identity = %self.config.identity, "leading");
        } else if changed {
            tracing::warn!(lease = %self.config.name, "not leading any more; probing goes on");
        }
    }

    /// Says that the election does not work: the first time, and ever more rarely.
    fn complain(&mut self, error: &str) {
        self.failures = self.failures.saturating_add(1);
        if self.failures.is_power_of_two() {
            let (namespace, name, failures) = (&self.config.namespace, &self.config.name, self.failures);
            tracing::warn!(
                namespace,
                lease = name,
                failures,
                error,
                "the Lease could not be read or written; without it nothing is written (is \"leases\" granted in \
                 this namespace?)"
            );
        }
    }

    /// Whether the Lease is ours now.
    async fn acquire_or_renew(&mut self) -> kube::Result<bool> {
        let Some(lease) = self.api.get_opt(&self.config.name).await? else {
            return self.create().await;
        };
        self.note(lease.clone());
        let spec = lease.spec.clone().unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(self.config.identity.as_str());
        if !ours && !self.is_free(&spec) {
            return Ok(false);
        }
        let mut next = lease;
        next.spec = Some(self.claim(&spec, ours));
        match self.api.replace(&self.config.name, &PostParams::default(), &next).await {
            Ok(lease) => {
                self.note(lease);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create(&mut self) -> kube::Result<bool> {
        let metadata = ObjectMeta { name: Some(self.config.name.clone()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(self.claim(&LeaseSpec::default(), false)) };
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(lease) => {
                self.note(lease);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn note(&mut self, lease: Lease) {
        let same = self.seen.as_ref().is_some_and(|(seen, _)| seen.spec == lease.spec);
        if !same {
            self.seen = Some((lease, Instant::now()));
        }
    }

    /// Given back, or not renewed for its duration as far as we have seen.
    fn is_free(&self, spec: &LeaseSpec) -> bool {
        if spec.holder_identity.as_deref().unwrap_or_default().is_empty() {
            return true;
        }
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        let since = self.seen.as_ref().map(|(_, since)| since.elapsed()).unwrap_or_default();
        since >= Duration::from_secs(seconds)
    }

    fn claim(&self, former: &LeaseSpec, ours: bool) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let transitions = former.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.config.duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: if ours { former.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
            ..former.clone()
        }
    }

    /// Gives the Lease back, so that a standby need not wait for it to run out.
    async fn release(&mut self) {
        if self.renewed.is_none() {
            return;
        }
        let give_back = async {
            let Some(mut lease) = self.api.get_opt(&self.config.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(self.config.identity.as_str()) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.api.replace(&self.config.name, &PostParams::default(), &lease).await.map(|_| ())
        };
        match tokio::time::timeout(Duration::from_secs(3), give_back).await {
            Ok(Ok(())) => tracing::info!(lease = %self.config.name, "Lease given back"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the Lease could not be given back; it runs out by itself")
            }
            Err(_) => tracing::warn!("the Lease could not be given back in time; it runs out by itself"),
        }
    }
}
