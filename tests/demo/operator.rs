//! The operator of the demo, on a host of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::reaper::TempDir;
use testbed::{Cluster, Host, Process, eventually, operator};

const ADMIN_PORT: u16 = 8080;

/// Unlike [`testbed::Operator`] it keeps its log to itself unless something went wrong.
pub(crate) struct Operator {
    pub(crate) host: Host,
    process: Process,
    // Dropped after the process.
    _dir: TempDir,
}

impl Operator {
    /// Starts it and waits until it is ready and leads.
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let host = cluster.operator_host()?;
        let dir = TempDir::new()?;
        let mut command =
            host.netns().command(operator::program("ENDPOINTS_OPERATOR_BIN", "endpoints-operator")?);
        command.arg("run").env("KUBECONFIG", cluster.kubeconfig()).current_dir(dir.path());
        let process = Process::start("endpoints-operator", command, &dir.path().join("operator.log"))?;
        let operator = Self { host, process, _dir: dir };
        eventually(Duration::from_secs(20), "the operator is ready and leads", async || {
            operator.process.ensure_running()?;
            let (status, body) = operator.host.netns().http_get(operator.admin_address(), "/readyz").await?;
            ensure!(status == 200, "/readyz says {status} {body}");
            ensure!(operator.process.log().contains("leading"), "it does not lead yet");
            Ok(())
        })
        .await?;
        Ok(operator)
    }

    /// Where its status page and metrics are, on its own host.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.host.socket(ADMIN_PORT)
    }

    pub(crate) fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }
}
