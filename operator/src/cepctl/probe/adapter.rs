//! The operator's prober behind the local trait.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use cep_core::outcome::Cause;
use cep_core::target::Target;

use super::{Probe, Probed};
use crate::prober::{self, dns, tls};

/// Probes exactly as the operator does.
pub(super) struct OperatorProber {
    resolver: dns::Resolver,
    contexts: tls::Contexts,
}

impl OperatorProber {
    /// # Errors
    /// The machine has no usable resolver configuration.
    pub(super) fn new() -> anyhow::Result<Self> {
        let resolver = dns::Resolver::new(&[]).context("DNS cannot be set up; look at /etc/resolv.conf")?;
        Ok(Self { resolver, contexts: tls::Contexts::new() })
    }
}

impl Probe for OperatorProber {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Cause> {
        self.resolver.resolve(name).await.map(|answer| answer.addresses)
    }

    async fn once(&self, target: &Target) -> Probed {
        let prober::Probed { outcome, took, reached } = prober::once(target, &self.contexts).await;
        // The prober counts from the start of the probe; people ask which step takes long.
        let since = |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?));
        Probed {
            outcome,
            took,
            connect: reached.connect,
            tls: since(reached.connect, reached.tls),
            first_byte: since(reached.tls.or(reached.connect), reached.first_byte),
        }
    }
}
