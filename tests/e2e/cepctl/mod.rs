//! `cepctl` against a real cluster and the real operator.

mod convert;
mod explain;
mod migrate;
mod probe;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::reaper::TempDir;
use testbed::{Cluster, Netns, operator, process};

/// How a run of `cepctl` ended, and what it printed.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Its standard output, if it ended with this status.
    fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "it ended with {}, not {code}: {self:?}", self.code);
        Ok(self)
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {self:?}"))
    }
}

/// `cepctl ARGS` in a namespace, with no cluster to talk to and no directory but an empty one.
fn command(netns: &Netns, args: &[&str]) -> Result<Command> {
    let mut command = netns.command(program()?);
    command.args(args).env_remove("KUBECONFIG").env("HOME", "/nonexistent").env_remove("CLICOLOR_FORCE");
    Ok(command)
}

/// `cepctl ARGS` as the administrator of a cluster, on its node.
fn as_admin(cluster: &Cluster, args: &[&str]) -> Result<Command> {
    let mut command = command(cluster.netns(), args)?;
    command.env("KUBECONFIG", cluster.kubeconfig());
    Ok(command)
}

fn program() -> Result<PathBuf> {
    operator::program("CEPCTL_BIN", "cepctl")
}

async fn run(command: Command) -> Result<Ran> {
    run_with(command, None).await
}

async fn run_with(command: Command, input: Option<&str>) -> Result<Ran> {
    let output = process::finish(command, input.map(str::to_owned)).await?;
    Ok(Ran {
        code: output.status.code().context("it was killed")?,
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// `cepctl ARGS` as the administrator, to its end.
async fn cepctl(cluster: &Cluster, args: &[&str]) -> Result<Ran> {
    run(as_admin(cluster, args)?).await
}

/// A directory of files for `-f`.
struct Files(TempDir);

impl Files {
    fn new() -> Result<Self> {
        Ok(Self(TempDir::new()?))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its path.
    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }
}
