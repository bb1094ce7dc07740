//! A target with everything prepared that its probes need.

use std::net::SocketAddr;
use std::time::Duration;

use cep_core::check::Check;
use cep_core::outcome::{Cause, Outcome, Reason};
use cep_core::target::Target;

use super::phases::{Phases, Reached};
use super::{http, tcp, tls};

/// What runs when a target's turn comes.
#[derive(Debug)]
pub(super) enum Probe {
    Tcp(SocketAddr),
    Http(http::Prepared),
    /// The check cannot be carried out as it is configured.
    Impossible(Cause),
}

impl Probe {
    pub(super) fn prepare(target: &Target, contexts: &tls::Contexts) -> Self {
        match &target.check {
            Check::Tcp => Probe::Tcp(target.address),
            Check::Http(check) => match http::Prepared::new(target, check, contexts) {
                Ok(prepared) => Probe::Http(prepared),
                Err(cause) => Probe::Impossible(cause),
            },
            Check::Module(_) => Probe::Impossible(Cause::new(
                Reason::Misconfigured,
                "this version of the operator has no module host",
            )),
        }
    }

    /// Runs the probe until its time is up; `timeout` is how long that was.
    pub(super) async fn run(&self, timeout: Duration, expiry: impl Future<Output = ()>) -> Probed {
        let phases = Phases::start();
        let attempt = async {
            match self {
                Probe::Tcp(address) => tcp::probe(*address, &phases).await,
                // Boxed because it is many times the size of the others, which come in thousands.
                Probe::Http(prepared) => Box::pin(prepared.probe(&phases)).await,
                Probe::Impossible(cause) => Outcome::Unknown(cause.clone()),
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = attempt => outcome,
            () = expiry => phases.out_of_time(timeout),
        };
        Probed { outcome, took: phases.elapsed(), reached: phases.reached() }
    }
}

/// A probe that was run once.
#[derive(Clone, Debug)]
pub struct Probed {
    /// What it found out.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// When it reached which phase.
    pub reached: Reached,
}

/// Runs one probe of a target now, exactly as the operator does.
pub async fn once(target: &Target, contexts: &tls::Contexts) -> Probed {
    let probe = Probe::prepare(target, contexts);
    probe.run(target.timeout, tokio::time::sleep(target.timeout)).await
}
