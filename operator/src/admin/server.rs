//! Connections: how many, how long, how slow.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use futures::FutureExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// What one client, or all of them, may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once.
    pub(super) connections: usize,
    /// From the first byte that is due to the end of a request's header.
    pub(super) header: Duration,
    /// Of a connection; a request in progress may still end.
    pub(super) age: Duration,
    /// For a request in progress when the connection or the server is about to end.
    pub(super) farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            header: Duration::from_secs(10),
            age: Duration::from_secs(60),
            farewell: Duration::from_secs(5),
        }
    }
}

/// hyper's smallest buffer is 8 KiB; a longer header is refused.
const HEADER_BYTES: usize = 16 * 1024;

/// Serves until `shutdown` is ready.
pub(super) async fn run(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = std::pin::pin!(shutdown.fuse());
    let (closing, _) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No file descriptor left, most likely: probing goes first, so wait rather than spin.
                tracing::debug!(%error, "cannot accept a connection to the admin port");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        by_age.retain(|connection| !connection.is_finished());
        if by_age.len() >= limits.connections
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        by_age.push_back(connections.spawn(converse(stream, router.clone(), limits, closing.subscribe())));
    }
    drop(listener);
    drop(closing);
    let all = async { while connections.join_next().await.is_some() {} };
    // What is left after that is dropped with the set.
    let _ = timeout(limits.farewell + Duration::from_secs(1), all).await;
}

async fn converse(stream: TcpStream, router: Router, limits: Limits, mut closing: watch::Receiver<()>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(limits.age) => {}
        // The sender says nothing; it goes away.
        _ = closing.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.farewell, connection).await;
}
