//! `process_*`, by the conventions of Prometheus' own client libraries, read from `/proc` at each scrape.
//! Where there is no `/proc` they are absent.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::telemetry;

/// Clock ticks a second in `/proc`: `USER_HZ`, which is 100 on every architecture that Kubernetes runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A registry that holds the collector.
pub(super) fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process { boot_time: boot_time() }));
    registry
}

#[derive(Debug)]
struct Process {
    /// Of the kernel, in seconds since 1970.
    boot_time: Option<f64>,
}

/// What `/proc/self/stat` says; see proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// After the kernel's boot.
    start_seconds: f64,
    virtual_bytes: u64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let to = &mut encoder;
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse_stat) {
            let cpu = ConstCounter::new(stat.cpu_seconds);
            let help = "CPU time used, user and system.";
            cpu.encode(to.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                cpu.metric_type(),
            )?)?;
            let virtual_memory = ConstGauge::new(stat.virtual_bytes);
            gauge(to, "process_virtual_memory", "Address space.", Some(&Unit::Bytes), virtual_memory)?;
            gauge(to, "process_threads", "Threads.", None, ConstGauge::new(stat.threads))?;
            if let Some(boot_time) = self.boot_time {
                let start = ConstGauge::new(boot_time + stat.start_seconds);
                let help = "When the process started, in seconds since 1970.";
                gauge(to, "process_start_time", help, Some(&Unit::Seconds), start)?;
            }
        }
        if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(parse_resident)
        {
            let resident = ConstGauge::new(bytes);
            gauge(to, "process_resident_memory", "Memory in RAM.", Some(&Unit::Bytes), resident)?;
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory that is being read.
            let open = ConstGauge::new(entries.count().saturating_sub(1) as u64);
            gauge(to, "process_open_fds", "Open file descriptors.", None, open)?;
        }
        if let Some(limit) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(parse_max_fds) {
            gauge(to, "process_max_fds", "Limit of open file descriptors.", None, ConstGauge::new(limit))?;
        }
        let dropped = ConstCounter::new(telemetry::lines_dropped());
        let help = "Log lines that could not be written.";
        let name = "endpoints_operator_log_lines_dropped";
        dropped.encode(to.encode_descriptor(name, help, None, dropped.metric_type())?)
    }
}

fn gauge<N>(
    to: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: ConstGauge<N>,
) -> fmt::Result
where
    ConstGauge<N>: EncodeMetric,
{
    value.encode(to.encode_descriptor(name, help, unit, value.metric_type())?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the command in brackets, which may contain blanks and brackets itself.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // `fields[0]` is field 3 of the manual page.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS_PER_SECOND,
        threads: field(20)?,
        start_seconds: field(22)? as f64 / TICKS_PER_SECOND,
        virtual_bytes: field(23)?,
    })
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn parse_max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_command_with_brackets() {
        let text = "4242 (a b) c) S 1 4242 4242 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 7 0 12345 1048576 300 0";
        let expected =
            Stat { cpu_seconds: 2.0, threads: 7, start_seconds: 123.45, virtual_bytes: 1024 * 1024 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("4242 (cut"), None);
        assert_eq!(parse_stat("4242 (cut) S 1"), None);
    }

    #[test]
    fn memory_and_limits() {
        assert_eq!(parse_resident("VmHWM:\t  10 kB\nVmRSS:\t    8 kB\n"), Some(8192));
        assert_eq!(parse_resident("Name: x\n"), None);
        let limits = "Limit    Soft Limit  Hard Limit  Units\nMax open files   1024   524288   files\n";
        assert_eq!(parse_max_fds(limits), Some(1024));
        assert_eq!(parse_max_fds("Max open files   unlimited   unlimited   files\n"), None);
    }
}
