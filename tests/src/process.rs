//! A process of the bed with its log file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::reaper;
use crate::wait::eventually;

/// A running process; dropping it kills it and its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = Mutex::new(reaper::spawn(command)?);
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child })
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Its log file.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// That it still runs.
    ///
    /// # Errors
    /// If it has ended, with its status and the last lines of its log.
    pub fn ensure_running(&self) -> Result<()> {
        let status = self.exit_status();
        ensure!(
            status.is_none(),
            "{} ended ({}); the last lines of {}:\n{}",
            self.name,
            status.map(|status| status.to_string()).unwrap_or_default(),
            self.log.display(),
            self.log_tail(15)
        );
        Ok(())
    }

    /// Kills it with SIGKILL, and its process group too, and waits for its end.
    pub fn kill(&self) {
        reaper::kill(&mut self.child());
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child();
        // Not reaped, so the number is still this child's.
        if let (Ok(None), Ok(pid)) = (child.try_wait(), i32::try_from(child.id())) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `timeout`, with the last lines of its log.
    pub async fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let status = eventually(timeout, &format!("{} ends", self.name), async || {
            let status = self.child().try_wait().context("wait")?;
            status.with_context(|| format!("it runs; its last lines:\n{}", self.log_tail(15)))
        })
        .await?;
        reaper::forget_group(self.pid());
        Ok(status)
    }

    /// SIGTERM, then waits for its end.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub async fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait(timeout).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// If it cannot be started or fails, with its arguments and its standard error.
pub async fn output(command: Command, input: Option<String>) -> Result<String> {
    let text = line(&command);
    let output = finish(command, input).await?;
    ensure!(
        output.status.success(),
        "`{text}` failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, however it ends.
///
/// # Errors
/// If it cannot be started.
pub async fn finish(mut command: Command, input: Option<String>) -> Result<Output> {
    use std::io::Write;
    command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let run = move || {
        let mut child = reaper::spawn(command)?;
        let id = child.id();
        let writer = child
            .stdin
            .take()
            .zip(input)
            .map(|(mut stdin, input)| std::thread::spawn(move || stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        reaper::forget_group(id);
        output.context("waiting for it")
    };
    tokio::task::spawn_blocking(run).await.context("the waiting thread failed")?
}

/// A command as one would type it.
fn line(command: &Command) -> String {
    let mut text = Path::new(command.get_program()).file_name().unwrap_or_default().to_os_string();
    for arg in command.get_args() {
        text.push(" ");
        text.push(arg);
    }
    text.to_string_lossy().into_owned()
}
