//! Clients that open a new connection again and again, and what became of each.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::netns::Netns;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Connected; with HTTP, a status below 400 and all of the answer.
    Ok,
    /// The connection was refused.
    Refused,
    /// The connection was reset or closed before the answer was complete.
    Reset,
    /// Nothing came in time.
    TimedOut,
    /// No route to the host or the network.
    Unreachable,
    /// An HTTP status of 400 or above, or no HTTP.
    BadAnswer,
    /// Another error.
    Other,
}

/// One attempt.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// When it began.
    pub at: Instant,
    /// How long it took.
    pub latency: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl Attempt {
    /// Whether it succeeded.
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }
}

/// What each attempt does once it is connected.
#[derive(Debug, Clone)]
enum Exchange {
    Connect,
    Get(String),
}

/// Traffic that flows until it is stopped or dropped.
pub struct Traffic {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    task: JoinHandle<()>,
}

impl Traffic {
    /// Opens a TCP connection to `to` from a namespace every `interval`, whether or not earlier attempts
    /// have ended, and closes it at once. An attempt fails after `timeout`.
    pub fn connect(from: &Netns, to: SocketAddr, interval: Duration, timeout: Duration) -> Self {
        Self::start(from, to, interval, timeout, Exchange::Connect)
    }

    /// Like [`Traffic::connect`], with `GET target` over HTTP/1.1 in each connection.
    pub fn get(from: &Netns, to: SocketAddr, target: &str, interval: Duration, timeout: Duration) -> Self {
        Self::start(from, to, interval, timeout, Exchange::Get(target.to_owned()))
    }

    fn start(
        from: &Netns,
        to: SocketAddr,
        interval: Duration,
        timeout: Duration,
        exchange: Exchange,
    ) -> Self {
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let (netns, record) = (from.clone(), Arc::clone(&attempts));
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut flying = JoinSet::new();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        let (netns, record, exchange) = (netns.clone(), Arc::clone(&record), exchange.clone());
                        flying.spawn(async move {
                            let at = Instant::now();
                            let outcome = match tokio::time::timeout(timeout, attempt(&netns, to, &exchange)).await {
                                Ok(outcome) => outcome,
                                Err(_) => Outcome::TimedOut,
                            };
                            let attempt = Attempt { at, latency: at.elapsed(), outcome };
                            record.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
                        });
                    }
                    Some(_) = flying.join_next() => {}
                }
            }
        });
        Self { attempts, task }
    }

    /// What has become of the attempts that have ended so far; the traffic goes on.
    pub fn tally(&self) -> Tally {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        attempts.sort_by_key(|attempt| attempt.at);
        Tally { attempts }
    }

    /// Ends the traffic; attempts that are under way do not count.
    pub fn stop(self) -> Tally {
        self.task.abort();
        self.tally()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The attempts, in the order in which they began.
#[derive(Debug, Clone)]
pub struct Tally {
    /// All of them.
    pub attempts: Vec<Attempt>,
}

impl Tally {
    /// How many there were.
    pub fn total(&self) -> usize {
        self.attempts.len()
    }

    /// How many failed.
    pub fn failures(&self) -> usize {
        self.attempts.iter().filter(|attempt| !attempt.is_ok()).count()
    }

    /// How many of those that began in this span failed.
    pub fn failures_between(&self, from: Instant, to: Instant) -> usize {
        self.between(from, to).failures()
    }

    /// Those that began in this span.
    #[must_use]
    pub fn between(&self, from: Instant, to: Instant) -> Self {
        let attempts = self.attempts.iter().filter(|attempt| (from..to).contains(&attempt.at));
        Self { attempts: attempts.copied().collect() }
    }

    /// When the last attempt that failed began.
    pub fn last_failure(&self) -> Option<Instant> {
        self.attempts.iter().rev().find(|attempt| !attempt.is_ok()).map(|attempt| attempt.at)
    }

    /// When the first attempt that failed began.
    pub fn first_failure(&self) -> Option<Instant> {
        self.attempts.iter().find(|attempt| !attempt.is_ok()).map(|attempt| attempt.at)
    }

    /// The latency that this share of the successful attempts did not exceed: 0.5 for the median.
    pub fn latency(&self, share: f64) -> Option<Duration> {
        let ok = self.attempts.iter().filter(|attempt| attempt.is_ok());
        let mut latencies: Vec<_> = ok.map(|attempt| attempt.latency).collect();
        latencies.sort();
        let rank = (share * latencies.len() as f64).ceil() as usize;
        latencies.get(rank.saturating_sub(1).min(latencies.len().saturating_sub(1))).copied()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
        for attempt in &self.attempts {
            *counts.entry(attempt.outcome).or_default() += 1;
        }
        write!(f, "{} attempts", self.total())?;
        for (outcome, count) in counts {
            write!(f, ", {count} {outcome:?}")?;
        }
        if let (Some(median), Some(slow)) = (self.latency(0.5), self.latency(0.99)) {
            write!(f, "; latency median {median:.1?}, 99 % {slow:.1?}")?;
        }
        Ok(())
    }
}

async fn attempt(netns: &Netns, to: SocketAddr, exchange: &Exchange) -> Outcome {
    use std::io::ErrorKind;
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Outcome::Reset,
        ErrorKind::TimedOut => Outcome::TimedOut,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Outcome::Unreachable,
        _ => Outcome::Other,
    };
    let mut stream = match netns.connect(to).await {
        Ok(stream) => stream,
        Err(error) => return failed(error),
    };
    let Exchange::Get(target) = exchange else { return Outcome::Ok };
    let request = format!("GET {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    if let Err(error) = stream.write_all(request.as_bytes()).await {
        return failed(error);
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer).await {
        return failed(error);
    }
    judge(&String::from_utf8_lossy(&answer))
}

/// Whether an answer is complete and good.
fn judge(answer: &str) -> Outcome {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return Outcome::Reset };
    let Some(status) = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()) else {
        return Outcome::BadAnswer;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match status {
        400.. => Outcome::BadAnswer,
        _ if length.is_some_and(|length| body.len() < length) => Outcome::Reset,
        _ => Outcome::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_by_span_and_by_outcome() {
        let start = Instant::now();
        let attempt = |ms, outcome| Attempt {
            at: start + Duration::from_millis(ms),
            latency: Duration::from_millis(ms + 1),
            outcome,
        };
        let attempts = vec![attempt(0, Outcome::Ok), attempt(10, Outcome::Refused), attempt(20, Outcome::Ok)];
        let tally = Tally { attempts };
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(tally.failures_between(at(0), at(10)), 0);
        assert_eq!(tally.failures_between(at(10), at(11)), 1);
        assert_eq!((tally.total(), tally.failures()), (3, 1));
        assert_eq!(tally.last_failure(), Some(at(10)));
        assert_eq!(tally.to_string(), "3 attempts, 2 Ok, 1 Refused; latency median 1.0ms, 99 % 21.0ms");
    }

    #[test]
    fn a_truncated_answer_is_a_reset() {
        assert_eq!(judge("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), Outcome::Ok);
        assert_eq!(judge("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), Outcome::Reset);
        assert_eq!(judge("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"), Outcome::BadAnswer);
        assert_eq!(judge(""), Outcome::Reset);
    }
}
