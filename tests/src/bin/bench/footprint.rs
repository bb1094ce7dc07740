//! What an operator with many ceps costs while nothing happens.

use std::time::Duration;

use anyhow::Result;

use crate::bed::{Bed, Web, spec};
use crate::figures::Measured;
use crate::load::PORT;
use crate::progress::{elapsed, say};
use crate::report::short;
use crate::ten_thousand::of_lag;
use crate::{Pace, cpu};

/// How many ceps, and the keys of their figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    ceps: usize,
    memory: &'static str,
    cores: &'static str,
    lag: &'static str,
    patience: Duration,
}

pub(crate) const USUAL: Size = Size {
    ceps: 2000,
    memory: "rss_mib",
    cores: "idle_cores",
    lag: "idle_lag_p99_ms",
    patience: Duration::from_secs(300),
};

pub(crate) const FULL: Size = Size {
    ceps: 10_000,
    memory: "full_rss_mib",
    cores: "full_cores",
    lag: "full_lag_p99_ms",
    patience: Duration::from_secs(1200),
};

const LAG: &str = "endpoints_operator_schedule_lag_seconds";

pub(crate) async fn measure(size: Size, pace: Pace) -> Result<Vec<Measured>> {
    let bed = Bed::start().await?;
    let webs: Vec<Web> = vec![bed.web(50).await?, bed.web(51).await?, bed.web(52).await?];
    say!("{} ceps x 3 hosts: the control plane is up; creating them", size.ceps);
    let hosts = |index| webs.iter().map(|web| web.address(index)).collect::<Vec<_>>();
    let start = elapsed();
    let specs = (0..size.ceps).map(|index| spec(&hosts(index), PORT, 3)).collect();
    bed.create(specs, Duration::ZERO, |_, _| ()).await?;
    say!("{} ceps x 3 hosts: created", size.ceps);
    bed.settled(size.ceps * webs.len(), size.patience).await?;
    let settled = elapsed() - start;
    // Connections and buffers of the busy time close after a while of idleness.
    tokio::time::sleep(Duration::from_secs(10)).await;

    let before = bed.metrics().await?;
    let cores = cpu::cores(&[bed.operator_pid()], pace.minute).await?[0];
    let after = bed.metrics().await?;
    let memory = cpu::memory_mib(bed.operator_pid(), "VmRSS")?;
    let peak = cpu::memory_mib(bed.operator_pid(), "VmHWM")?;
    let probes = |metrics: &crate::exposition::Exposition| metrics.sum("endpoints_operator_probes_total", "");
    let rate = (probes(&after) - probes(&before)) / pace.minute.as_secs_f64();
    let lag = of_lag(size.lag, &after.histogram(LAG).since(&before.histogram(LAG)));
    say!(
        "{} ceps x 3 hosts: {} core, {} MiB (at most {}), {rate:.0} probes/s, lag p99 {} ms",
        size.ceps,
        short(cores),
        short(memory),
        short(peak),
        short(lag.value)
    );
    Ok(vec![
        Measured::one(size.memory, memory).with("peak_mib", peak).with("settled_after_s", settled),
        Measured::one(size.cores, cores)
            .with("probes_per_second", rate)
            .with("seconds", pace.minute.as_secs()),
        lag,
    ])
}
