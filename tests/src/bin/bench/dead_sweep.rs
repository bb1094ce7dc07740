//! Five hundred ceps on a host that never answers: how soon is each judged?
//!
//! Each lists a port of its own, so there are five hundred targets that each keep a probe waiting for its
//! whole timeout. A target that nobody has judged is judged by its first outcome, whatever the thresholds,
//! so a period and a timeout after it was created a cep's status must say that its host is out. The time
//! counts from the answer to the request that created it until the status has arrived at a watch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};

use crate::bed::{Bed, spec};
use crate::figures::Measured;
use crate::progress::say;
use crate::report::short;
use crate::statistics::{median, quantile, range};

const CEPS: u16 = 500;
/// They are created in ten seconds, so that their first probes meet, as those of a sweep do, but the API
/// server does not fall behind with the several objects that the operator writes for each.
const SPACING: Duration = Duration::from_millis(20);
/// A period and a timeout.
const LIMIT: Duration = Duration::from_secs(11);
/// When those that are not judged yet are given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Spaced, the figure is about probing; in a burst, it is also about how fast the API server takes the ceps and
/// all that is written for them. A user meets both, so both are told.
pub(crate) async fn measure() -> Result<Vec<Measured>> {
    let spaced = sweep("dead_sweep_ratio", SPACING).await?;
    let burst = sweep("dead_sweep_burst_ratio", Duration::ZERO).await?;
    Ok(vec![spaced, burst])
}

async fn sweep(key: &'static str, spacing: Duration) -> Result<Measured> {
    let bed = Bed::start().await?;
    let dead = bed.cluster.host("172.18.191.200")?;
    dead.drop_packets()?;
    say!("{key}: the control plane is up; creating {CEPS} ceps, one each {spacing:?}");

    let stream = watcher(bed.ceps(), watcher::Config::default()).applied_objects();
    let mut stream = std::pin::pin!(stream);
    let created = Arc::new(Mutex::new(HashMap::new()));
    let note = created.clone();
    let specs = (0..CEPS).map(|index| spec(&[dead.ip()], 20_000 + index, 3)).collect();
    let creating = bed.create(specs, spacing, move |index, at| {
        note.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("cep-{index}"), at);
    });
    let mut judged: HashMap<String, Instant> = HashMap::new();
    let watching = async {
        while judged.len() < usize::from(CEPS) {
            let cep = stream.try_next().await?.context("the watch has ended")?;
            if is_judged(&cep) {
                judged.entry(cep.name_any()).or_insert_with(Instant::now);
            }
        }
        anyhow::Ok(())
    };
    let (creating, watching) = tokio::join!(creating, tokio::time::timeout(PATIENCE, watching));
    creating?;
    // What is still not judged then is what the figure is about.
    watching.unwrap_or(Ok(()))?;

    let created = created.lock().unwrap_or_else(PoisonError::into_inner);
    let delay = |name: &String, at: &Instant| created.get(name).map(|c| at.saturating_duration_since(*c));
    let delays: Vec<Duration> = judged.iter().filter_map(|(name, at)| delay(name, at)).collect();
    let in_time = delays.iter().filter(|delay| **delay <= LIMIT).count();
    let seconds: Vec<f64> = delays.iter().map(Duration::as_secs_f64).collect();
    say!(
        "{key}: {in_time} of {CEPS} judged within {LIMIT:?}; median {} s, at most {} s",
        short(median(&seconds)),
        short(range(&seconds).1)
    );
    Ok(Measured::one(key, in_time as f64 / f64::from(CEPS))
        .with("judged", judged.len())
        .with("median_s", median(&seconds))
        .with("p99_s", quantile(&seconds, 0.99))
        .with("max_s", range(&seconds).1))
}

/// Whether the status says that the one host is out.
fn is_judged(cep: &DynamicObject) -> bool {
    let status = &cep.data["status"];
    status["phase"] == "UnHealthy" && status["endpoints"][0]["verdict"] == "Unhealthy"
}
