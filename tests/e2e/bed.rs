//! The test bed itself: what the other tests lean on.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, PostParams};
use nix::sys::signal::Signal;
use serde_json::json;
use testbed::cluster::Component;
use testbed::dns::Entry;
use testbed::netns::Netns;
use testbed::server::udp::{Answer, UdpServer};
use testbed::traffic::Outcome;
use testbed::{
    Behaviour, Cluster, Dns, Host, Process, Response, Server, Tls, Traffic, eventually, process, reaper,
};

const SOON: Duration = Duration::from_secs(20);

/// A Service without selector, of both families, and its slices, written by hand.
async fn publish(cluster: &Cluster, host: &Host, port: u16) -> Result<Vec<SocketAddr>> {
    let services: Api<Service> = Api::default_namespaced(cluster.client());
    let service = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": {
            "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{ "port": 80, "targetPort": port }],
        },
    }))?;
    let service = services.create(&PostParams::default(), &service).await?;
    let slices: Api<EndpointSlice> = Api::default_namespaced(cluster.client());
    for (family, address) in [("IPv4", host.ip()), ("IPv6", host.ipv6())] {
        let slice = serde_json::from_value(json!({
            "metadata": {
                "name": format!("web-{}", family.to_lowercase()),
                "labels": { "kubernetes.io/service-name": "web" },
            },
            "addressType": family,
            "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
            "ports": [{ "port": port, "protocol": "TCP" }],
        }))?;
        slices.create(&PostParams::default(), &slice).await?;
    }
    let addresses = service.spec.and_then(|spec| spec.cluster_ips).context("no ClusterIPs")?;
    addresses.iter().map(|ip| Ok(SocketAddr::new(ip.parse()?, 80))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_forwards_from_the_node_and_from_hosts_in_both_families() -> Result<()> {
    let start = Instant::now();
    let cluster = Cluster::builder().start().await?;
    println!("the cluster was ready after {:?}", start.elapsed());
    let host = cluster.host("172.18.191.215")?;
    let other = cluster.host("172.18.191.216")?;
    let web = Server::http(host.netns(), host.socket(8080), Response::ok("four")).await?;
    let web6 = Server::http(host.netns(), host.socket6(8080), Response::ok("six")).await?;

    let cluster_ips = publish(&cluster, &host, 8080).await?;
    ensure!(cluster_ips.len() == 2, "{cluster_ips:?}");
    for (cluster_ip, body) in cluster_ips.iter().zip(["four", "six"]) {
        for (netns, place) in
            [(cluster.netns(), "the node"), (other.netns(), "a host"), (host.netns(), "itself")]
        {
            eventually(SOON, &format!("{cluster_ip} answers {place}"), async || {
                let (status, got) = netns.http_get(*cluster_ip, "/").await?;
                ensure!((status, got.as_str()) == (200, body), "{status} {got}");
                Ok(())
            })
            .await?;
        }
    }
    ensure!(web.requests() >= 3 && web6.requests() >= 3, "{} {}", web.requests(), web6.requests());

    let traffic =
        Traffic::get(other.netns(), cluster_ips[0], "/", Duration::from_millis(5), Duration::from_secs(1));
    eventually(SOON, "100 requests are answered", async || {
        let tally = traffic.tally();
        ensure!(tally.total() >= 100, "{tally}");
        Ok(())
    })
    .await?;
    let tally = traffic.stop();
    println!("{tally}");
    ensure!(tally.failures() == 0, "{tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_stops_and_starts_with_its_state_and_counts_writes() -> Result<()> {
    let cluster = Cluster::builder().ipv6(false).proxy(false).start().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "kept" } }))?;
    let before = cluster.apiserver_write_counts().await?;
    maps.create(&PostParams::default(), &map).await?;
    let counts = cluster.apiserver_write_counts().await?.since(&before);
    // kube-root-ca.crt of a namespace may be written just then.
    ensure!((1..=5).contains(&counts.of("configmaps")), "{counts}");

    cluster.stop_apiserver(Signal::SIGKILL).await?;
    ensure!(maps.get("kept").await.is_err(), "it is stopped");
    cluster.start_apiserver().await?;
    maps.get("kept").await.context("after the restart")?;
    cluster.stop_apiserver(Signal::SIGTERM).await?;
    cluster.start_apiserver().await?;

    cluster.signal(Component::Apiserver, Signal::SIGSTOP);
    let hung = tokio::time::timeout(Duration::from_millis(500), maps.get("kept")).await;
    cluster.signal(Component::Apiserver, Signal::SIGCONT);
    ensure!(hung.is_err(), "a stopped process cannot answer");
    maps.get("kept").await.context("after the pause")?;

    let output = cluster.kubectl(&["get", "configmap", "kept", "-o", "name"]).await?;
    ensure!(output.trim() == "configmap/kept", "{output}");
    let error = cluster.kubectl(&["get", "configmap", "lost"]).await.unwrap_err().to_string();
    ensure!(error.contains("not found"), "{error}");

    // A user and a ServiceAccount are let in, and may do nothing yet.
    for kubeconfig in [
        cluster.kubeconfig_of_user("jane", &["developers"])?,
        cluster.kubeconfig_of_service_account("default", "robot").await?,
    ] {
        let kubeconfig = kubeconfig.to_string_lossy().into_owned();
        let error =
            cluster.kubectl(&["--kubeconfig", &kubeconfig, "get", "pods"]).await.unwrap_err().to_string();
        ensure!(error.contains("Forbidden"), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_can_be_cut_silenced_and_closed() -> Result<()> {
    let cluster = Cluster::builder().proxy(false).start().await?;
    let host = cluster.host("172.18.191.215")?;
    let on = cluster.operator_host()?;
    let mut server = Server::tcp(host.netns(), host.socket(80)).await?;
    let address = host.socket(80);
    let outcome_is = async |wanted: &[Outcome], what: &str| {
        let traffic =
            Traffic::connect(on.netns(), address, Duration::from_millis(50), Duration::from_millis(900));
        eventually(SOON, what, async || {
            let tally = traffic.tally();
            let last = tally.attempts.last().context("no attempt has ended")?;
            ensure!(wanted.contains(&last.outcome), "{:?}", last.outcome);
            Ok(())
        })
        .await
    };
    outcome_is(&[Outcome::Ok], "a server is reached").await?;
    host.drop_packets()?;
    outcome_is(&[Outcome::TimedOut], "a silent host times out").await?;
    host.restore()?;
    outcome_is(&[Outcome::Ok], "it is back").await?;
    host.refuse()?;
    outcome_is(&[Outcome::Refused], "a closed host refuses").await?;
    host.restore()?;
    outcome_is(&[Outcome::Ok], "it is back").await?;
    // Unreachable only when the neighbour's entry has expired, which takes up to a minute.
    let cut = [Outcome::TimedOut, Outcome::Unreachable];
    host.cut()?;
    outcome_is(&cut, "there is no way to a host without its cable").await?;
    host.restore()?;
    outcome_is(&[Outcome::Ok], "it is back").await?;
    server.stop().await;
    outcome_is(&[Outcome::Refused], "a closed port refuses").await?;
    server.start().await?;
    outcome_is(&[Outcome::Ok], "it is back").await?;
    on.cut()?;
    outcome_is(&cut, "the operator's own cable").await?;
    on.restore()?;
    outcome_is(&[Outcome::Ok], "it is back").await
}

/// curl from a namespace: what it printed, or its complaint.
async fn curl(netns: &Netns, args: &[&str]) -> Result<String> {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "2"]).args(args);
    process::output(command, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn scripted_servers_do_as_they_are_told() -> Result<()> {
    let netns = Netns::create()?;
    let address: SocketAddr = "127.0.0.1:80".parse()?;
    let server = Server::http(&netns, address, Response::ok("hello").header("X-From", "bed")).await?;
    let output = curl(&netns, &["-i", "http://127.0.0.1/path?x=1", "-H", "X-Asked: yes"]).await?;
    ensure!(output.contains("X-From: bed") && output.ends_with("hello"), "{output}");
    let request = server.last_request().context("no request")?;
    ensure!(request.line() == "GET /path?x=1 HTTP/1.1", "{request:?}");
    ensure!(request.header("x-asked") == Some("yes"), "{request:?}");

    server.set(Behaviour::Sequence(vec![Response::status(503), Response::ok("second")]));
    ensure!(netns.http_get(address, "/").await?.0 == 503);
    ensure!(netns.http_get(address, "/").await?.1 == "second");
    ensure!(netns.http_get(address, "/").await?.1 == "second");
    server.set(Behaviour::Slow(Duration::from_millis(1), Response::ok("slow")));
    ensure!(netns.http_get(address, "/").await?.1 == "slow");
    for (behaviour, complaint) in [
        (Behaviour::Silent, "timed out"),
        (Behaviour::Hold, "timed out"),
        (Behaviour::Endless, "timed out"),
        // Possibly before curl has noticed that it is connected.
        (Behaviour::Reset, "curl: ("),
        (Behaviour::Close, "Empty reply"),
        (Behaviour::Raw(b"nonsense\r\n\r\n".to_vec()), "HTTP/0.9"),
    ] {
        server.set(behaviour.clone());
        let error = curl(&netns, &["-o", "/dev/null", "http://127.0.0.1/"]).await.unwrap_err().to_string();
        ensure!(error.contains(complaint), "{behaviour:?}: {error}");
    }

    let authority = testbed::pki::Authority::new("bed")?;
    let dir = reaper::TempDir::new()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let ca = file("ca.crt", authority.certificate())?;
    let client = authority.client("curl", &[])?;
    let (certificate, key) = (file("client.crt", &client.certificate)?, file("client.key", &client.key)?);
    let identity = authority.server(&["web.example.test", "127.0.0.1"])?;
    let _plain =
        Server::https(&netns, "127.0.0.1:443".parse()?, Tls::new(&identity)?, Response::ok("plain")).await?;
    let tls = Tls::mutual(&identity, &authority)?;
    let mutual = Server::https(&netns, "127.0.0.1:444".parse()?, tls, Response::ok("mutual")).await?;
    ensure!(curl(&netns, &["--cacert", &ca, "https://127.0.0.1/"]).await? == "plain");
    ensure!(curl(&netns, &["https://127.0.0.1/"]).await.is_err(), "an unknown authority");
    ensure!(curl(&netns, &["--cacert", &ca, "https://127.0.0.1:444/"]).await.is_err(), "no certificate");
    let args = ["--cacert", &ca, "--cert", &certificate, "--key", &key, "https://127.0.0.1:444/"];
    ensure!(curl(&netns, &args).await? == "mutual");
    ensure!(mutual.handshake_failures() == 1, "{}", mutual.handshake_failures());

    let udp = UdpServer::start(&netns, "127.0.0.1:53530".parse()?, Answer::Echo).await?;
    let socket = netns.bind_udp("127.0.0.1:0".parse()?).await?;
    socket.connect(udp.address()).await?;
    socket.send(b"ping").await?;
    let mut buffer = [0; 16];
    let n = tokio::time::timeout(SOON, socket.recv(&mut buffer)).await??;
    ensure!(&buffer[..n] == b"ping" && udp.received() == 1, "{buffer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_a_resolver_of_its_own_sees_the_table_change() -> Result<()> {
    let netns = Netns::create()?;
    let dns = Dns::start(&netns, "127.0.0.1:53".parse()?).await?;
    let dir = reaper::TempDir::new()?;
    let resolver = dir.path().join("resolv.conf");
    std::fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
    let lookup = async |name: &str| {
        let over = [(resolver.as_path(), Path::new("/etc/resolv.conf"))];
        let mut command = netns.command_over("getent", &over);
        command.args(["ahosts", name]);
        process::output(command, None).await
    };
    dns.set("db.example.test", &["172.18.191.215", "fd00::215"], 1);
    let output = lookup("db.example.test").await?;
    ensure!(output.contains("172.18.191.215") && output.contains("fd00::215"), "{output}");
    dns.set("db.example.test", &["172.18.191.216"], 1);
    let output = lookup("DB.example.test").await?;
    ensure!(output.contains("172.18.191.216") && !output.contains("215"), "{output}");
    for entry in [Entry::ServFail, Entry::NxDomain, Entry::Silent] {
        dns.set_entry("db.example.test", entry.clone());
        ensure!(lookup("db.example.test").await.is_err(), "{entry:?}");
    }
    ensure!(dns.queries_for("db.example.test") >= 7, "{}", dns.queries());
    Ok(())
}

/// Where the child of the next test says that its cluster is ready.
const CHILD: &str = "TESTBED_CHILD_OF_BED";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is started, and killed, by nothing_outlives_a_killed_test_process"]
async fn a_cluster_until_killed() -> Result<()> {
    let Some(file) = std::env::var_os(CHILD) else { return Ok(()) };
    let cluster = Cluster::builder().start().await?;
    let host = cluster.host("172.18.191.215")?;
    let mut command = host.netns().command("bash");
    // What sits in the namespace but left the group, and ignores what can be ignored.
    command
        .args(["-c", "trap '' TERM HUP INT; setsid bash -c 'trap \"\" TERM; sleep 1000; :' & sleep 1000; :"]);
    let log = cluster.dir().join("log/stubborn.log");
    let _stubborn = Process::start("stubborn", command, &log)?;
    let pids: Vec<u32> = eventually(SOON, "four processes sit on the host", async || {
        let pids = host.netns().pids()?;
        ensure!(pids.len() == 4, "{pids:?}");
        Ok(pids)
    })
    .await?;
    let mut pids = pids;
    pids.extend(cluster.netns().pids()?);
    let dir = cluster.dir().to_string_lossy().into_owned();
    let draft = Path::new(&file).with_extension("draft");
    std::fs::write(&draft, serde_json::to_vec(&(pids, dir))?)?;
    std::fs::rename(draft, file)?;
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_killed_test_process() -> Result<()> {
    let dir = reaper::TempDir::new()?;
    let file = dir.path().join("ready");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "bed::a_cluster_until_killed", "--ignored", "--nocapture"]).env(CHILD, &file);
    let child = Process::start("the child", command, &dir.path().join("child.log"))?;
    let (pids, state): (Vec<u32>, String) =
        eventually(Duration::from_secs(120), "the child's cluster is ready", async || {
            child.ensure_running()?;
            Ok(serde_json::from_slice(&std::fs::read(&file)?)?)
        })
        .await?;
    let prefix = format!("ceo-{}-", child.pid());
    let namespaces = || -> Result<Vec<String>> {
        let entries = std::fs::read_dir("/run/netns")?.flatten();
        Ok(entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect())
    };
    ensure!(namespaces()?.len() == 2 && pids.len() >= 8, "{:?} {pids:?}", namespaces()?);
    child.signal(Signal::SIGKILL);
    eventually(SOON, "processes, namespaces and files of the killed process are gone", async || {
        let alive: Vec<_> = pids.iter().filter(|pid| is_alive(**pid)).collect();
        let left = namespaces()?;
        if !alive.is_empty() || !left.is_empty() || Path::new(&state).exists() {
            bail!("processes {alive:?}, namespaces {left:?}, {state} {}", Path::new(&state).exists());
        }
        Ok(())
    })
    .await
}

/// Whether a process exists and is no zombie.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
