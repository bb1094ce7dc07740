//! The HTTP server for kubelet, Prometheus and people. Everything is read-only.
//!
//! | Path | What |
//! |---|---|
//! | `/livez` | whether the scheduler advances |
//! | `/readyz` | whether the readiness gates are open |
//! | `/metrics` | OpenMetrics text |
//! | `/api/v1/overview` | [`Overview`] as JSON; `?namespace=` and `?name=` select |
//! | `/` | the status page, which shows the overview live |

mod overview;
mod readiness;
mod server;
mod status_page;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cep_core::overview::Overview;
use futures::future::BoxFuture;
use tokio::net::TcpListener;

pub use self::overview::OverviewFilter;
pub use self::readiness::{Gate, Readiness};

use self::overview::Overviews;
use self::server::Limits;
use crate::metrics::{self, Metrics};

/// Who knows what the operator probes.
pub trait StatusSource: Send + Sync + 'static {
    /// What it probes now, restricted to the `ClusterEndpoint`s that the filter admits.
    fn overview(&self, filter: OverviewFilter) -> BoxFuture<'_, Overview>;
}

/// What the server shows.
#[derive(Clone)]
pub struct AdminState {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    overviews: Arc<Overviews>,
}

impl AdminState {
    /// From its three parts.
    pub fn new(metrics: Arc<Metrics>, readiness: Readiness, source: Arc<dyn StatusSource>) -> Self {
        Self { metrics, readiness, overviews: Arc::new(Overviews::new(source)) }
    }
}

/// Serves until `shutdown` is ready, then lets the requests in progress end, for a few seconds at most.
///
/// Connections are limited in number, in age and in how long they may take to send a request; when all
/// are taken the oldest gives way, so that a kubelet always gets its answer.
pub async fn serve(
    listener: TcpListener,
    state: AdminState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.local_addr()?;
    server::run(listener, router(state), Limits::default(), shutdown).await;
    Ok(())
}

fn router(state: AdminState) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .route("/api/v1/overview", get(overview::show))
        .merge(status_page::routes())
        .fallback(not_found)
        .layer(map_response(status_page::protect))
        .with_state(state)
}

async fn livez(State(state): State<AdminState>) -> Response {
    match state.readiness.stalled() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

async fn readyz(State(state): State<AdminState>) -> Response {
    let waiting = state.readiness.waiting_for();
    if waiting.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, waiting.join("\n") + "\n").into_response()
}

async fn show_metrics(State(state): State<AdminState>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], state.metrics.encode()).into_response()
}

async fn not_found() -> Response {
    let text = "nothing here; there are /, /api/v1/overview, /metrics, /livez and /readyz\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

#[cfg(test)]
mod tests;
