//! The web servers that stand outside the cluster: Debian's nginx, one a host.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testbed::reaper::TempDir;
use testbed::{Host, Process, eventually};

const SOON: Duration = Duration::from_secs(20);

/// A host with an nginx on port 80 that answers with the host's address.
pub(crate) struct WebServer {
    pub(crate) host: Host,
    process: Option<Process>,
    // Dropped after the process.
    dir: TempDir,
}

impl WebServer {
    /// Starts nginx on this host and waits until it answers.
    pub(crate) async fn start(host: Host) -> Result<Self> {
        let mut server = Self { host, process: None, dir: TempDir::new()? };
        fs::write(server.dir.path().join("nginx.conf"), server.config())?;
        server.bring_back().await?;
        Ok(server)
    }

    /// `master_process off` makes it a single process, so that killing its pid kills all of it.
    fn config(&self) -> String {
        let (dir, listen) = (self.dir.path().display(), self.host.socket(80));
        format!(
            "daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  default_type text/plain;
  server {{
    listen {listen};
    location / {{ return 200 \"hello from {ip}\\n\"; }}
  }}
}}
",
            ip = self.host.ip()
        )
    }

    /// Starts nginx, for the first time or again.
    pub(crate) async fn bring_back(&mut self) -> Result<()> {
        let mut command = self.host.netns().command(program()?);
        command.arg("-c").arg(self.dir.path().join("nginx.conf"));
        let process = Process::start("nginx", command, &self.dir.path().join("nginx.log"))?;
        eventually(SOON, "nginx answers", async || {
            process.ensure_running()?;
            let (status, body) = self.host.netns().http_get(self.host.socket(80), "/").await?;
            ensure!(status == 200 && body.contains(&self.host.ip().to_string()), "{status} {body}");
            Ok(())
        })
        .await?;
        self.process = Some(process);
        ensure!(self.recorded_pid()? == self.pid(), "nginx.pid names another process than the one started");
        Ok(())
    }

    /// SIGKILL to its pid: no goodbye to anybody.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        let process = self.process.take().context("nginx does not run")?;
        process.signal(Signal::SIGKILL);
        process.wait(SOON).await?;
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().map(Process::pid).unwrap_or_default()
    }

    fn recorded_pid(&self) -> Result<u32> {
        let text = fs::read_to_string(self.dir.path().join("nginx.pid")).context("nginx.pid")?;
        text.trim().parse().context("nginx.pid")
    }
}

/// Where nginx is; Debian keeps it out of the PATH of ordinary users.
pub(crate) fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places.map(|dir| dir.join("nginx")).find(|file| file.is_file());
    found.context("nginx is missing: run `tests/setup.sh demo`, or `make demo`, which does it")
}
