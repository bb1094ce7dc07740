//! Over real connections, against a made-up source.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cep_core::overview::CepOverview;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;

/// Shows two objects; counts how often it is asked.
#[derive(Default)]
struct Fake {
    asked: AtomicUsize,
    /// How long it takes to answer.
    delay: Duration,
    /// Objects besides the two.
    more: usize,
}

impl StatusSource for Fake {
    fn overview(&self, filter: OverviewFilter) -> BoxFuture<'_, Overview> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            let mut ceps = vec![cep("default", "wordpress"), cep("shop", "redis")];
            ceps.extend((0..self.more).map(|n| cep("many", &format!("{n:0>200}"))));
            ceps.retain(|cep| filter.admits(&cep.namespace, &cep.name));
            Overview {
                version: "1.2.3".to_owned(),
                identity: "pod-0".to_owned(),
                leader: true,
                blind: false,
                started: jiff::Timestamp::UNIX_EPOCH,
                now: jiff::Timestamp::UNIX_EPOCH,
                targets: 2,
                ceps,
            }
        })
    }
}

fn cep(namespace: &str, name: &str) -> CepOverview {
    CepOverview { namespace: namespace.to_owned(), name: name.to_owned(), endpoints: vec![] }
}

struct Server {
    address: std::net::SocketAddr,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    source: Arc<Fake>,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(source: Fake, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (metrics, source) = (Metrics::new("1.2.3"), Arc::new(source));
        let readiness = Readiness::new(Duration::from_millis(200));
        let state = AdminState::new(metrics.clone(), readiness.clone(), source.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(async move {
            server::run(listener, router(state), limits, async { drop(stopped.await) }).await;
        });
        Self { address, readiness, metrics, source, stop, ended }
    }

    async fn plain() -> Self {
        Self::start(Fake::default(), Limits::default()).await
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.send(&format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n")).await).await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    async fn of(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (headers, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no header: {text:?}"));
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, headers: headers.to_lowercase(), body: body.to_owned() }
    }
}

/// Reads until the server closes; says how long that took.
async fn closed_after(mut stream: TcpStream) -> Duration {
    let start = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    start.elapsed()
}

#[tokio::test]
async fn alive_while_the_scheduler_advances() {
    let server = Server::plain().await;
    server.readiness.scheduler_tick();
    let answer = server.get("/livez").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = server.get("/livez").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.starts_with("the scheduler has not advanced for 0."), "{}", answer.body);
    assert_eq!(answer.body.lines().count(), 1);
}

