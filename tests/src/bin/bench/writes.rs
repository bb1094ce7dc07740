//! Two hundred ceps: no write while nothing happens, and a quick one when something does.
//!
//! For the delay, their host refuses all connections and then answers again. With a threshold of one and a
//! period of ten seconds, that makes two hundred transitions either way, spread over a period. The delay
//! itself is measured by the operator, from the outcome that met the threshold to the acknowledged write
//! of the slice.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Pace;
use crate::bed::{Bed, spec};
use crate::figures::Measured;
use crate::load::PORT;
use crate::progress::say;
use crate::report::short;

const CEPS: usize = 200;
const DELAY: &str = "endpoints_operator_write_delay_seconds";
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) async fn measure(pace: Pace) -> Result<Vec<Measured>> {
    let bed = Bed::start().await?;
    let web = bed.web(50).await?;
    say!("writes: the control plane is up; creating {CEPS} ceps");
    let specs = (0..CEPS).map(|index| spec(&[web.address(index)], PORT, 1)).collect();
    bed.create(specs, Duration::ZERO, |_, _| ()).await?;
    bed.settled(CEPS, PATIENCE).await?;

    let before = bed.cluster.apiserver_write_counts().await?;
    tokio::time::sleep(pace.minute).await;
    let writes = bed.cluster.apiserver_write_counts().await?.since(&before);
    let leases = writes.of("leases");
    let others = writes.total() - leases;
    say!("writes: in {:?} of steady state {others} besides {leases} to Leases ({writes})", pace.minute);
    let steady = Measured::one("steady_writes", others as f64)
        .with("seconds", pace.minute.as_secs())
        .with("writes", writes.to_string());

    let before = bed.metrics().await?.histogram(DELAY);
    web.host.refuse()?;
    all_are(&bed, "Unhealthy", before.count() + CEPS as f64).await?;
    let down = bed.metrics().await?.histogram(DELAY).since(&before);
    web.host.restore()?;
    all_are(&bed, "Healthy", before.count() + 2.0 * CEPS as f64).await?;
    let both = bed.metrics().await?.histogram(DELAY).since(&before);
    say!(
        "writes: {:.0} transitions written; p50 {} ms, p99 {} ms; to Unhealthy alone p50 {} ms, p99 {} ms",
        both.count(),
        short(both.quantile(0.5) * 1e3),
        short(both.quantile(0.99) * 1e3),
        short(down.quantile(0.5) * 1e3),
        short(down.quantile(0.99) * 1e3),
    );
    ensure!(both.count() >= (2 * CEPS) as f64, "{} of {} transitions were written", both.count(), 2 * CEPS);
    let of = |key, q| {
        Measured::one(key, both.quantile(q) * 1e3)
            .with("to_unhealthy_ms", down.quantile(q) * 1e3)
            .with("how", format!("interpolated within the buckets of {DELAY}"))
    };
    Ok(vec![
        steady,
        of("write_delay_p50_ms", 0.5),
        of("write_delay_p99_ms", 0.99),
        Measured::one("write_delay_count", both.count()),
    ])
}

/// Waits until all targets have this verdict and so many writes have been made.
async fn all_are(bed: &Bed, verdict: &str, writes: f64) -> Result<()> {
    let labels = format!("verdict=\"{verdict}\"");
    bed.until(PATIENCE, &format!("all targets are {verdict}"), |metrics| {
        let judged = metrics.sum("endpoints_operator_targets", &labels) == CEPS as f64;
        judged && metrics.histogram(DELAY).count() >= writes
    })
    .await
}
