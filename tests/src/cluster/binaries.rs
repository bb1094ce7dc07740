//! Where the control plane's binaries are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

static DIR: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The directory with the binaries: `CLUSTER_BIN`, or where `tests/cluster/build.sh` puts them.
///
/// # Errors
/// If they have not been built, saying how to.
pub fn dir() -> Result<&'static Path> {
    let found = DIR.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// The path of one of them: `etcd`, `kube-apiserver`, `kubectl`, `helm`, …
///
/// # Errors
/// As [`dir`].
pub fn path(program: &str) -> Result<PathBuf> {
    let path = dir()?.join(program);
    if !path.exists() {
        bail!("{} does not exist: build the control plane with `make cluster`", path.display());
    }
    Ok(path)
}

fn find() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CLUSTER_BIN").filter(|dir| !dir.is_empty()) {
        // The programs are started in other directories.
        return std::path::absolute(&dir).context("CLUSTER_BIN");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/build.sh");
    let output = Command::new("bash")
        .arg(&script)
        .arg("--print-dir")
        .stdin(Stdio::null())
        .output()
        .context("cannot start bash")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("the control plane is not built: run `make cluster` {}", why.trim());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}
