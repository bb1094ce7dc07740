//! Loads: child processes that probe, and the one that they probe.
//!
//! Each load is a process of its own, so that its CPU is its own. A load prints a line when all its
//! targets have been reached once, and then a [`Mark`] for every line that it is sent.

mod bare;
mod prober;
mod targets;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use testbed::{Netns, reaper};

use crate::exposition::Exposition;
use crate::statistics::Histogram;
use crate::{cpu, this_program};

/// Where the targets answer, on every loopback address.
pub(crate) const PORT: u16 = 8080;

/// How a target is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Tcp,
    Http,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Http => "http",
        }
    }
}

/// What this program does as a child of itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer TCP connections, or HTTP requests.
    #[command(hide = true)]
    Targets { kind: Kind },
    /// The operator's prober.
    #[command(hide = true)]
    Prober(Demand),
    /// A connection, or a GET, and nothing around it.
    #[command(hide = true)]
    Bare(Demand),
    /// As bare, with the socket options of the operator's probes.
    #[command(hide = true)]
    BareReset(Demand),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Targets { kind } => targets::serve(kind),
            Command::Prober(demand) => prober::run(demand),
            Command::Bare(demand) => bare::run(demand, false),
            Command::BareReset(demand) => bare::run(demand, true),
        }
    }
}

/// What a load is to do.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Demand {
    pub(crate) kind: Kind,
    /// Distinct targets.
    pub(crate) targets: u32,
    /// Each is probed once in so many milliseconds; 1 is more than any load can do, so it does what it can.
    pub(crate) period_ms: u64,
}

impl Demand {
    pub(crate) fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms)
    }

    /// Whether the load is to run as fast as it can.
    fn is_unbounded(&self) -> bool {
        self.period_ms == 1
    }

    fn address(&self, target: u32) -> SocketAddr {
        address(target)
    }
}

/// The address of a target: 127.1.0.0 and on.
pub(crate) fn address(target: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + target).into(), PORT)
}

/// The state of a load at one moment; all of it counts from its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) cpu: Duration,
    /// Probes that succeeded.
    pub(crate) probes: u64,
    /// Probes that did not.
    pub(crate) failures: u64,
    /// Of the prober: its metrics as text.
    metrics: String,
}

impl Mark {
    /// The prober's histogram of schedule lag.
    pub(crate) fn lag(&self) -> Histogram {
        Exposition(self.metrics.clone()).histogram("endpoints_operator_schedule_lag_seconds")
    }
}

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Load {
    name: &'static str,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    /// Starts a load in a namespace and waits until it has reached every target.
    pub(crate) fn start(netns: &Netns, name: &'static str, demand: Demand) -> Result<Self> {
        let (targets, period) = (demand.targets.to_string(), demand.period_ms.to_string());
        Self::spawn(netns, name, &[demand.kind.name(), &targets, &period])
    }

    /// Starts the process that answers.
    pub(crate) fn targets(netns: &Netns, kind: Kind) -> Result<Self> {
        Self::spawn(netns, "targets", &[kind.name()])
    }

    fn spawn(netns: &Netns, name: &'static str, args: &[&str]) -> Result<Self> {
        let mut command = netns.command(this_program()?);
        command.arg(name).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = reaper::spawn(command)?;
        let stdin = child.stdin.take().context("its standard input")?;
        let stdout = BufReader::new(child.stdout.take().context("its standard output")?);
        let mut load = Self { name, child, stdin, stdout };
        load.line().with_context(|| format!("load {name} does not begin"))?;
        Ok(load)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn mark(&mut self) -> Result<Mark> {
        self.stdin.write_all(b"\n")?;
        self.stdin.flush()?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("load {} says {line:?}", self.name))
    }

    /// What it does in a while: the marks at both ends.
    pub(crate) async fn watch(&mut self, window: Duration) -> Result<(Mark, Mark)> {
        let before = self.mark()?;
        tokio::time::sleep(window).await;
        let after = self.mark()?;
        let failed = after.failures - before.failures;
        ensure!(failed == 0, "{failed} probes of load {} failed", self.name);
        Ok((before, after))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "it has ended");
        Ok(line)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        reaper::kill(&mut self.child);
    }
}

/// The other side of [`Load::mark`]: says that it has begun, then answers until the parent is gone.
fn report(count: impl Fn() -> (u64, u64, String)) -> Result<()> {
    println!("begun");
    for line in std::io::stdin().lines() {
        line?;
        let (probes, failures, metrics) = count();
        let mark = Mark { cpu: cpu::own()?, probes, failures, metrics };
        println!("{}", serde_json::to_string(&mark)?);
    }
    Ok(())
}
