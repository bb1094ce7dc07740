//! `/api/v1/overview`: rendered away from the probing threads, and once for all who look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{AdminState, StatusSource};

/// For how long everybody who asks for everything gets the same answer.
const FRESH: Duration = Duration::from_secs(1);
/// Answers on their way at the same time: each may hold megabytes until its client has read them.
const CONCURRENT: usize = 8;
/// How long a request waits for its turn, and then for the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers are handed to the connection in pieces of this size.
const PIECE: usize = 64 * 1024;

/// Which `ClusterEndpoint`s are asked for; what is `None` does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverviewFilter {
    /// Exactly this namespace.
    pub namespace: Option<String>,
    /// Exactly this name.
    pub name: Option<String>,
}

impl OverviewFilter {
    /// Whether this `ClusterEndpoint` is asked for.
    pub fn admits(&self, namespace: &str, name: &str) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }

    fn admits_all(&self) -> bool {
        self.namespace.is_none() && self.name.is_none()
    }
}

/// The source, and the latest answer to those who ask for everything.
pub(super) struct Overviews {
    source: Arc<dyn StatusSource>,
    turns: Arc<Semaphore>,
    /// Locked while it is rendered, so that it is rendered once.
    latest: Mutex<Option<(Instant, Bytes)>>,
}

impl Overviews {
    pub(super) fn new(source: Arc<dyn StatusSource>) -> Self {
        Self { source, turns: Arc::new(Semaphore::new(CONCURRENT)), latest: Mutex::default() }
    }

    async fn json(&self, filter: OverviewFilter) -> Option<Bytes> {
        if !filter.admits_all() {
            return self.render(filter).await;
        }
        let mut latest = self.latest.lock().await;
        if let Some((_, body)) = latest.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Some(body.clone());
        }
        // The time is taken before, so that nothing older than FRESH is ever shown.
        let at = Instant::now();
        let body = self.render(filter).await?;
        *latest = Some((at, body.clone()));
        Some(body)
    }

    async fn render(&self, filter: OverviewFilter) -> Option<Bytes> {
        let overview = self.source.overview(filter).await;
        // 10 000 endpoints take tens of milliseconds, which is too long for a thread that also probes.
        let json = tokio::task::spawn_blocking(move || serde_json::to_vec(&overview)).await;
        json.ok()?.ok().map(Bytes::from)
    }
}

/// Answers the request.
pub(super) async fn show(State(state): State<AdminState>, Query(filter): Query<OverviewFilter>) -> Response {
    let overviews = &state.overviews;
    let Ok(Ok(turn)) = timeout(PATIENCE, overviews.turns.clone().acquire_owned()).await else {
        return unavailable("too many requests at once; try again in a few seconds\n");
    };
    match timeout(PATIENCE, overviews.json(filter)).await {
        Ok(Some(json)) => {
            ([(header::CONTENT_TYPE, "application/json")], in_pieces(json, turn)).into_response()
        }
        Ok(None) => unavailable("the overview could not be written as JSON\n"),
        Err(_) => unavailable("the prober did not answer within 5 seconds\n"),
    }
}

fn unavailable(why: &'static str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// A body that keeps its turn until the client has taken nearly all of it.
fn in_pieces(bytes: Bytes, turn: OwnedSemaphorePermit) -> Body {
    Body::from_stream(stream::unfold((bytes, turn), |(mut rest, turn)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        Some((Ok::<_, std::convert::Infallible>(piece), (rest, turn)))
    }))
}
