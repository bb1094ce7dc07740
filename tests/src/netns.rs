//! Network namespaces: sockets in them, processes in them, and the links between them.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use crate::reaper;

/// A network namespace, removed with every process in it when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        reaper::remove_netns(&self.name);
    }
}

impl Netns {
    /// Makes a namespace with a name of its own; its loopback interface is up.
    ///
    /// # Errors
    /// Without root, without `ip`, or where the kernel or the container forbids it.
    pub fn create() -> Result<Self> {
        let name = reaper::unique_name();
        reaper::record_netns(&name)?;
        ip(&["netns", "add", &name])?;
        let file = match File::open(path(&name)).with_context(|| format!("cannot open namespace {name}")) {
            Ok(file) => file,
            Err(error) => {
                reaper::remove_netns(&name);
                return Err(error);
            }
        };
        let netns = Self(Arc::new(Inner { name, file }));
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs `work` on a thread inside the namespace and waits for it. Sockets made there stay there,
    /// whichever thread uses them later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0.file, CloneFlags::CLONE_NEWNET).expect("root may enter its own namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run in this namespace. `/sys` stays as it is, unlike with `ip netns exec`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_over(program, &[])
    }

    /// Like [`Netns::command`], in a mount namespace of its own where each first path lies over the second:
    /// `[("/tmp/x/resolv.conf", "/etc/resolv.conf")]` gives a process a name server of its own.
    #[allow(unsafe_code, reason = "pre_exec: the closure makes system calls and allocates nothing")]
    pub fn command_over(&self, program: impl AsRef<OsStr>, files: &[(&Path, &Path)]) -> Command {
        let mut command = Command::new(program);
        let netns = self.clone();
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
        let files: Vec<_> = files.iter().map(|(from, to)| (text(from), text(to))).collect();
        // SAFETY: setns, unshare and mount are async-signal-safe, and the paths are already C strings.
        unsafe {
            command.pre_exec(move || {
                setns(&netns.0.file, CloneFlags::CLONE_NEWNET)?;
                if !files.is_empty() {
                    let none = None::<&std::ffi::CStr>;
                    unshare(CloneFlags::CLONE_NEWNS)?;
                    mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
                    for (from, to) in &files {
                        mount(Some(from.as_c_str()), to.as_c_str(), none, MsFlags::MS_BIND, none)?;
                    }
                }
                Ok(())
            });
        }
        command
    }

    /// A TCP listener on an address of this namespace.
    ///
    /// # Errors
    /// As `bind` and `listen`.
    pub async fn bind_tcp(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.tcp_socket(address)?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(4096)
    }

    /// A UDP socket on an address of this namespace.
    ///
    /// # Errors
    /// As `bind`.
    pub async fn bind_udp(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.run(|| std::net::UdpSocket::bind(address))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    /// A TCP connection from this namespace.
    ///
    /// # Errors
    /// As `connect`.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.tcp_socket(address)?.connect(address).await
    }

    /// An unconnected TCP socket of the family of `address`.
    ///
    /// # Errors
    /// As `socket`.
    pub fn tcp_socket(&self, address: SocketAddr) -> io::Result<TcpSocket> {
        self.run(|| if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })
    }

    /// GET over plain HTTP/1.1 from this namespace: the status and the body. It may take three seconds.
    ///
    /// # Errors
    /// As `connect`, after three seconds, or if what comes back is not HTTP.
    pub async fn http_get(&self, address: SocketAddr, target: &str) -> Result<(u16, String)> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        // Version 1.0 knows no chunks.
        let request = format!("GET {target} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        let exchange = async {
            let mut stream = self.connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(3), exchange).await;
        let answer = answer.with_context(|| format!("no answer from {address} within 3 s"))?;
        let answer = answer.with_context(|| format!("asking {address}"))?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not an HTTP answer: {answer:?}"))?;
        Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }

    /// Runs `ip -n NAME ARGS`.
    ///
    /// # Errors
    /// With what `ip` wrote.
    pub fn ip(&self, args: &str) -> Result<()> {
        let mut all = vec!["-n", self.name()];
        all.extend(args.split_whitespace());
        ip(&all)
    }

    /// Loads nftables rules into the namespace.
    ///
    /// # Errors
    /// With what `nft` wrote.
    pub fn nft(&self, rules: &str) -> Result<()> {
        use std::io::Write;
        let mut command = self.command("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start nft: run tests/setup.sh")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(rules.as_bytes()).context("writing to nft")?;
        }
        let output = child.wait_with_output().context("waiting for nft")?;
        if !output.status.success() {
            bail!("nft refused {rules:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Sets a kernel parameter of the namespace, such as `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// If it does not exist or `/proc/sys` is read-only.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.run(|| std::fs::write(&file, value))
            .with_context(|| format!("cannot set {name}={value} in namespace {}", self.name()))
    }

    /// The processes in the namespace.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let output = Command::new("ip").args(["netns", "pids", self.name()]).output().context("ip")?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.parse().ok()).collect())
    }
}

/// Where `ip netns` keeps a namespace.
fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Runs `ip`.
fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("cannot start ip (iproute2): run tests/setup.sh")?;
    if !output.status.success() {
        bail!("ip {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Netns;

    #[tokio::test]
    async fn sockets_and_commands_live_in_their_namespace() {
        let (a, b) = (Netns::create().expect("a"), Netns::create().expect("b"));
        let listener = a.bind_tcp("127.0.0.1:80".parse().expect("address")).await.expect("bind");
        let address = listener.local_addr().expect("address");
        assert!(b.connect(address).await.is_err(), "another namespace, another loopback");
        a.connect(address).await.expect("the same namespace");
        let output = a.command("ip").args(["netns", "identify"]).output().expect("ip");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), a.name());
        let name = b.name().to_owned();
        drop(b);
        assert!(!super::path(&name).exists());
    }

    #[test]
    fn a_file_can_lie_over_another_for_one_command() {
        let netns = Netns::create().expect("netns");
        let dir = crate::reaper::TempDir::new().expect("dir");
        let file = dir.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 192.0.2.1\n").expect("write");
        let over = [(file.as_path(), std::path::Path::new("/etc/hostname"))];
        let output = netns.command_over("cat", &over).arg("/etc/hostname").output().expect("cat");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "nameserver 192.0.2.1\n");
        assert!(!std::fs::read_to_string("/etc/hostname").expect("host's own").contains("192.0.2.1"));
    }
}
