//! CPU per probe: the whole prober next to nothing but the connection.
//!
//! The prober and the bare loop take turns, and each turn is a fresh process that is warm before its CPU
//! is counted. Both do 2 000 probes a second over 2 000 targets, for a probe's price depends on how many
//! come at a time: at full speed one wake-up serves dozens, at a steady rate it serves one or two. What
//! they cost at full speed is told beside it. Either way the kernel's work on both ends of a loopback
//! connection is in each price, as it is for whoever probes.

use anyhow::Result;
use testbed::Netns;

use crate::Pace;
use crate::figures::Measured;
use crate::load::{Demand, Kind, Load};
use crate::progress::say;
use crate::report::short;
use crate::statistics::median;

/// Until the first probes are over and everything is in the caches.
const WARM_UP: std::time::Duration = std::time::Duration::from_millis(500);

/// The ratio, the price, and the ratio at full speed.
pub(crate) async fn measure(kind: Kind, pace: Pace) -> Result<Vec<Measured>> {
    let netns = namespace()?;
    let _targets = Load::targets(&netns, kind)?;
    let steady = Demand { kind, targets: 2000, period_ms: 1000 };
    let busy = Demand { kind, targets: 64, period_ms: 1 };
    let mut prices = Prices::default();
    for round in 1..=pace.rounds {
        prices.prober.push(price(&netns, "prober", steady, pace).await?);
        prices.bare.push(price(&netns, "bare", steady, pace).await?);
        if kind == Kind::Tcp {
            prices.reset.push(price(&netns, "bare-reset", steady, pace).await?);
        }
        prices.busy_prober.push(price(&netns, "prober", busy, pace).await?);
        prices.busy_bare.push(price(&netns, "bare", busy, pace).await?);
        let last = |prices: &[f64]| prices.last().copied().map_or_else(|| "-".to_owned(), short);
        say!(
            "{} probes, round {round} of {}: prober {} us, bare {} us, bare with its socket options {} us; at \
             full speed {} us and {} us",
            kind.name(),
            pace.rounds,
            last(&prices.prober),
            last(&prices.bare),
            last(&prices.reset),
            last(&prices.busy_prober),
            last(&prices.busy_bare),
        );
    }
    Ok(prices.into_figures(kind))
}

/// Microseconds of CPU per probe, one each round.
#[derive(Debug, Default)]
struct Prices {
    prober: Vec<f64>,
    bare: Vec<f64>,
    reset: Vec<f64>,
    busy_prober: Vec<f64>,
    busy_bare: Vec<f64>,
}

impl Prices {
    fn into_figures(self, kind: Kind) -> Vec<Measured> {
        // Neighbours in time are compared, so that what else the machine does weighs on both.
        let over = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>();
        let (ratio, price, busy) = match kind {
            Kind::Tcp => ("tcp_probe_ratio", "tcp_probe_us", "tcp_busy_ratio"),
            Kind::Http => ("http_probe_ratio", "http_probe_us", "http_busy_ratio"),
        };
        let mut ratio = Measured::median(ratio, over(&self.prober, &self.bare))
            .with("prober_us", median(&self.prober))
            .with("bare_us", median(&self.bare));
        if !self.reset.is_empty() {
            let over_reset = over(&self.prober, &self.reset);
            ratio = ratio
                .with("bare_with_its_socket_options_us", median(&self.reset))
                .with("over_bare_with_its_socket_options", median(&over_reset));
        }
        let busy = Measured::median(busy, over(&self.busy_prober, &self.busy_bare))
            .with("prober_us", median(&self.busy_prober))
            .with("bare_us", median(&self.busy_bare));
        vec![ratio, Measured::median(price, self.prober), busy]
    }
}

async fn price(netns: &Netns, name: &'static str, demand: Demand, pace: Pace) -> Result<f64> {
    let mut load = Load::start(netns, name, demand)?;
    tokio::time::sleep(WARM_UP).await;
    let (before, after) = load.watch(pace.turn).await?;
    let probes = (after.probes - before.probes) as f64;
    let rate = probes / pace.turn.as_secs_f64();
    let wanted = f64::from(demand.targets) / demand.period().as_secs_f64();
    anyhow::ensure!(
        demand.period_ms == 1 || rate > wanted * 0.9,
        "load {name} made {rate:.0} probes/s of {wanted:.0}"
    );
    Ok((after.cpu - before.cpu).as_secs_f64() * 1e6 / probes)
}

/// A namespace with nothing in it but loopback, where ports last.
pub(crate) fn namespace() -> Result<Netns> {
    let netns = Netns::create()?;
    netns.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    netns.sysctl("net.core.somaxconn", "65535")?;
    Ok(netns)
}
