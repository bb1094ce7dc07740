//! Scripted servers. They run in the test process, on sockets in a host's namespace.

mod connection;
pub mod udp;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::netns::Netns;
use crate::pki::{Authority, Identity};

/// What a server answers to an HTTP request.
#[derive(Debug, Clone)]
pub struct Response {
    /// Such as 200.
    pub status: u16,
    /// Further headers; `Content-Length` and `Connection` are added.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// 200 with this body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// This status and no body.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What a server does with a connection. It can be changed at any time, for the connections to come.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Reads and says nothing until the client closes, as a plain TCP service.
    Hold,
    /// Sends this at once, then reads until the client closes, as services that greet do.
    Greet(Vec<u8>),
    /// Sends back what comes.
    Echo,
    /// Closes at once.
    Close,
    /// Closes at once with a reset.
    Reset,
    /// Answers every HTTP request so.
    Http(Response),
    /// Answers the first request with the first, the second with the second, and all further ones with the
    /// last. The count is of the connections and requests since the behaviour was set.
    Sequence(Vec<Response>),
    /// Answers an HTTP request after a while.
    Delayed(Duration, Response),
    /// Answers an HTTP request one byte at a time, with this pause between bytes.
    Slow(Duration, Response),
    /// Reads an HTTP request and never answers.
    Silent,
    /// Status 200, and a body that never ends.
    Endless,
    /// Sends these bytes in answer to an HTTP request, whatever they are, and closes.
    Raw(Vec<u8>),
}

/// TLS of a server.
#[derive(Clone)]
pub struct Tls(Arc<rustls::ServerConfig>);

impl Tls {
    /// Shows this certificate; HTTP/1.1 only.
    ///
    /// # Errors
    /// If the certificate or the key cannot be used.
    pub fn new(identity: &Identity) -> Result<Self> {
        Self::build(identity, None)
    }

    /// Demands a client certificate of this authority as well.
    ///
    /// # Errors
    /// If the certificate or the key cannot be used.
    pub fn mutual(identity: &Identity, clients: &Authority) -> Result<Self> {
        Self::build(identity, Some(clients))
    }

    fn build(identity: &Identity, clients: Option<&Authority>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes())?)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().context("the clients' authority")?)
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
        let mut config = builder.with_single_cert(chain, key).context("the server's certificate")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// An HTTP request as a server got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The request line and the headers, as sent.
    pub head: String,
    /// Who sent it.
    pub peer: SocketAddr,
}

impl Request {
    /// The request line, such as `GET /healthz HTTP/1.1`.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The value of a header, if it was sent.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What a server has seen, and what it does.
#[derive(Debug)]
struct State {
    behaviour: Mutex<(Behaviour, usize)>,
    accepts: AtomicU64,
    requests: AtomicU64,
    handshake_failures: AtomicU64,
    open: AtomicUsize,
    last: Mutex<Option<Request>>,
    changed: watch::Sender<()>,
}

impl State {
    fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The next response of a sequence.
    fn next_of(&self, responses: &[Response]) -> Response {
        let mut behaviour = self.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
        let n = behaviour.1.min(responses.len().saturating_sub(1));
        behaviour.1 += 1;
        responses.get(n).cloned().unwrap_or_else(|| Response::status(500))
    }
}

/// A running server; dropping it closes its port and its connections.
pub struct Server {
    netns: Netns,
    address: SocketAddr,
    tls: Option<Tls>,
    state: Arc<State>,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// A server that accepts and holds connections.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn tcp(netns: &Netns, address: SocketAddr) -> Result<Self> {
        Self::start_new(netns, address, Behaviour::Hold, None).await
    }

    /// An HTTP server with one answer.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn http(netns: &Netns, address: SocketAddr, response: Response) -> Result<Self> {
        Self::start_new(netns, address, Behaviour::Http(response), None).await
    }

    /// An HTTPS server with one answer.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn https(netns: &Netns, address: SocketAddr, tls: Tls, response: Response) -> Result<Self> {
        Self::start_new(netns, address, Behaviour::Http(response), Some(tls)).await
    }

    /// A server of any behaviour, with or without TLS.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start_new(
        netns: &Netns,
        address: SocketAddr,
        behaviour: Behaviour,
        tls: Option<Tls>,
    ) -> Result<Self> {
        let state = Arc::new(State {
            behaviour: Mutex::new((behaviour, 0)),
            accepts: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            handshake_failures: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            last: Mutex::new(None),
            changed: watch::Sender::new(()),
        });
        let mut server = Self { netns: netns.clone(), address, tls, state, task: None };
        server.start().await?;
        Ok(server)
    }

    /// Its address; if port 0 was asked for, with the port it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does from the next connection on; a `Sequence` starts anew.
    pub fn set(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = (behaviour, 0);
    }

    /// How many connections it has accepted.
    pub fn accepts(&self) -> u64 {
        self.state.accepts.load(Ordering::Relaxed)
    }

    /// How many HTTP requests it has read.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// How many TLS handshakes have failed.
    pub fn handshake_failures(&self) -> u64 {
        self.state.handshake_failures.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::Relaxed)
    }

    /// The latest HTTP request.
    pub fn last_request(&self) -> Option<Request> {
        self.state.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has accepted one more connection than now, or read one more request.
    ///
    /// # Errors
    /// If none comes within `timeout`.
    pub async fn next_hit(&self, timeout: Duration) -> Result<()> {
        let mut changed = self.state.changed.subscribe();
        tokio::time::timeout(timeout, changed.changed())
            .await
            .with_context(|| format!("nothing came to {} within {timeout:?}", self.address))?
            .context("the server has ended")
    }

    /// Closes the port and all connections.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // The port is free only when the task has been dropped.
            let _ = task.await;
        }
    }

    /// Opens the same port again; counts go on.
    ///
    /// # Errors
    /// If it is open, or cannot be bound.
    pub async fn start(&mut self) -> Result<()> {
        ensure!(self.task.is_none(), "the server on {} is running", self.address);
        let listener = self.netns.bind_tcp(self.address).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", self.address))?;
        self.address = listener.local_addr()?;
        let acceptor = self.tls.clone().map(|tls| TlsAcceptor::from(tls.0));
        self.task = Some(tokio::spawn(accept(listener, acceptor, Arc::clone(&self.state))));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                state.accepts.fetch_add(1, Ordering::Relaxed);
                state.changed.send_replace(());
                connections.spawn(connection::serve(stream, peer, tls.clone(), Arc::clone(&state)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
