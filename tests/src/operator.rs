//! The program under test: the operator, and its companion `cepctl`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, Host};
use crate::process::{self, Process};
use crate::reaper::TempDir;

/// How much of its log a failed test shows.
const TAIL: usize = 80;

/// A running operator. When it is dropped it is killed, and the end of its log is printed, which the test
/// harness shows if the test failed.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    // Dropped after the process.
    dir: TempDir,
}

impl Operator {
    /// Starts `endpoints-operator ARGS` on a host, with `KUBECONFIG` set.
    ///
    /// # Errors
    /// If the program does not exist or cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        host: &Host,
        kubeconfig: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        Self::start_with(host, kubeconfig, args, &[], None)
    }

    /// Like [`Operator::start`], with further environment variables, and with a resolver of its own if
    /// `nameserver` is given: `/etc/resolv.conf` then holds that address alone.
    ///
    /// # Errors
    /// As [`Operator::start`].
    pub fn start_with<A: AsRef<OsStr>>(
        host: &Host,
        kubeconfig: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
        nameserver: Option<std::net::IpAddr>,
    ) -> Result<Self> {
        let program = program("ENDPOINTS_OPERATOR_BIN", "endpoints-operator")?;
        let dir = TempDir::new()?;
        let resolver = dir.path().join("resolv.conf");
        let mut over = Vec::new();
        if let Some(nameserver) = nameserver {
            std::fs::write(&resolver, format!("nameserver {nameserver}\noptions timeout:1 attempts:2\n"))?;
            over.push((resolver.as_path(), Path::new("/etc/resolv.conf")));
        }
        let mut command = host.netns().command_over(program, &over);
        command.args(args).env("KUBECONFIG", kubeconfig.as_ref()).current_dir(dir.path());
        command.envs(env.iter().copied());
        let log = dir.path().join("operator.log");
        Ok(Self { process: Process::start("endpoints-operator", command, &log)?, dir })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its working directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        self.process.log_path()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// That it still runs.
    ///
    /// # Errors
    /// If it has ended, with the last lines of its log.
    pub fn ensure_running(&self) -> Result<()> {
        self.process.ensure_running()
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Sends a signal: SIGSTOP and SIGCONT make it hang for a while.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// If it still runs after `timeout`.
    pub async fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.process.terminate(timeout).await
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `timeout`.
    pub async fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        self.process.wait(timeout).await
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resident_memory(&self) -> Result<u64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).context("it has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it has ended")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS")?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.process.kill();
        println!(
            "--- the end of the log of endpoints-operator {}\n{}",
            self.pid(),
            self.process.log_tail(TAIL)
        );
    }
}

/// Runs `cepctl ARGS` in the namespace of the cluster as the administrator; returns its standard output.
///
/// # Errors
/// If it fails, with its standard error.
pub async fn cepctl(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let mut command = cluster.netns().command(program("CEPCTL_BIN", "cepctl")?);
    command.args(args).env("KUBECONFIG", cluster.kubeconfig()).env("HOME", cluster.dir());
    process::output(command, None).await
}

/// A program of the workspace: what the variable says, or what lies beside the one that runs.
///
/// # Errors
/// If it does not exist, saying how to build it.
pub fn program(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(path.exists(), "{variable}={} does not exist", path.display());
        // It is started from another directory.
        return std::path::absolute(&path).with_context(|| format!("{variable}={}", path.display()));
    }
    // A test is target/debug/deps/e2e-HASH, a program of this crate target/debug/demo.
    let this = std::env::current_exe().context("the path of this program")?;
    let dir = this.parent().context("the target directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    let path = dir.join(name);
    ensure!(
        path.exists(),
        "{} does not exist: `cargo build --bins` before the tests, or set {variable}",
        path.display()
    );
    Ok(path)
}
