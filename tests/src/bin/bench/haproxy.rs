//! HAProxy as Debian ships it, checking the same targets.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::reaper::TempDir;
use testbed::{Netns, Process, eventually};

use crate::load::{Kind, address};

/// A running HAProxy that checks and serves nobody.
#[derive(Debug)]
pub(crate) struct Haproxy {
    process: Process,
    kind: Kind,
    targets: u32,
    // Dropped after the process.
    dir: TempDir,
}

impl Haproxy {
    /// Starts it with `check inter` of ten seconds for every target. `nbthread` is as it comes: one thread
    /// a CPU.
    pub(crate) fn start(netns: &Netns, kind: Kind, targets: u32) -> Result<Self> {
        let dir = TempDir::new()?;
        let socket = dir.path().join("haproxy.sock");
        let method = match kind {
            Kind::Tcp => "",
            Kind::Http => "  option httpchk GET /\n",
        };
        let mut config = format!(
            "global\n  maxconn 1000\n  stats socket {} level admin\n\
             defaults\n  mode tcp\n  timeout connect 1s\n  timeout check 1s\n  timeout client 1s\n  timeout server 1s\n\
             frontend unused\n  bind 127.0.0.1:1\n  default_backend targets\n\
             backend targets\n{method}",
            socket.display()
        );
        for target in 0..targets {
            writeln!(config, "  server s{target} {} check inter 10s", address(target))?;
        }
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, config)?;
        let mut command = netns.command("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        let process = Process::start("haproxy", command, &dir.path().join("haproxy.log"))?;
        Ok(Self { process, kind, targets, dir })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it has checked every target at least once and found it well.
    pub(crate) async fn has_checked_all(&self) -> Result<()> {
        eventually(Duration::from_secs(60), "HAProxy has checked every target", async || {
            // The answer is megabytes: not more often than this.
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.process.ensure_running()?;
            let well = match self.kind {
                Kind::Tcp => ",L4OK,",
                Kind::Http => ",L7OK,",
            };
            let checked =
                self.command("show stat -1 4 -1")?.lines().filter(|line| line.contains(well)).count();
            ensure!(checked == self.targets as usize, "{checked} of {} checked", self.targets);
            Ok(())
        })
        .await
    }

    /// How many threads it chose to have.
    pub(crate) fn threads(&self) -> Result<u64> {
        let info = self.command("show info")?;
        let line = info.lines().find_map(|line| line.strip_prefix("Nbthread: ")).context("show info")?;
        line.trim().parse().context("Nbthread")
    }

    fn command(&self, command: &str) -> Result<String> {
        let mut stream =
            UnixStream::connect(self.dir.path().join("haproxy.sock")).context("HAProxy's socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        writeln!(stream, "{command}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}
