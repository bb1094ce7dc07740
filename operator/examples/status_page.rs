//! Serves the status page with made-up data, for people who work on it.
//!
//! `cargo run -p endpoints-operator --example status_page -- [SCENE] [PORT]`, then open the address that it
//! prints. Scenes: `mixed` (the default), `healthy`, `unhealthy`, `blind`, `empty`, `standby`, `crowd`
//! (2 000 endpoints) and `huge` (30 000 endpoints).

use std::sync::Arc;
use std::time::Duration;

use cep_core::overview::{CepOverview, EndpointOverview, LastProbe, Overview};
use endpoints_operator::admin::{AdminState, OverviewFilter, Readiness, StatusSource, serve};
use endpoints_operator::metrics::Metrics;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

/// What went wrong, as (reason, message, outcome).
const TROUBLES: [(&str, &str, &str); 6] = [
    ("ConnectionRefused", "the host answered with a reset: nothing listens on the port", "failure"),
    ("Timeout", "no complete answer within 1 s", "failure"),
    ("UnexpectedStatus", "the status is 503, expected is one of 200-399", "failure"),
    ("TlsFailed", "the certificate expired 2026-03-01 (verify it with `openssl s_client`)", "failure"),
    ("NotResolved", "the DNS name has no address; the resolver says NXDOMAIN", "unknown"),
    ("Misconfigured", "the password is wrong: WRONGPASS invalid username-password pair", "unknown"),
];

const NAMES: [&str; 8] = ["wordpress", "orders-db", "redis", "kafka", "ldap", "mail", "erp", "billing-api"];
const NAMESPACES: [&str; 4] = ["default", "shop", "payments", "team-with-a-rather-long-name"];

struct Scene {
    name: String,
    started: Timestamp,
}

impl Scene {
    /// (objects, hosts of each, troubles among 100 of the hosts)
    fn size(&self) -> (usize, usize, usize) {
        match self.name.as_str() {
            "healthy" => (8, 3, 0),
            "unhealthy" => (4, 3, 100),
            "empty" => (0, 0, 0),
            "crowd" => (500, 4, 3),
            "huge" => (10_000, 3, 1),
            _ => (12, 4, 35),
        }
    }

    fn cep(&self, n: usize, now: Timestamp) -> CepOverview {
        let (_, hosts, troubles) = self.size();
        let name = NAMES[n % NAMES.len()];
        let name = if n < NAMES.len() { name.to_owned() } else { format!("{name}-{n}") };
        // Every third object is all right in every scene but one.
        let troubles = if n % 3 == 1 && troubles < 100 { 0 } else { troubles };
        CepOverview {
            namespace: NAMESPACES[n % NAMESPACES.len()].to_owned(),
            name,
            endpoints: (0..hosts).map(|host| endpoint(n, host, troubles, now)).collect(),
        }
    }
}

fn endpoint(n: usize, host: usize, troubles: usize, now: Timestamp) -> EndpointOverview {
    let dice = mixed(n, host);
    let trouble = (dice % 100 < troubles).then(|| TROUBLES[dice / 100 % TROUBLES.len()]);
    let verdict = match trouble {
        None => "Healthy",
        Some((_, _, "failure")) => "Unhealthy",
        Some(_) => "Unknown",
    };
    let ago = |seconds: usize| now.saturating_sub(SignedDuration::from_secs(seconds as i64)).unwrap_or(now);
    let period = [1, 5, 10, 30][dice % 4];
    let phase = (now.as_second() as usize + dice) % period;
    let in_doubt = trouble.is_none() && troubles > 0 && dice.is_multiple_of(17);
    let address = match (trouble, host % 3) {
        (Some(("NotResolved", ..)), _) => None,
        (_, 2) => Some(format!("2001:db8:{:x}::{:x}", n % 65536, host + 1)),
        _ => Some(format!("172.18.{}.{}", n % 256, 10 + host)),
    };
    let by_name = host % 3 == 1 || address.is_none();
    EndpointOverview {
        port: ["https", "postgres", "redis"][n % 3].to_owned(),
        port_number: [443, 5432, 6379][n % 3],
        target_port: [38443, 5432, 6379][n % 3],
        host: match &address {
            Some(address) if !by_name => address.clone(),
            _ => format!("node-{host}.{}.example.org", NAMES[n % NAMES.len()]),
        },
        address,
        check: ["https", "tcp", "redis"][n % 3].to_owned(),
        verdict: verdict.to_owned(),
        // One object keeps its unhealthy hosts in, as a panic threshold does.
        served: verdict == "Healthy" || n == 5,
        since: ago(60 + dice * 37 % 900_000),
        reason: trouble.map(|(reason, ..)| reason.to_owned()),
        message: trouble.map(|(_, message, _)| message.to_owned()),
        last: Some(LastProbe {
            at: ago(phase),
            outcome: trouble.map_or(if in_doubt { "failure" } else { "success" }, |t| t.2).to_owned(),
            reason: trouble.map(|t| t.0).or(in_doubt.then_some("Timeout")).map(str::to_owned),
            message: trouble
                .map(|t| t.1)
                .or(in_doubt.then_some("no complete answer within 1 s"))
                .map(str::to_owned),
            duration_ms: match trouble {
                Some(("Timeout", ..)) => 1000.3,
                _ => 0.2 + (dice % 500) as f64 / 7.0,
            },
        }),
        against: u32::from(in_doubt) * 2,
        threshold: 3,
        next_probe: (!dice.is_multiple_of(29)).then(|| {
            let left = SignedDuration::from_secs((period - phase) as i64);
            now.saturating_add(left).unwrap_or(now)
        }),
        period_seconds: period as u64,
    }
}

/// A number that looks like chance and is the same each time.
fn mixed(n: usize, host: usize) -> usize {
    let x = (n * 31 + host + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33) % 1_000_000
}

impl StatusSource for Scene {
    fn overview(&self, filter: OverviewFilter) -> BoxFuture<'_, Overview> {
        let now = Timestamp::now();
        let mut ceps: Vec<_> = (0..self.size().0).map(|n| self.cep(n, now)).collect();
        ceps.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        ceps.retain(|cep| filter.admits(&cep.namespace, &cep.name));
        let overview = Overview {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: "endpoints-operator-7d9c5b8f6d-x2x9q".to_owned(),
            leader: self.name != "standby",
            blind: self.name == "blind",
            started: self.started,
            now,
            targets: ceps.iter().map(|cep| cep.endpoints.len()).sum(),
            ceps,
        };
        Box::pin(async { overview })
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "mixed".to_owned());
    let port = args.next().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let started = Timestamp::now().saturating_sub(SignedDuration::from_hours(53)).unwrap_or(Timestamp::now());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}/", listener.local_addr()?);

    let readiness = Readiness::default();
    let ticking = readiness.clone();
    tokio::spawn(async move {
        loop {
            ticking.scheduler_tick();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let state = AdminState::new(
        Metrics::new(env!("CARGO_PKG_VERSION")),
        readiness,
        Arc::new(Scene { name, started }),
    );
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    serve(listener, state, interrupted).await
}
