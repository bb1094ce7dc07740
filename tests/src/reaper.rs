//! Everything that a test process started ends with it, even if it is killed with SIGKILL.
//!
//! Two mechanisms, because each has a gap. A child gets `PR_SET_PDEATHSIG`, which works at once but reaches
//! neither grandchildren nor namespaces. And a watchdog, a shell in a process group of its own, reads from a
//! pipe what there is to remove; when the pipe closes, its writer is dead, and it removes what is still on
//! its list: process groups, namespaces (with every process in them) and directories, all by recorded name.
//! Should the watchdog be killed too, the next run sweeps what bears the number of a dead process.

use std::collections::HashSet;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

/// All names of namespaces and directories begin with this, the process number and a dash follow.
const PREFIX: &str = "ceo-";

/// The watchdog. Lines on its standard input: `+KIND NAME` records, `-KIND NAME` forgets.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
declare -A group netns dir
while read -r what name; do
  case $what in
    +group) group[$name]=1 ;; -group) unset "group[$name]" ;;
    +netns) netns[$name]=1 ;; -netns) unset "netns[$name]" ;;
    +dir)   dir[$name]=1 ;;   -dir)   unset "dir[$name]" ;;
  esac
done
for g in "${!group[@]}"; do kill -KILL -- "-$g"; done
for n in "${!netns[@]}"; do
  for p in $(ip netns pids "$n"); do kill -KILL "$p"; done
  ip netns del "$n"
done
for d in "${!dir[@]}"; do rm -rf -- "$d"; done
"#;

type Job = Box<dyn FnOnce() + Send>;

struct Reaper {
    watchdog: Mutex<ChildStdin>,
    /// The kernel sends the death signal when the *thread* that forked ends, so one that never does forks.
    spawner: mpsc::Sender<Job>,
}

static REAPER: LazyLock<Result<Reaper, String>> =
    LazyLock::new(|| Reaper::start().map_err(|error| format!("{error:#}")));
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Reaper {
    fn get() -> Result<&'static Self> {
        REAPER.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn start() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the test bed makes network namespaces, which needs root: run the tests with sudo");
        }
        sweep();
        let mut watchdog = Command::new("bash")
            .args(["-c", WATCHDOG])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the watchdog: bash")?;
        let stdin = watchdog.stdin.take().context("the watchdog has no standard input")?;
        let (spawner, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .context("cannot start the spawning thread")?;
        Ok(Self { watchdog: Mutex::new(stdin), spawner })
    }

    fn tell(&self, what: &str, name: &str) {
        let mut watchdog = self.watchdog.lock().unwrap_or_else(PoisonError::into_inner);
        // A dead watchdog is made up for by the next run's sweep.
        let _ = writeln!(watchdog, "{what} {name}");
    }
}

/// A name that no other thread and no other process uses: `ceo-PID-N`.
pub(crate) fn unique_name() -> String {
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Records a namespace that is about to be made.
pub(crate) fn record_netns(name: &str) -> Result<()> {
    Reaper::get()?.tell("+netns", name);
    Ok(())
}

/// Removes a namespace and every process that is still in it.
pub(crate) fn remove_netns(name: &str) {
    delete_netns(name);
    if let Ok(reaper) = Reaper::get() {
        reaper.tell("-netns", name);
    }
}

/// Starts a process in a process group of its own, which dies with this process.
///
/// # Errors
/// If the program cannot be started, naming it, or if this process is not root.
#[allow(unsafe_code, reason = "pre_exec: the closure makes one system call and allocates nothing")]
pub fn spawn(mut command: Command) -> Result<Child> {
    let reaper = Reaper::get()?;
    let program = command.get_program().to_string_lossy().into_owned();
    command.process_group(0);
    // SAFETY: prctl is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Some(Signal::SIGKILL))?));
    }
    let (sender, result) = mpsc::sync_channel(1);
    let job = Box::new(move || {
        let child = command.spawn().inspect(|child| reaper.tell("+group", &child.id().to_string()));
        let _ = sender.send(child);
    });
    reaper.spawner.send(job).ok().context("the spawning thread is gone")?;
    result.recv().context("the spawning thread is gone")?.with_context(|| format!("cannot start {program}"))
}

/// Kills the process group of `child`, with all its members, and reaps it.
pub fn kill(child: &mut Child) {
    let group = child.id();
    // Not reaped yet, so the number is still this child's.
    if let (Ok(None), Ok(raw)) = (child.try_wait(), i32::try_from(group)) {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(raw), Signal::SIGKILL);
        let _ = child.wait();
    }
    forget_group(group);
}

/// Takes a process group that has ended off the watchdog's list.
pub(crate) fn forget_group(group: u32) {
    if let Ok(reaper) = Reaper::get() {
        reaper.tell("-group", &group.to_string());
    }
}

/// A temporary directory, removed when dropped, or by the watchdog. `TESTBED_KEEP=1` keeps it.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes a directory that only this user may enter.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(unique_name());
        if !keep() {
            Reaper::get()?.tell("+dir", &path.to_string_lossy());
        }
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if keep() {
            eprintln!("testbed: kept {}", self.0.display());
            return;
        }
        let _ = std::fs::remove_dir_all(&self.0);
        if let Ok(reaper) = Reaper::get() {
            reaper.tell("-dir", &self.0.to_string_lossy());
        }
    }
}

fn keep() -> bool {
    std::env::var_os("TESTBED_KEEP").is_some_and(|value| value != "0")
}

/// Removes what runs that died without their watchdog have left.
fn sweep() {
    let stale = |dir: &Path| -> HashSet<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_stale(name))
            .collect()
    };
    for name in stale(Path::new("/run/netns")) {
        delete_netns(&name);
    }
    let temporary = std::env::temp_dir();
    for name in stale(&temporary) {
        if !keep() {
            let _ = std::fs::remove_dir_all(temporary.join(name));
        }
    }
}

/// Whether a name is one of ours and its process is dead.
fn is_stale(name: &str) -> bool {
    let Some((pid, number)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    let (Ok(pid), Ok(_)) = (pid.parse::<u32>(), number.parse::<u64>()) else { return false };
    !Path::new("/proc").join(pid.to_string()).exists()
}

fn delete_netns(name: &str) {
    let ip = |args: &[&str]| Command::new("ip").args(args).stdin(Stdio::null()).output();
    if let Ok(pids) = ip(&["netns", "pids", name]) {
        for pid in String::from_utf8_lossy(&pids.stdout).lines().filter_map(|line| line.trim().parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = ip(&["netns", "del", name]);
}

#[cfg(test)]
mod tests {
    use super::is_stale;

    #[test]
    fn only_names_of_dead_processes_are_stale() {
        assert!(!is_stale(&format!("ceo-{}-0", std::process::id())));
        assert!(is_stale("ceo-4194399-17"), "above the kernel's highest process number");
        for other in ["ceo-", "ceo-x-1", "ceo-4194399", "ceo-4194399-x", "web", "xceo-4194399-1"] {
            assert!(!is_stale(other), "{other}");
        }
    }
}