#[tokio::test]
async fn ready_when_the_gates_are_open() {
    let server = Server::plain().await;
    let caches = server.readiness.gate("caches", "watch caches not synced");
    let prober = server.readiness.gate("prober", "the prober has not started");
    let answer = server.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "caches: watch caches not synced\nprober: the prober has not started\n");
    caches.open();
    prober.open();
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn metrics_are_openmetrics() {
    let server = Server::plain().await;
    server.metrics.blind(true);
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains(&format!("content-type: {}", metrics::CONTENT_TYPE)), "{answer:?}");
    assert!(answer.body.contains("endpoints_operator_blind 1\n"));
    assert!(answer.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn overview_by_namespace_and_name() {
    let server = Server::plain().await;
    for (query, expected) in [
        ("", vec!["wordpress", "redis"]),
        ("?namespace=shop", vec!["redis"]),
        ("?namespace=shop&name=wordpress", vec![]),
        ("?name=wordpress", vec!["wordpress"]),
    ] {
        let answer = server.get(&format!("/api/v1/overview{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
        assert!(answer.headers.contains("content-type: application/json"));
        let overview: Overview = serde_json::from_str(&answer.body).unwrap();
        let names: Vec<&str> = overview.ceps.iter().map(|cep| cep.name.as_str()).collect();
        assert_eq!(names, expected, "{query}");
    }
    assert_eq!(server.get("/api/v1/overview?ns=shop").await.status, 400, "a typo must not show everything");
}

#[tokio::test]
async fn many_readers_cost_one_rendering() {
    let server = Server::start(Fake { more: 2000, ..Fake::default() }, Limits::default()).await;
    let answers = futures::future::join_all((0..30).map(|_| server.get("/api/v1/overview"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let overview: Overview = serde_json::from_str(&answers[29].body).unwrap();
    assert_eq!(overview.ceps.len(), 2002);
    let asked = server.source.asked.load(Ordering::SeqCst);
    assert!(asked <= 3, "asked {asked} times");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_answer_is_told() {
    let overviews = Overviews::new(Arc::new(Fake { delay: Duration::from_secs(60), ..Fake::default() }));
    let state = AdminState {
        metrics: Metrics::new("1"),
        readiness: Readiness::default(),
        overviews: Arc::new(overviews),
    };
    let answer = overview::show(State(state), axum::extract::Query(OverviewFilter::default())).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_page_and_its_parts_are_locked_down() {
    let server = Server::plain().await;
    for (path, content_type) in
        [("/", "text/html"), ("/status_page.css", "text/css"), ("/status_page.js", "text/javascript")]
    {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.headers.contains(&format!("content-type: {content_type}")), "{path}");
    }
    for path in ["/", "/api/v1/overview", "/metrics", "/nowhere"] {
        let headers = server.get(path).await.headers;
        for part in ["default-src 'none'", "frame-ancestors 'none'", "nosniff", "x-frame-options: deny"] {
            assert!(headers.contains(part), "{path} lacks {part}:\n{headers}");
        }
    }
    let page = server.get("/").await.body;
    for forbidden in ["http://", "https://", "<style", "style=", "onclick", "<script>"] {
        assert!(!page.contains(forbidden), "the page contains {forbidden}");
    }
    let script = server.get("/status_page.js").await.body;
    for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!script.contains(forbidden), "the script uses {forbidden}");
    }
}

#[tokio::test]
async fn nothing_else_is_served() {
    let server = Server::plain().await;
    assert_eq!(server.get("/etc/passwd").await.status, 404);
    assert_eq!(server.get("/../../etc/passwd").await.status, 404);
    let stream = server.send("POST /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(Answer::of(stream).await.status, 405);
    let long = format!("GET / HTTP/1.0\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let stream = server.send(&long).await;
    assert!(closed_after(stream).await < Duration::from_secs(5));
}

#[tokio::test]
async fn a_client_that_never_asks_is_dropped() {
    let limits = Limits { header: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(Fake::default(), limits).await;
    let stream = server.send("GET / HT").await;
    let took = closed_after(stream).await;
    assert!((150..3000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn old_connections_end() {
    let limits = Limits { age: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(Fake::default(), limits).await;
    let stream = server.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let took = closed_after(stream).await;
    assert!((150..3000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn a_flood_of_idle_clients_does_not_shut_others_out() {
    let limits = Limits { connections: 4, header: Duration::from_secs(60), ..Limits::default() };
    let server = Server::start(Fake::default(), limits).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let answer = tokio::time::timeout(Duration::from_secs(3), server.get("/livez")).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(closed_after(idle.remove(0)).await < Duration::from_secs(1), "the oldest gives way");
}

#[tokio::test]
async fn a_client_that_never_reads_holds_nothing_for_long() {
    let limits =
        Limits { age: Duration::from_millis(100), farewell: Duration::from_millis(100), ..Limits::default() };
    let server = Server::start(Fake { more: 100_000, ..Fake::default() }, limits).await;
    let mut greedy = Vec::new();
    for _ in 0..8 {
        greedy.push(server.send("GET /api/v1/overview HTTP/1.1\r\nHost: x\r\n\r\n").await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = tokio::time::timeout(Duration::from_secs(3), server.get("/api/v1/overview?name=redis"));
    assert_eq!(answer.await.unwrap().status, 200);
}

#[tokio::test]
async fn shutdown_lets_requests_end_and_waits_for_nobody_else() {
    let source = Fake { delay: Duration::from_millis(300), ..Fake::default() };
    let server = Server::start(source, Limits::default()).await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    let busy = server.send("GET /api/v1/overview HTTP/1.1\r\nHost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.send(()).unwrap();
    assert_eq!(Answer::of(busy).await.status, 200);
    tokio::time::timeout(Duration::from_secs(2), server.ended).await.unwrap().unwrap();
    assert!(closed_after(idle).await < Duration::from_secs(1));
    assert!(TcpStream::connect(server.address).await.is_err());
}
