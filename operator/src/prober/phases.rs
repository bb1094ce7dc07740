//! How far a probe has come, and when.

use std::cell::Cell;
use std::time::{Duration, Instant};

use cep_core::outcome::{Outcome, Reason};

/// Marks of one probe, all counted from its start. A probe that runs out of time leaves those that it
/// reached, which tells a host that is silent from a server that hangs.
#[derive(Debug)]
pub(super) struct Phases {
    started: Instant,
    reached: Cell<Reached>,
}

/// When each phase was reached; `None`: not reached, or the check has no such phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The TCP connection is established.
    pub connect: Option<Duration>,
    /// The TLS handshake is complete.
    pub tls: Option<Duration>,
    /// The first bytes of the answer have come.
    pub first_byte: Option<Duration>,
}

impl Phases {
    pub(super) fn start() -> Self {
        Self { started: Instant::now(), reached: Cell::default() }
    }

    pub(super) fn connected(&self) {
        self.mark(|reached| &mut reached.connect);
    }

    pub(super) fn secured(&self) {
        self.mark(|reached| &mut reached.tls);
    }

    pub(super) fn answered(&self) {
        self.mark(|reached| &mut reached.first_byte);
    }

    /// Only the first time counts: a redirect goes through the phases again.
    fn mark(&self, phase: impl Fn(&mut Reached) -> &mut Option<Duration>) {
        let mut reached = self.reached.get();
        let phase = phase(&mut reached);
        if phase.is_none() {
            *phase = Some(self.started.elapsed());
            self.reached.set(reached);
        }
    }

    pub(super) fn reached(&self) -> Reached {
        self.reached.get()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The outcome of a probe that was not done within `timeout`.
    pub(super) fn out_of_time(&self, timeout: Duration) -> Outcome {
        let seconds = timeout.as_secs_f64();
        match self.reached() {
            Reached { connect: None, .. } => Outcome::failure(
                Reason::Timeout,
                format!("no answer to the connection attempt within {seconds} s"),
            ),
            Reached { first_byte: None, .. } => Outcome::failure(
                Reason::ResponseTimeout,
                format!("the connection was accepted, but no answer came within {seconds} s"),
            ),
            _ => Outcome::failure(
                Reason::ResponseTimeout,
                format!("the answer began, but was not complete within {seconds} s"),
            ),
        }
    }
}
