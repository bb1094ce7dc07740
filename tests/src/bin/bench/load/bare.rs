//! What a probe costs without a prober: connect and close, or one GET on a new connection.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;

use super::{Demand, Kind, report};

/// Connections at a time when there is no rate to keep.
const BUSY: u32 = 64;

#[derive(Debug, Default)]
struct Tally {
    successes: AtomicU64,
    failures: AtomicU64,
}

/// One probe of the bare kind.
#[derive(Clone, Debug)]
enum Probe {
    Connect,
    /// With the socket options of the operator's TCP probe: the rest is the prober's own work.
    ConnectReset,
    Get(reqwest::Client),
}

impl Probe {
    async fn run(&self, address: SocketAddr) -> bool {
        match self {
            Probe::Connect => TcpStream::connect(address).await.is_ok(),
            Probe::ConnectReset => {
                let Ok(socket) = TcpSocket::new_v4() else { return false };
                let options = SockRef::from(&socket);
                let set = options.set_tcp_quickack(false).and(options.set_linger(Some(Duration::ZERO)));
                set.is_ok() && socket.connect(address).await.is_ok()
            }
            // The body stays unread: reading it would only make this dearer.
            Probe::Get(client) => {
                let response = client.get(format!("http://{address}/")).send().await;
                response.is_ok_and(|response| response.status().is_success())
            }
        }
    }
}

pub(super) fn run(demand: Demand, reset: bool) -> Result<()> {
    let tally = Arc::new(Tally::default());
    let probe = match (demand.kind, reset) {
        (Kind::Tcp, false) => Probe::Connect,
        (Kind::Tcp, true) => Probe::ConnectReset,
        (Kind::Http, _) => Probe::Get(
            reqwest::Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(1)).build()?,
        ),
    };
    let counts = tally.clone();
    std::thread::Builder::new().name("bare".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if demand.is_unbounded() {
            LocalSet::new().block_on(&runtime, busy(demand, probe, &tally));
        } else {
            runtime.block_on(paced(demand, &probe, &tally));
        }
        anyhow::Ok(())
    })?;
    report(move || {
        (counts.successes.load(Ordering::Relaxed), counts.failures.load(Ordering::Relaxed), String::new())
    })
}

impl Tally {
    fn count(&self, success: bool) {
        let counter = if success { &self.successes } else { &self.failures };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// As many probes a second as the demand says, one after the other: what is due when the runtime's timer
/// (it counts milliseconds) fires is done at once, which is the cheapest way to keep a rate.
async fn paced(demand: Demand, probe: &Probe, tally: &Tally) {
    let start = Instant::now();
    let spacing = demand.period().as_secs_f64() / f64::from(demand.targets);
    let mut done = 0_u64;
    loop {
        while start.elapsed().as_secs_f64() >= done as f64 * spacing {
            tally.count(probe.run(demand.address((done % u64::from(demand.targets)) as u32)).await);
            done += 1;
        }
        tokio::time::sleep_until((start + Duration::from_secs_f64(done as f64 * spacing)).into()).await;
    }
}

/// A number of loops without a pause.
async fn busy(demand: Demand, probe: Probe, tally: &Arc<Tally>) {
    let next = Rc::new(Cell::new(0));
    let mut loops = Vec::new();
    for _ in 0..BUSY {
        let (probe, next, tally) = (probe.clone(), next.clone(), tally.clone());
        loops.push(tokio::task::spawn_local(async move {
            loop {
                let target = next.get();
                next.set((target + 1) % demand.targets);
                tally.count(probe.run(demand.address(target)).await);
            }
        }));
    }
    for endless in loops {
        let _ = endless.await;
    }
}
