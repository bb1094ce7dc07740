//! Events, published aside: a slow API server must not hold up a reconcile for them.
//!
//! What is most worth telling happens when the API server is out of reach, so they are kept for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cep_core::status::Notice;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use super::error::request;
use crate::error_chain::Chain;
use crate::metrics::Metrics;

/// Events that wait to be published; beyond that they are dropped and counted.
const BACKLOG: usize = 1024;

/// How long an Event is kept while the API server cannot take it.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is tried meanwhile.
const RETRY: Duration = Duration::from_secs(1);

/// Whom an Event is about.
pub type Recipient = ObjectReference;

/// Accepts Events at any time, never blocks.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<(Recipient, Notice, Instant)>,
    metrics: Arc<Metrics>,
}

impl Events {
    /// Starts the publisher; `instance` is the operator's identity.
    pub fn start(client: Client, instance: String, metrics: Arc<Metrics>) -> Self {
        let (queue, mut backlog) = mpsc::channel::<(Recipient, Notice, Instant)>(BACKLOG);
        let reporter = Reporter { controller: "endpoints-operator".into(), instance: Some(instance) };
        let counter = metrics.clone();
        tokio::spawn(async move {
            while let Some((recipient, notice, since)) = backlog.recv().await {
                let event = Event {
                    type_: if notice.warning { EventType::Warning } else { EventType::Normal },
                    reason: notice.reason,
                    note: Some(notice.note),
                    action: notice.action.into(),
                    secondary: None,
                };
                // A recorder that lives longer folds Events of one reason into a series under the first one's
                // text, which would hide the second host that fails.
                let recorder = Recorder::new(client.clone(), reporter.clone());
                while let Err(error) = request(async { recorder.publish(&event, &recipient).await }).await {
                    if !error.is_passing() || since.elapsed() > PATIENCE {
                        counter.event_dropped();
                        tracing::debug!(error = %Chain(&error), "an Event could not be published");
                        break;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        });
        Self { queue, metrics }
    }

    /// Publishes an Event, as long as the backlog allows.
    pub fn publish(&self, recipient: &Recipient, notice: Notice) {
        if self.queue.try_send((recipient.clone(), notice, Instant::now())).is_err() {
            self.metrics.event_dropped();
        }
    }
}
