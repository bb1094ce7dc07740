//! The wiring of `endpoints-operator run`: who talks to whom. No logic lives here.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use cep_core::address_policy::AddressPolicy;
use cep_core::check::Definition;
use cep_core::guard::GuardConfig;
use cep_core::overview::Overview;
use cep_core::snapshot::{CepKey, Seeds, Snapshot, Told};
use cep_core::status::Notice;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt};
use ipnet::IpNet;
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::admin::{self, AdminState, OverviewFilter, Readiness, StatusSource};
use crate::cli::{Run, WriteEndpoints};
use crate::connection;
use crate::controller::{self, Events, HealthSource};
use crate::error_chain::Chain;
use crate::lease::{self, LeaseConfig};
use crate::metrics::Metrics;
use crate::prober::{self, Prober};

/// The version that everything reports.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How old the last tick of the schedule may be before `/livez` fails.
const SCHEDULE_STALL: Duration = Duration::from_secs(15);
/// How long the parts may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(args: Run) -> anyhow::Result<()> {
    let descriptors = raise_file_limit();
    let config = client_config(&args).await?;
    let policy = policy(&args, &config);
    let namespace = args.lease.lease_namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client =
        connection::client(config).context("the API server's address or credentials are unusable")?;
    let metrics = Metrics::new(VERSION);
    let readiness = Readiness::new(SCHEDULE_STALL);
    let caches = readiness.gate("caches", "watch caches not synced");
    let shutdown = shutdown_signal()?;

    let listener = TcpListener::bind(args.admin_address)
        .await
        .with_context(|| format!("--admin-address {} cannot be listened on", args.admin_address))?;
    let admin_address = listener.local_addr()?;

    let (changed_tx, changed) = mpsc::unbounded_channel();
    let ticker = readiness.clone();
    let prober_config = prober::Config {
        policy: policy.clone(),
        guard: guard_config(&args),
        vantage: args.guard.vantage_target.clone(),
        nameservers: args.probing.nameserver.clone(),
        max_in_flight: args.probing.max_probes.unwrap_or_else(|| prober::max_in_flight(descriptors)),
    };
    let prober = Prober::start(prober_config, metrics.clone(), changed_tx, move || ticker.scheduler_tick())?;

    let lease = LeaseConfig {
        namespace,
        name: args.lease.lease_name.clone(),
        identity: args.lease.identity.clone().unwrap_or_else(identity),
        duration: args.lease.lease_duration,
    };
    tracing::info!(
        version = VERSION,
        identity = %lease.identity,
        admin = %admin_address,
        namespace = args.watch_namespace.as_deref().unwrap_or("(all)"),
        max_probes = args.probing.max_probes.unwrap_or_else(|| prober::max_in_flight(descriptors)),
        "endpoints-operator starts"
    );
    let (leader_tx, leader) = watch::channel(false);
    let events = Events::start(client.clone(), lease.identity.clone(), metrics.clone());
    let source = Arc::new(Source {
        prober: prober.clone(),
        identity: lease.identity.clone(),
        leader: leader.clone(),
        started: Timestamp::now(),
    });
    tokio::spawn(admin::serve(
        listener,
        AdminState::new(metrics.clone(), readiness.clone(), source),
        shutdown.clone(),
    ));
    tokio::spawn(tell_about_blindness(prober.blind(), leader.clone(), events.clone(), lease.clone()));
    tokio::spawn(count_leadership(leader.clone(), metrics.clone()));
    let (ended, all_ended) = tokio::sync::oneshot::channel::<()>();
    let resign = all_ended.map(|_| ());
    let campaign = tokio::spawn(lease::campaign(client.clone(), lease, leader_tx, resign));

    let options = controller::Options {
        namespace: args.watch_namespace.clone(),
        write_endpoints: args.write_endpoints == WriteEndpoints::Auto,
        policy,
    };
    let changed = UnboundedReceiverStream::new(changed).map(|change| (change.key, change.at));
    let health = Arc::new(Health(prober));
    let ready = move || caches.open();
    controller::run(client, health, options, metrics, events, leader, changed, ready, shutdown).await;

    // The reconciles have ended; now somebody else may write.
    drop(ended);
    if tokio::time::timeout(GRACE, campaign).await.is_err() {
        tracing::warn!("the Lease could not be given back in time");
    }
    tracing::info!("endpoints-operator ends");
    Ok(())
}

/// Says at which signal everything ends.
fn shutdown_signal() -> anyhow::Result<Shared<BoxFuture<'static, ()>>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let signal = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
            _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
        }
    };
    let signal = signal.boxed().shared();
    // Somebody must wait for it, or the log line comes only when the last part asks.
    tokio::spawn(signal.clone());
    Ok(signal)
}

