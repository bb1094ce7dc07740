//! What the controller remembers between two reconciles of a cep.
//!
//! Nothing in here is needed for correctness after a restart; it keeps the controller from acting on
//! caches that have not caught up with its own writes, and lets it bring back what was deleted by hand.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cep_core::api::v1beta1::ClusterEndpointStatus;
use cep_core::check::{Definition, Materials};
use cep_core::snapshot::Snapshot;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Of the cep that all this is about; another one may have come under its name.
    pub(super) uid: String,
    /// The definition the prober was given last.
    pub(super) definition: Option<Arc<Definition>>,
    /// Values that the spec refers to, of which generation, and when they were read.
    pub(super) materials: Option<(Option<i64>, Instant, Materials)>,
    /// What was applied last, and told as Events.
    pub(super) applied: Option<Applied>,
    /// Our own latest writes.
    pub(super) service: Written<Service>,
    pub(super) endpoints: Written<Endpoints>,
    pub(super) slices: HashMap<String, Written<EndpointSlice>>,
    pub(super) status: Option<(String, ClusterEndpointStatus)>,
    /// When to look again, because an object of ours is not in its cache and may be gone.
    pub(super) look_again: Option<Duration>,
    /// The Service when it was last there.
    pub(super) last_seen: Option<Arc<Service>>,
    /// Since when its former address is refused.
    pub(super) refused_since: Option<Instant>,
    /// When the API server last said that there are no Endpoints, which no cache can tell.
    pub(super) no_endpoints: Option<Instant>,
    pub(super) repairs: Repairs,
    pub(super) failures: u32,
    pub(super) last_write: Option<Instant>,
    /// The namespace is going away, which is for good: nothing in it is repaired or handed back.
    pub(super) namespace_terminating: bool,
    /// Since when a hand-back waits for the mirroring controller.
    pub(super) retiring_since: Option<Instant>,
}

#[derive(Debug, Clone)]
pub(super) struct Applied {
    pub(super) generation: Option<i64>,
    pub(super) labels: std::collections::BTreeMap<String, String>,
    pub(super) snapshot: Arc<Snapshot>,
}

/// How long a cache may lag behind a write of ours before its absence is believed.
const CACHE_LAG: Duration = Duration::from_millis(500);

/// An object as the API server returned it for our latest write.
#[derive(Debug)]
pub(super) struct Written<K>(Option<(K, Instant)>);

impl<K> Default for Written<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: ResourceExt + Clone> Written<K> {
    pub(super) fn note(&mut self, mut object: K) {
        // As in the caches: who owns which field is most of an object, and nobody asks here.
        object.meta_mut().managed_fields = None;
        self.0 = Some((object, Instant::now()));
    }

    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// The newer of the cached object and our own write. Once the cache has caught up, it alone has the say:
    /// what is missing from it then has been deleted.
    pub(super) fn freshest(&mut self, cached: Option<&K>) -> Option<K> {
        let lags = self.0.as_ref().is_some_and(|(written, at)| match cached {
            Some(cached) => !newer(cached, written),
            None => at.elapsed() < CACHE_LAG,
        });
        if !lags {
            self.0 = None;
        }
        self.0.as_ref().map(|(written, _)| written).or(cached).cloned()
    }

    /// Our own write, as long as the cache is not known to have caught up.
    pub(super) fn ahead(&self) -> Option<&K> {
        self.0.as_ref().map(|(written, _)| written)
    }

    /// How long its absence from the cache is still put down to the cache. Whoever was told of a deletion
    /// by then is not told again, and has to look again himself.
    pub(super) fn doubted_for(&self) -> Option<Duration> {
        let (_, at) = self.0.as_ref()?;
        CACHE_LAG.checked_sub(at.elapsed()).map(|left| left + Duration::from_millis(1))
    }
}

/// Whether the first is at least as new. Resource versions of one resource are comparable as numbers
/// (KEP-5504).
fn newer<K: ResourceExt>(a: &K, b: &K) -> bool {
    let version = |o: &K| o.resource_version().and_then(|v| v.parse::<u64>().ok());
    version(a) >= version(b)
}

/// Repairs of others' edits. A tool that keeps applying something else must not turn the operator into
/// a generator of writes.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    recent: VecDeque<Instant>,
}

/// Repairs within [`REPAIR_WINDOW`] that are done at once.
const REPAIR_BURST: usize = 10;
/// The window that is looked at, and the pace beyond the burst.
const REPAIR_WINDOW: Duration = Duration::from_secs(30);

impl Repairs {
    /// Asks to repair now; otherwise says how long to wait.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        while self.recent.front().is_some_and(|at| now.duration_since(*at) > REPAIR_WINDOW) {
            self.recent.pop_front();
        }
        if let Some(first) = self.recent.front().filter(|_| self.recent.len() >= REPAIR_BURST) {
            return Err(REPAIR_WINDOW.saturating_sub(now.duration_since(*first)) + Duration::from_millis(10));
        }
        self.recent.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_are_paced_beyond_the_burst() {
        let mut repairs = Repairs::default();
        let start = Instant::now();
        assert!((0..REPAIR_BURST).all(|_| repairs.admit(start).is_ok()));
        let wait = repairs.admit(start + Duration::from_secs(1)).unwrap_err();
        assert!(wait > Duration::from_secs(28) && wait < Duration::from_secs(30), "{wait:?}");
        assert!(repairs.admit(start + Duration::from_secs(31)).is_ok());
    }

    #[test]
    fn a_cache_that_lags_behind_our_own_write_is_not_believed() {
        let service = |version: &str| {
            let mut service = Service::default();
            service.metadata.resource_version = Some(version.to_owned());
            service
        };
        let mut written = Written::default();
        assert_eq!(written.freshest(None), None);
        written.note(service("10"));
        assert_eq!(written.freshest(None), Some(service("10")));
        assert!(written.doubted_for().is_some_and(|left| left <= CACHE_LAG + Duration::from_millis(1)));
        assert_eq!(written.freshest(Some(&service("9"))), Some(service("10")));
        assert_eq!(written.freshest(Some(&service("11"))), Some(service("11")));
        assert_eq!(written.freshest(None), None, "the cache had caught up, so it was deleted since");
    }
}
