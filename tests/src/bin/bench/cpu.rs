//! What a process costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// CPU that this process has used, user and system.
pub(crate) fn own() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| {
        (time.tv_sec() as u64) * 1_000_000 + u64::try_from(time.tv_usec()).unwrap_or_default()
    };
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}

/// CPU that a process and the children it has waited for have used, to a hundredth of a second.
pub(crate) fn of(pid: u32) -> Result<Duration> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The name in parentheses may contain anything; utime is the 14th field, the 12th after it.
    let after = stat.rsplit_once(") ").context("/proc/PID/stat")?.1;
    let ticks: u64 = after.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    let rate = sysconf(SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
    Ok(Duration::from_secs_f64(ticks as f64 / rate as f64))
}

/// The CPU of several processes over the same stretch of time, in cores.
pub(crate) async fn cores(pids: &[u32], window: Duration) -> Result<Vec<f64>> {
    let start = Instant::now();
    let before = pids.iter().map(|&pid| of(pid)).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(window).await;
    let elapsed = start.elapsed().as_secs_f64();
    let used = |(&pid, before): (&u32, Duration)| Ok((of(pid)? - before).as_secs_f64() / elapsed);
    pids.iter().zip(before).map(used).collect()
}

/// A line of /proc/PID/status in MiB: `VmRSS` now, `VmHWM` the most there ever was.
pub(crate) fn memory_mib(pid: u32, line: &str) -> Result<f64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let value =
        status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).context("no such line")?;
    let kilobytes: f64 = value.trim().trim_end_matches("kB").trim().parse().context(line.to_owned())?;
    Ok(kilobytes / 1024.0)
}
