//! On what it was measured.

use std::process::Command;

use serde_json::{Value, json};
use testbed::cluster::binaries;

/// The machine as it is now.
pub(crate) fn facts() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    json!({
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").trim(),
    })
}

/// What was measured, and against what.
pub(crate) fn versions() -> Value {
    let apiserver = binaries::path("kube-apiserver").ok();
    json!({
        "endpoints-operator": endpoints_operator::app::VERSION,
        "haproxy": first_line(Command::new("haproxy").arg("-v")),
        "kube-apiserver": apiserver.and_then(|path| first_line(Command::new(path).arg("--version"))),
    })
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
