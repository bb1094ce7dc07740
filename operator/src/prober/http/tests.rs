use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use cep_core::address_policy::AddressPolicy;
use cep_core::check::{Cadence, Check, Materials, parse};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::prober::phases::Phases;

/// An `httpGet` as a spec would have it.
pub(in super::super) fn check(get: Value) -> HttpCheck {
    let spec = json!({"hosts": ["192.0.2.1"], "ports": [{"port": 80, "httpGet": get}]});
    let spec = serde_json::from_value(spec).unwrap();
    let definition = parse("test", &spec, &Materials::new(), &AddressPolicy::default()).unwrap();
    match &definition.ports[0].check {
        Some(Check::Http(check)) => (**check).clone(),
        other => panic!("{other:?}"),
    }
}

pub(in super::super) fn target(address: SocketAddr, name: Option<&str>, check: &Arc<HttpCheck>) -> Target {
    let second = Duration::from_secs(1);
    Target {
        address,
        name: name.map(Arc::from),
        check: Check::Http(check.clone()),
        timeout: second,
        cadence: Cadence { period: second, retry: second },
    }
}

/// Probes once; a probe that hangs fails its test.
pub(in super::super) async fn probe(address: SocketAddr, name: Option<&str>, check: HttpCheck) -> Outcome {
    let check = Arc::new(check);
    let prepared = Prepared::new(&target(address, name, &check), &check, &Contexts::new()).unwrap();
    timeout(Duration::from_secs(10), prepared.probe(&Phases::start())).await.expect("the probe hangs")
}

/// Up to the empty line.
pub(in super::super) async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8(request).unwrap()
}

struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Reads a request, then does as the script says.
    async fn with<F, D>(script: F) -> Self
    where
        F: Fn(String, TcpStream) -> D + Send + Sync + 'static,
        D: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (script, seen) = (script.clone(), seen.clone());
                tokio::spawn(async move {
                    let request = read_request(&mut stream).await;
                    seen.lock().unwrap().push(request.clone());
                    script(request, stream).await;
                });
            }
        });
        Self { address, requests }
    }

    /// Answers every request in the same way and closes.
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::with(move |_, mut stream| {
            let answer = answer.clone();
            async move {
                let _ = stream.write_all(&answer).await;
            }
        })
        .await
    }

    /// Answers by path; unknown ones with 404.
    async fn routing(routes: Vec<(&'static str, String)>) -> Self {
        let routes = Arc::new(routes);
        Self::with(move |request, mut stream| {
            let routes = routes.clone();
            async move {
                let path = request.split(' ').nth(1).unwrap_or_default();
                let answer = routes.iter().find(|(route, _)| *route == path);
                let answer = answer.map_or("HTTP/1.1 404 Not Found\r\n\r\n", |(_, answer)| answer);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
        .await
    }

    async fn probe(&self, get: Value) -> Outcome {
        probe(self.address, None, check(get)).await
    }

    fn paths(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|request| request.split(' ').nth(1).unwrap().to_owned()).collect()
    }
}

/// A port that is taken, and on which nobody listens.
fn closed_port() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn statuses() {
    for (status, expected, message) in [
        (200, json!([]), None),
        (399, json!([]), None),
        (404, json!([]), Some("status 404, expected 200-399")),
        (503, json!([]), Some("status 503, expected 200-399")),
        (401, json!(["401", "200-299"]), None),
        (204, json!(["401", "200-299"]), None),
        (302, json!(["401", "200-299"]), Some("status 302, expected 401, 200-299")),
    ] {
        let server = Server::answering(format!("HTTP/1.1 {status} Word\r\n\r\n")).await;
        let outcome = server.probe(json!({"expectedStatuses": expected})).await;
        match message {
            None => assert_eq!(outcome, Outcome::Success, "{status}"),
            Some(message) => assert_eq!(outcome, Outcome::failure(Reason::UnexpectedStatus, message)),
        }
    }
}

#[test]
fn request_bytes() {
    let version = env!("CARGO_PKG_VERSION");
    let user_agent = format!("User-Agent: endpoints-operator/{version}\r\n");
    let request = |address: &str, name, get| {
        let check = Arc::new(check(get));
        let target = target(address.parse().unwrap(), name, &check);
        let prepared = Prepared::new(&target, &check, &Contexts::new()).unwrap();
        String::from_utf8(prepared.request.to_vec()).unwrap()
    };
    let plain = |path: &str, host: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{user_agent}Accept: */*\r\nConnection: close\r\n\r\n")
    };
    for (address, name, get, expected) in [
        ("192.0.2.1:80", None, json!({}), plain("/", "192.0.2.1")),
        ("192.0.2.1:8080", None, json!({"path": "/a?b=c"}), plain("/a?b=c", "192.0.2.1:8080")),
        ("192.0.2.1:443", None, json!({"scheme": "HTTPS"}), plain("/", "192.0.2.1")),
        ("192.0.2.1:80", None, json!({"scheme": "HTTPS"}), plain("/", "192.0.2.1:80")),
        ("[2001:db8::1]:80", None, json!({}), plain("/", "[2001:db8::1]")),
        ("[2001:db8::1]:81", None, json!({}), plain("/", "[2001:db8::1]:81")),
        ("192.0.2.1:8080", Some("db.example.org"), json!({}), plain("/", "db.example.org:8080")),
        ("192.0.2.1:8080", Some("db.example.org"), json!({"host": "shop"}), plain("/", "shop")),
        (
            "192.0.2.1:80",
            None,
            json!({"host": "shop", "httpHeaders": [{"name": "host", "value": "other:1"}]}),
            plain("/", "other:1"),
        ),
    ] {
        assert_eq!(request(address, name, get), expected);
    }
    let headers = json!({"httpHeaders": [
        {"name": "X-A", "value": "1"},
        {"name": "user-agent", "value": "me"},
        {"name": "ACCEPT", "value": ""},
        {"name": "X-A", "value": "2"},
        {"name": "X-Empty", "value": ""},
    ]});
    assert_eq!(
        request("192.0.2.1:80", None, headers),
        "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\nConnection: close\r\nX-A: 1\r\nuser-agent: me\r\nX-A: 2\r\nX-Empty: \r\n\r\n"
    );
}

#[tokio::test]
async fn the_request_arrives() {
    let server = Server::answering("HTTP/1.1 200 OK\r\n\r\n").await;
    assert_eq!(server.probe(json!({"path": "/health", "host": "shop"})).await, Outcome::Success);
    let requests = server.requests.lock().unwrap().clone();
    assert!(requests[0].starts_with("GET /health HTTP/1.1\r\nHost: shop\r\n"), "{requests:?}");
}

#[tokio::test]
async fn bodies() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nall i\r\n6\r\ns well\r\n0\r\n\r\n";
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well",
        "HTTP/1.0 200 OK\r\n\r\nall is well",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well",
        chunked,
    ] {
        let server = Server::answering(answer).await;
        assert_eq!(server.probe(json!({"expectedBody": "is well"})).await, Outcome::Success, "{answer}");
        assert_eq!(
            server.probe(json!({"expectedBody": "is ill"})).await,
            Outcome::failure(Reason::UnexpectedBody, "expectedBody is not in the first 10 KiB of the body")
        );
        // The status comes first.
        let both = json!({"expectedBody": "is ill", "expectedStatuses": ["201"]});
        assert_eq!(
            server.probe(both).await,
            Outcome::failure(Reason::UnexpectedStatus, "status 200, expected 201")
        );
    }
}

#[tokio::test]
async fn one_byte_at_a_time() {
    let answer = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n";
    let server = Server::with(move |_, mut stream| async move {
        stream.set_nodelay(true).unwrap();
        for byte in answer {
            // The probe has hung up when it knows enough.
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.probe(json!({"expectedBody": "ready"})).await, Outcome::Success);
}

#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let server = Server::with(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 1000]).await.is_ok() {}
    })
    .await;
    assert_eq!(server.probe(json!({})).await, Outcome::Success);
    let outcome = server.probe(json!({"expectedBody": "ready"})).await;
    assert_eq!(outcome.cause().unwrap().reason, Reason::UnexpectedBody);
}

#[tokio::test]
async fn the_verdict_does_not_wait_for_the_body() {
    let server = Server::with(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nready").await;
        std::future::pending().await
    })
    .await;
    assert_eq!(server.probe(json!({})).await, Outcome::Success);
    assert_eq!(server.probe(json!({"expectedBody": "ready"})).await, Outcome::Success);
}

#[tokio::test]
async fn a_server_that_never_answers_is_left_to_the_callers_timeout() {
    let server = Server::with(|_, stream| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    let check = Arc::new(check(json!({})));
    let prepared = Prepared::new(&target(server.address, None, &check), &check, &Contexts::new()).unwrap();
    assert!(timeout(Duration::from_millis(100), prepared.probe(&Phases::start())).await.is_err());
}

#[tokio::test]
async fn resets_and_silent_closes() {
    let reset = Outcome::failure(Reason::ConnectionReset, "connection reset");
    for answer in [&b""[..], b"HTTP/1.1 200 OK\r\n"] {
        let server = Server::with(move |_, mut stream| async move {
            let _ = stream.write_all(answer).await;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        })
        .await;
        assert_eq!(server.probe(json!({})).await, reset);
    }
    let server = Server::answering("").await;
    assert_eq!(
        server.probe(json!({})).await,
        Outcome::failure(Reason::ConnectionReset, "the server closed the connection without an answer")
    );
}

#[tokio::test]
async fn an_answer_to_a_request_that_was_not_read_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\n\r\n").await;
        }
    });
    assert_eq!(
        probe(address, None, check(json!({}))).await,
        Outcome::failure(Reason::UnexpectedStatus, "status 503, expected 200-399")
    );
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_error() {
    let flood = format!("HTTP/1.1 200 OK\r\n{}", "X-Filler: yes\r\n".repeat(10_000));
    for (answer, message) in [
        ("<html>hello</html>", "the answer is not HTTP/1.x"),
        ("\u{15}\u{3}\u{1}\0\u{2}\u{2}\u{46}", "the server speaks TLS; set scheme to HTTPS"),
        (&flood, "the response headers are larger than 64 KiB"),
    ] {
        let server = Server::answering(answer).await;
        assert_eq!(server.probe(json!({})).await, Outcome::failure(Reason::ProtocolError, message));
    }
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let (_held, address) = closed_port();
    let refused = Outcome::failure(Reason::ConnectionRefused, "connection refused");
    assert_eq!(probe(address, None, check(json!({}))).await, refused);
}

#[tokio::test]
async fn redirects_are_judged_unless_they_are_to_be_followed() {
    let server = Server::routing(vec![("/", redirect("/b"))]).await;
    assert_eq!(server.probe(json!({})).await, Outcome::Success);
    assert_eq!(server.paths(), ["/"]);
}

#[tokio::test]
async fn redirects_on_the_same_host_are_followed() {
    let ok = || "HTTP/1.1 200 OK\r\n\r\nready".to_owned();
    let other = Server::routing(vec![("/elsewhere", ok())]).await;
    let port = other.address.port();
    let (_held, closed) = closed_port();
    let server = Server::routing(vec![
        ("/", redirect("b/c?d=e#f")),
        ("/b/c?d=e", redirect("../g")),
        ("/g", redirect(&format!("//shop.example.org:{}/h", closed.port()))),
        ("/h", redirect(&format!("http://db.example.org:{port}/elsewhere"))),
        ("/ip", redirect(&format!("http://127.0.0.1:{port}/elsewhere"))),
        ("/broken", redirect("http://[")),
        ("/bad", redirect("/missing")),
        ("/nowhere", "HTTP/1.1 302 Found\r\n\r\n".to_owned()),
    ])
    .await;
    let follow = |path: &str| {
        let get = json!({"path": path, "host": format!("shop.example.org:{}", server.address.port()),
            "followRedirects": true, "expectedBody": "ready", "expectedStatuses": ["200"]});
        probe(server.address, Some("db.example.org"), check(get))
    };
    assert_eq!(follow("/").await, Outcome::failure(Reason::ConnectionRefused, "connection refused"));
    assert_eq!(server.paths(), ["/", "/b/c?d=e", "/g"]);
    assert_eq!(follow("/h").await, Outcome::Success);
    assert_eq!(follow("/ip").await, Outcome::Success);
    let hosts: Vec<_> =
        other.requests.lock().unwrap().iter().map(|r| r.lines().nth(1).unwrap().to_owned()).collect();
    assert_eq!(hosts, [format!("Host: db.example.org:{port}"), format!("Host: 127.0.0.1:{port}")]);
    for (path, reason, message) in [
        ("/bad", Reason::UnexpectedStatus, "status 404, expected 200"),
        ("/nowhere", Reason::UnexpectedStatus, "status 302, expected 200"),
        ("/broken", Reason::RedirectFailed, "the location of the redirect is not a URL"),
    ] {
        assert_eq!(follow(path).await, Outcome::failure(reason, message), "{path}");
    }
}

#[tokio::test]
async fn redirects_to_another_host_are_judged_by_their_own_status() {
    let server = Server::routing(vec![
        ("/", redirect("http://sso.example.org/login?secret=1")),
        ("/ftp", redirect("ftp://127.0.0.1/")),
        ("/long", redirect(&format!("http://{}/", "x".repeat(10_000)))),
    ])
    .await;
    let get =
        |path: &str, statuses| json!({"path": path, "followRedirects": true, "expectedStatuses": statuses});
    assert_eq!(server.probe(get("/", json!([]))).await, Outcome::Success);
    for (path, message) in [
        ("/", "status 302 leads to another host (sso.example.org), which is not followed"),
        ("/long", "status 302 leads to another host (unnamed), which is not followed"),
        ("/ftp", "status 302 leads to a URL that is neither HTTP nor HTTPS, which is not followed"),
    ] {
        let outcome = server.probe(get(path, json!(["200"]))).await;
        assert_eq!(outcome, Outcome::failure(Reason::RedirectFailed, message));
    }
}

#[tokio::test]
async fn redirects_come_to_an_end() {
    let server = Server::routing(vec![("/", redirect("/"))]).await;
    assert_eq!(
        server.probe(json!({"followRedirects": true})).await,
        Outcome::failure(Reason::RedirectFailed, "more than 10 redirects")
    );
    assert_eq!(server.paths().len(), 11);
}
