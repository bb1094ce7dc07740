//! The prober as the rest of the operator sees it, against servers on loopback.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cep_core::address_policy::AddressPolicy;
use cep_core::api::v1beta1::ClusterEndpointSpec;
use cep_core::check::{Definition, Materials, parse};
use cep_core::guard::GuardConfig;
use cep_core::health::Verdict;
use cep_core::snapshot::{CepKey, Seed, Seeds, Snapshot};
use endpoints_operator::metrics::Metrics;
use endpoints_operator::prober::{Changed, Config, Prober, Wanted};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

fn start() -> (Prober, mpsc::UnboundedReceiver<Changed>) {
    let (changed, changes) = mpsc::unbounded_channel();
    let config = Config {
        policy: AddressPolicy::default(),
        guard: GuardConfig::default(),
        vantage: Vec::new(),
        nameservers: Vec::new(),
        max_in_flight: 64,
    };
    (Prober::start(config, Metrics::new("test"), changed, || {}).unwrap(), changes)
}

fn definition(spec: serde_json::Value) -> Arc<Definition> {
    let spec: ClusterEndpointSpec = serde_json::from_value(spec).unwrap();
    let policy = AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], deny: vec![] };
    Arc::new(parse("default", &spec, &Materials::new(), &policy).unwrap())
}

fn http(port: u16, path: &str) -> Arc<Definition> {
    definition(json!({
        "hosts": ["127.0.0.1"], "periodSeconds": 1,
        "ports": [{ "port": port, "httpGet": { "path": path } }],
    }))
}

fn key(name: &str) -> CepKey {
    CepKey::new("default", name)
}

/// A web server that counts its requests.
async fn web() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        }
    });
    (address, requests)
}

async fn until(prober: &Prober, name: &str, accept: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let snapshot = prober.snapshot(key(name)).await.unwrap();
        match snapshot {
            Some(snapshot) if accept(&snapshot) => return snapshot,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn verdict(snapshot: &Snapshot) -> Verdict {
    snapshot.endpoints[0].verdict
}

#[tokio::test]
async fn two_ceps_with_the_same_target_are_one_probe_a_period() {
    let (address, requests) = web().await;
    let (prober, mut changes) = start();
    let shared = http(address.port(), "/");
    for name in ["one", "two"] {
        prober.watch(key(name), shared.clone(), Seeds::default()).await.unwrap();
    }
    let first = changes.recv().await.unwrap();
    let second = changes.recv().await.unwrap();
    assert_ne!(first.key, second.key);
    until(&prober, "two", |s| verdict(s) == Verdict::Healthy).await;
    let begun = Instant::now();
    let before = requests.load(Ordering::Relaxed);
    while requests.load(Ordering::Relaxed) < before + 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert!(begun.elapsed() > Duration::from_millis(1900), "three probes within {:?}", begun.elapsed());
    assert_eq!(prober.overview(Wanted::default()).await.unwrap().0, 1);
}

#[tokio::test]
async fn another_check_of_the_same_place_goes_on_with_the_verdict_it_had() {
    let (address, _) = web().await;
    let (prober, _changes) = start();
    prober.watch(key("cep"), http(address.port(), "/old"), Seeds::default()).await.unwrap();
    let before = until(&prober, "cep", |s| verdict(s) == Verdict::Healthy).await;
    let after = prober.watch(key("cep"), http(address.port(), "/new"), Seeds::default()).await.unwrap();
    assert_eq!(verdict(&after), Verdict::Healthy);
    assert_eq!(after.endpoints[0].since, before.endpoints[0].since);
    assert_eq!(prober.overview(Wanted::default()).await.unwrap().0, 1, "the former target is still probed");
}

#[tokio::test]
async fn a_seeded_verdict_needs_its_threshold_and_an_unjudged_one_does_not() {
    // Nothing listens here: every probe fails.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let definition = http(port, "/");
    let (prober, _changes) = start();
    prober.watch(key("unjudged"), definition.clone(), Seeds::default()).await.unwrap();
    until(&prober, "unjudged", |s| verdict(s) == Verdict::Unhealthy).await;

    let (prober, mut changes) = start();
    let mut seeds = Seeds::default();
    let healthy = Seed { verdict: Verdict::Healthy, since: None, cause: None };
    seeds.insert(None, port, "127.0.0.1".parse().unwrap(), healthy);
    let begun = Instant::now();
    let snapshot = prober.watch(key("seeded"), definition, seeds).await.unwrap();
    assert_eq!(verdict(&snapshot), Verdict::Healthy);
    changes.recv().await.unwrap();
    until(&prober, "seeded", |s| verdict(s) == Verdict::Unhealthy).await;
    assert!(begun.elapsed() > Duration::from_millis(1900), "evicted after {:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_forgotten_is_not_probed_any_more() {
    let (address, requests) = web().await;
    let (prober, mut changes) = start();
    prober.watch(key("cep"), http(address.port(), "/"), Seeds::default()).await.unwrap();
    changes.recv().await.unwrap();
    prober.forget(key("cep"));
    assert_eq!(prober.snapshot(key("cep")).await.unwrap(), None);
    assert_eq!(prober.overview(Wanted::default()).await.unwrap().0, 0);
    let seen = requests.load(Ordering::Relaxed);
    // Longer than a period: only time can show that nothing comes.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(requests.load(Ordering::Relaxed), seen);
}

#[tokio::test]
async fn a_port_without_probe_is_served_at_once() {
    let (prober, _changes) = start();
    let unprobed = definition(json!({ "hosts": ["127.0.0.1"], "ports": [{ "port": 9 }] }));
    let snapshot = prober.watch(key("cep"), unprobed, Seeds::default()).await.unwrap();
    assert_eq!(verdict(&snapshot), Verdict::Healthy);
    assert_eq!(prober.overview(Wanted::default()).await.unwrap().0, 0);
}
