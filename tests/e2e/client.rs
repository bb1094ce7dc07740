//! A client that opens a new connection through a Service every 10 ms.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::traffic::Tally;
use testbed::{Host, Traffic, eventually};

use crate::stage::SOON;

/// How often it connects.
const PACE: Duration = Duration::from_millis(10);
/// How long a connection may take to open: less than the second after which a lost SYN is sent again,
/// which would hide the loss.
const PATIENCE: Duration = Duration::from_millis(900);

pub(crate) struct Client {
    to: SocketAddr,
    traffic: Traffic,
}

impl Client {
    /// Starts to count once kube-proxy forwards: it may take a second to hear of a Service.
    pub(crate) async fn start(from: &Host, to: SocketAddr) -> Result<Self> {
        let warm_up = Traffic::connect(from.netns(), to, PACE, PATIENCE);
        eventually(SOON, &format!("{to} answers steadily"), async || {
            let tally = warm_up.tally();
            let recent = &tally.attempts[tally.total().saturating_sub(50)..];
            ensure!(recent.len() == 50 && recent.iter().all(|attempt| attempt.is_ok()), "{tally}");
            Ok(())
        })
        .await?;
        drop(warm_up);
        Ok(Self { to, traffic: Traffic::connect(from.netns(), to, PACE, PATIENCE) })
    }

    /// What became of all attempts that began before `end`; the client goes on.
    pub(crate) async fn until(&self, end: Instant) -> Result<Tally> {
        // One that began so late has ended, so those that began before `end` have come to theirs.
        let settled = end + PATIENCE + Duration::from_millis(100);
        let left = settled.saturating_duration_since(Instant::now());
        eventually(left + SOON, &format!("the connections to {} have ended", self.to), async || {
            let tally = self.traffic.tally();
            ensure!(tally.attempts.last().is_some_and(|attempt| attempt.at > settled), "{tally}");
            Ok(tally)
        })
        .await
    }

    /// Lets it run for `more` and then says that not one attempt has failed.
    ///
    /// # Errors
    /// If one has.
    pub(crate) async fn unharmed(&self, more: Duration) -> Result<()> {
        let tally = self.until(Instant::now() + more).await?;
        println!("{}: {tally}", self.to);
        let begun = tally.attempts.first().map(|attempt| attempt.at);
        let failed = tally.attempts.iter().filter(|attempt| !attempt.is_ok());
        let failed: Vec<_> = failed
            .map(|attempt| {
                format!("{:?} at {:.0?}", attempt.outcome, attempt.at - begun.unwrap_or(attempt.at))
            })
            .collect();
        ensure!(failed.is_empty(), "connections to {} failed: {tally}; {}", self.to, failed.join(", "));
        Ok(())
    }
}