async fn client_config(args: &Run) -> anyhow::Result<kube::Config> {
    let mut config = match &args.kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file)
                .with_context(|| format!("--kubeconfig {} cannot be read", file.display()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("--kubeconfig {} is unusable", file.display()))?
        }
        None => kube::Config::infer().await.map_err(|error| {
            // Its own text tells at length that this is no Pod.
            let kubeconfig = error.source().map(|source| Chain(source).to_string()).unwrap_or_default();
            anyhow!(
                "neither in a Pod nor with a usable kubeconfig; set KUBECONFIG or --kubeconfig to reach a \
                 cluster: {kubeconfig}"
            )
        })?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    // Bookmarks come about once a minute on every watch: a connection silent for longer is dead.
    config.read_timeout = Some(Duration::from_secs(150));
    config.write_timeout = Some(Duration::from_secs(30));
    // Each part has its own idea of patience; the client's would sleep for up to a quarter of an hour.
    config.default_retry = false;
    Ok(config)
}

/// The flags, and the API server's own address, which nobody may make us probe.
fn policy(args: &Run, config: &kube::Config) -> AddressPolicy {
    let mut deny = args.probing.deny_target_cidr.clone();
    let host = config.cluster_url.host().unwrap_or_default();
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        deny.push(IpNet::from(address));
    }
    AddressPolicy { allow: args.probing.allow_target_cidr.clone(), deny }
}

fn guard_config(args: &Run) -> GuardConfig {
    GuardConfig {
        blind_percent: args.guard.blind_percent,
        min_hosts: args.guard.blind_min_hosts,
        max_evictions_percent: args.guard.max_evictions_percent,
        ..GuardConfig::default()
    }
}

/// A name that no other process has: two replicas of one identity would both lead.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "endpoints-operator",
        host => host,
    };
    let nanos = Timestamp::now().as_nanosecond().unsigned_abs();
    format!("{host}_{:x}-{:x}", std::process::id(), nanos & 0xffff_ffff)
}

/// One descriptor a probe: as many as the system lets us have.
fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum.unwrap_or(1 << 20),
        Err(_) => limit.current.unwrap_or(1024),
    }
}

struct Health(Prober);

impl HealthSource for Health {
    fn watch(
        &self,
        key: CepKey,
        definition: Arc<Definition>,
        seeds: Seeds,
    ) -> BoxFuture<'_, Option<Arc<Snapshot>>> {
        self.0.watch(key, definition, seeds).map(Result::ok).boxed()
    }

    fn settle(&self, key: CepKey, told: Vec<Told>) -> BoxFuture<'_, Option<Arc<Snapshot>>> {
        self.0.settle(key, told).map(|answer| answer.ok().flatten()).boxed()
    }

    fn forget(&self, key: CepKey) {
        self.0.forget(key);
    }
}

struct Source {
    prober: Prober,
    identity: String,
    leader: watch::Receiver<bool>,
    started: Timestamp,
}

impl StatusSource for Source {
    fn overview(&self, filter: OverviewFilter) -> BoxFuture<'_, Overview> {
        async move {
            let wanted = prober::Wanted { namespace: filter.namespace, name: filter.name };
            let (targets, ceps) = self.prober.overview(wanted).await.unwrap_or_default();
            Overview {
                version: VERSION.to_owned(),
                identity: self.identity.clone(),
                leader: *self.leader.borrow(),
                blind: *self.prober.blind().borrow(),
                started: self.started,
                now: Timestamp::now(),
                targets,
                ceps,
            }
        }
        .boxed()
    }
}

/// One Event at the beginning and one at the end, on the operator's own Lease.
async fn tell_about_blindness(
    mut blind: watch::Receiver<bool>,
    leader: watch::Receiver<bool>,
    events: Events,
    lease: LeaseConfig,
) {
    let recipient = lease.reference();
    while blind.changed().await.is_ok() {
        let blind = *blind.borrow_and_update();
        let who = if *leader.borrow() { "leader" } else { "standby" };
        let notice = if blind {
            let note = format!(
                "{} ({who}): nearly all hosts of unrelated ClusterEndpoints fell silent together; the \
                 operator's own network is the suspect, and no host is taken out for silence until most \
                 answer again",
                lease.identity
            );
            Notice::new(true, "OperatorBlind", "Probe", note)
        } else {
            let note =
                format!("{} ({who}): hosts answer again; evictions are possible again", lease.identity);
            Notice::new(false, "OperatorSees", "Probe", note)
        };
        events.publish(&recipient, notice);
    }
}

async fn count_leadership(mut leader: watch::Receiver<bool>, metrics: Arc<Metrics>) {
    while leader.changed().await.is_ok() {
        metrics.leader(*leader.borrow_and_update());
    }
}
