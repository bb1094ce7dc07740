//! The prober: one task that owns schedule and health, and the probes it runs.
//!
//! It lives on a thread and a runtime of its own, so that nothing the rest of the operator does (JSON,
//! watches, a slow API server) can make a probe late. Others talk to it through [`Prober`]; what it
//! finds out leaves as [`Changed`] messages and as immutable snapshots.

mod connect;
mod deadlines;
pub mod dns;
mod expand;
pub mod http;
mod http1;
mod judge;
mod membership;
mod names;
mod overview;
mod owner;
mod phases;
mod probe;
mod settle;
mod suspects;
pub mod tcp;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cep_core::address_policy::AddressPolicy;
use cep_core::check::Definition;
use cep_core::guard::GuardConfig;
use cep_core::overview::CepOverview;
use cep_core::snapshot::{CepKey, Seeds, Snapshot, Told};
use tokio::sync::{mpsc, oneshot, watch};

pub use phases::Reached;
pub use probe::{Probed, once};

use crate::metrics::Metrics;

/// How the prober works.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which addresses of DNS names may be probed; literal ones are checked before they come here.
    pub policy: AddressPolicy,
    /// When failures are held against the operator instead of the hosts.
    pub guard: GuardConfig,
    /// TCP targets that are known to answer while the operator's network works.
    pub vantage: Vec<SocketAddr>,
    /// DNS servers; empty: those of /etc/resolv.conf.
    pub nameservers: Vec<SocketAddr>,
    /// Probes at a time, bounded by file descriptors.
    pub max_in_flight: usize,
}

/// A cep whose snapshot has changed in a way worth acting on.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Which.
    pub key: CepKey,
    /// When the deciding outcome arrived, for measuring how long the write takes.
    pub at: Instant,
}

/// What the rest of the operator holds of the prober. Cheap to clone; when the last one is dropped
/// the prober stops.
#[derive(Clone, Debug)]
pub struct Prober {
    commands: mpsc::UnboundedSender<Command>,
    blind: watch::Receiver<bool>,
}

/// Which ceps an overview is wanted of; by default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only of this namespace.
    pub namespace: Option<String>,
    /// Only of this name.
    pub name: Option<String>,
}

#[derive(Debug)]
enum Command {
    Watch { key: CepKey, definition: Arc<Definition>, seeds: Seeds, reply: oneshot::Sender<Arc<Snapshot>> },
    Settle { key: CepKey, told: Vec<Told>, reply: oneshot::Sender<Option<Arc<Snapshot>>> },
    Forget { key: CepKey },
    Snapshot { key: CepKey, reply: oneshot::Sender<Option<Arc<Snapshot>>> },
    Overview { wanted: Wanted, reply: oneshot::Sender<(usize, Vec<CepOverview>)> },
}

/// The prober's thread has ended, which only happens at shutdown or after a panic in it.
#[derive(Debug, thiserror::Error)]
#[error("the prober has stopped")]
pub struct Stopped;

impl Prober {
    /// Starts the prober on its own thread. `changed` gets every change; `tick` is called whenever the
    /// schedule has advanced, at least once a second while all is well.
    ///
    /// # Errors
    /// When the thread, its runtime or the resolver cannot be made.
    pub fn start(
        config: Config,
        metrics: Arc<Metrics>,
        changed: mpsc::UnboundedSender<Changed>,
        tick: impl Fn() + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (blind_tx, blind) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let resolver = {
            let _guard = runtime.enter();
            dns::Resolver::new(&config.nameservers)?
        };
        std::thread::Builder::new().name("prober".into()).spawn(move || {
            let owner = owner::Owner::new(config, resolver, metrics, changed, blind_tx);
            runtime.block_on(tokio::task::unconstrained(owner.run(inbox, tick)));
        })?;
        Ok(Self { commands, blind })
    }

    /// Probes a cep by this definition from now on; says what is known of it already. A definition
    /// equal to the former one changes nothing. `seeds` serve for targets that were never judged.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn watch(
        &self,
        key: CepKey,
        definition: Arc<Definition>,
        seeds: Seeds,
    ) -> Result<Arc<Snapshot>, Stopped> {
        self.ask(|reply| Command::Watch { key, definition, seeds, reply }).await
    }

    /// Takes over since when and why verdicts hold, where they are the same here; `None` if the cep is
    /// not probed.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn settle(&self, key: CepKey, told: Vec<Told>) -> Result<Option<Arc<Snapshot>>, Stopped> {
        self.ask(|reply| Command::Settle { key, told, reply }).await
    }

    /// Stops probing a cep.
    pub fn forget(&self, key: CepKey) {
        // A prober that has stopped probes nothing.
        let _ = self.commands.send(Command::Forget { key });
    }

    /// What is known of a cep; `None` if it is not probed.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn snapshot(&self, key: CepKey) -> Result<Option<Arc<Snapshot>>, Stopped> {
        self.ask(|reply| Command::Snapshot { key, reply }).await
    }

    /// The number of distinct targets, and the wanted ceps in order.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn overview(&self, wanted: Wanted) -> Result<(usize, Vec<CepOverview>), Stopped> {
        self.ask(|reply| Command::Overview { wanted, reply }).await
    }

    /// Whether the operator doubts its own eyes.
    pub fn blind(&self) -> watch::Receiver<bool> {
        self.blind.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// How many probes may be in flight, from the limit on file descriptors: most of them, less what
/// watches, the admin server and files need.
pub fn max_in_flight(file_descriptors: u64) -> usize {
    usize::try_from(file_descriptors.saturating_sub(256)).unwrap_or(usize::MAX).clamp(64, 16_384)
}

/// The longest time between two ticks while nothing is due.
const IDLE_TICK: Duration = Duration::from_secs(1);
