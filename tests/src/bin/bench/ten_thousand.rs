//! Ten thousand targets every ten seconds: the prober and HAProxy.
//!
//! They run side by side and are measured over the same stretches of time, so whatever else the machine
//! does weighs on both. Each does a thousand probes a second and uses less than a tenth of a core, so
//! neither is in the other's way. Start-up is left out: measuring begins when both have been to every
//! target. That both keep their rate is read from the kernel, which counts connections.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::Netns;

use crate::Pace;
use crate::cpu;
use crate::figures::Measured;
use crate::haproxy::Haproxy;
use crate::load::{Demand, Kind, Load};
use crate::probe_cost::namespace;
use crate::progress::say;
use crate::report::short;
use crate::statistics::{Histogram, median};

const TARGETS: u32 = 10_000;
const PERIOD: Duration = Duration::from_secs(10);
/// After the first round; HAProxy is asked for megabytes of state before.
const SETTLE: Duration = Duration::from_secs(5);

/// The ratio, and for TCP the schedule lag.
pub(crate) async fn measure(kind: Kind, pace: Pace) -> Result<Vec<Measured>> {
    let netns = namespace()?;
    let _targets = Load::targets(&netns, kind)?;
    let demand = Demand { kind, targets: TARGETS, period_ms: PERIOD.as_millis() as u64 };
    let haproxy = Haproxy::start(&netns, kind, TARGETS)?;
    let mut prober = Load::start(&netns, "prober", demand)?;
    say!("10 000 {} targets: the prober has been to all", kind.name());
    haproxy.has_checked_all().await?;
    let threads = haproxy.threads()?;
    say!("10 000 {} targets: HAProxy has been to all, with {threads} threads", kind.name());
    tokio::time::sleep(SETTLE).await;

    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let begin = prober.mark()?;
    for window in 1..=pace.windows {
        let (opened, before) = (connections(&netns)?, prober.mark()?);
        let cores = cpu::cores(&[prober.pid(), haproxy.pid()], pace.window).await?;
        let (after, opened) = (prober.mark()?, connections(&netns)? - opened);
        ensure!(after.failures == before.failures, "probes failed");
        let rate = |probes: u64| probes as f64 / pace.window.as_secs_f64();
        let probes = after.probes - before.probes;
        let checks = opened.saturating_sub(probes);
        for (who, rate) in [("the prober", rate(probes)), ("HAProxy", rate(checks))] {
            let wanted = f64::from(TARGETS) / PERIOD.as_secs_f64();
            ensure!((rate / wanted - 1.0).abs() < 0.1, "{who} made {rate:.0} probes/s of {wanted:.0}");
        }
        ours.push(cores[0]);
        theirs.push(cores[1]);
        ratios.push(cores[0] / cores[1]);
        say!(
            "10 000 {} targets, window {window} of {}: prober {} core at {:.0}/s, HAProxy {} core at {:.0}/s",
            kind.name(),
            pace.windows,
            short(cores[0]),
            rate(probes),
            short(cores[1]),
            rate(checks)
        );
    }
    let lag = prober.mark()?.lag().since(&begin.lag());
    let key = match kind {
        Kind::Tcp => "haproxy_tcp_ratio",
        Kind::Http => "haproxy_http_ratio",
    };
    let ratio = Measured::median(key, ratios)
        .with("prober_cores", median(&ours))
        .with("haproxy_cores", median(&theirs))
        .with("prober_rss_mib", cpu::memory_mib(prober.pid(), "VmRSS")?)
        .with("haproxy_rss_mib", cpu::memory_mib(haproxy.pid(), "VmRSS")?)
        .with("haproxy_threads", threads);
    let mut figures = vec![ratio];
    if kind == Kind::Tcp {
        figures.push(of_lag("lag_p99_ms", &lag));
    }
    Ok(figures)
}

/// The 99th percentile of the schedule lag, from the prober's histogram.
pub(crate) fn of_lag(key: &'static str, lag: &Histogram) -> Measured {
    Measured::one(key, lag.quantile(0.99) * 1e3)
        .with("p50_ms", lag.quantile(0.5) * 1e3)
        .with("p999_ms", lag.quantile(0.999) * 1e3)
        .with("probes", lag.count())
        .with("how", "interpolated within the buckets of endpoints_operator_schedule_lag_seconds")
}

/// Connections that have been begun in a namespace.
fn connections(netns: &Netns) -> Result<u64> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("/proc/net/snmp")?;
    let mut fields = names.split(' ').zip(values.split(' '));
    let value = fields.find(|(name, _)| *name == "ActiveOpens").context("ActiveOpens")?.1;
    value.parse().context("ActiveOpens")
}
