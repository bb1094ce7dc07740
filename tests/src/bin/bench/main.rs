//! The figures of the operator's performance, all in one run on one machine.
//!
//! What is compared runs side by side or turn by turn in the same run, so that ratios hold on a machine
//! that is busy with other things, too. Every process and every namespace belongs to the test bed and
//! ends with this process, however it ends.

mod bed;
mod cpu;
mod dead_sweep;
mod exposition;
mod figures;
mod footprint;
mod haproxy;
mod load;
mod machine;
mod probe_cost;
mod progress;
mod report;
mod statistics;
mod ten_thousand;
mod writes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::PossibleValuesParser;

use figures::Results;
use progress::say;

/// Measures what the operator costs and how fast it is, next to its peers.
///
/// It needs root, haproxy and the control plane's binaries; `make bench` sees to all of it. Without
/// arguments it measures every figure in a quarter of an hour, prints a table and writes
/// target/bench.json. A figure that misses its reach is marked; the exit code tells only whether
/// everything could be measured.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 100, after_help = figures::help(), args_conflicts_with_subcommands = true)]
struct Cli {
    /// Measure these figures only. What is measured along with them is reported, too.
    #[arg(long, value_name = "KEY", num_args = 1.., value_parser = PossibleValuesParser::new(figures::keys()))]
    only: Vec<String>,
    /// How often peers take turns.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Fewer rounds and shorter windows: three minutes for a first impression.
    #[arg(long)]
    quick: bool,
    /// Also 10 000 ClusterEndpoints with three hosts each, which takes five minutes more.
    #[arg(long)]
    full: bool,
    /// Where the figures are written as JSON.
    #[arg(long, value_name = "FILE", default_value_os_t = default_output())]
    output: PathBuf,
    #[command(subcommand)]
    load: Option<load::Command>,
}

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Turns that the peers of a ratio take.
    rounds: u32,
    /// One turn of a load of thousands of probes a second.
    turn: Duration,
    /// Windows that ten thousand targets are measured over.
    windows: u32,
    /// One such window; several periods of the targets.
    window: Duration,
    /// Whatever is counted over a minute.
    minute: Duration,
}

impl Pace {
    fn new(cli: &Cli) -> Self {
        let seconds = Duration::from_secs;
        let usual =
            Self { rounds: 5, turn: seconds(3), windows: 3, window: seconds(30), minute: seconds(60) };
        let quick =
            Self { rounds: 2, turn: seconds(2), windows: 1, window: seconds(20), minute: seconds(20) };
        let pace = if cli.quick { quick } else { usual };
        Self {
            rounds: cli.rounds.unwrap_or(pace.rounds),
            windows: cli.rounds.unwrap_or(pace.windows),
            ..pace
        }
    }
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(load) = cli.load {
        return load.run().map(|()| ExitCode::SUCCESS);
    }
    progress::start();
    give_up_after(Duration::from_secs(if cli.full { 45 * 60 } else { 30 * 60 }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let results = runtime.block_on(measure(&cli));
    results.print();
    results.write(&cli.output)?;
    say!("written to {}", cli.output.display());
    Ok(if results.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(cli: &Cli) -> Results {
    let pace = Pace::new(cli);
    let mut results = Results::new(cli.quick);
    let wanted = |key: &str| cli.only.is_empty() || cli.only.iter().any(|only| only == key);
    let any = |keys: &[&str]| keys.iter().any(|key| wanted(key));

    if any(&["tcp_probe_ratio", "tcp_probe_us", "tcp_busy_ratio"]) {
        results.take("tcp_probe_ratio", probe_cost::measure(load::Kind::Tcp, pace).await);
    }
    if any(&["http_probe_ratio", "http_probe_us", "http_busy_ratio"]) {
        results.take("http_probe_ratio", probe_cost::measure(load::Kind::Http, pace).await);
    }
    if any(&["haproxy_tcp_ratio", "lag_p99_ms"]) {
        results.take("haproxy_tcp_ratio", ten_thousand::measure(load::Kind::Tcp, pace).await);
    }
    if any(&["haproxy_http_ratio"]) {
        results.take("haproxy_http_ratio", ten_thousand::measure(load::Kind::Http, pace).await);
    }
    if any(&["dead_sweep_ratio", "dead_sweep_burst_ratio"]) {
        results.take("dead_sweep_ratio", dead_sweep::measure().await);
    }
    if any(&["steady_writes", "write_delay_p50_ms", "write_delay_p99_ms", "write_delay_count"]) {
        results.take("steady_writes", writes::measure(pace).await);
    }
    if any(&["rss_mib", "idle_cores", "idle_lag_p99_ms"]) {
        results.take("idle_cores", footprint::measure(footprint::USUAL, pace).await);
    }
    if cli.full || (!cli.only.is_empty() && any(&["full_rss_mib", "full_cores", "full_lag_p99_ms"])) {
        results.take("full_cores", footprint::measure(footprint::FULL, pace).await);
    }
    results
}

/// A measurement that hangs must not keep a machine busy for ever.
fn give_up_after(limit: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        say!("not done within {} minutes: giving up", limit.as_secs() / 60);
        std::process::exit(2);
    });
}

/// The target directory that this program lies in: target/release/bench.
fn default_output() -> PathBuf {
    let target = std::env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(2)?.to_owned()));
    target.unwrap_or_default().join("bench.json")
}

/// This program again, as a child process.
fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("the path of this program")
}
