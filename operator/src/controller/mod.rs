//! The controller: what the API server holds, brought to what specs and probes say.
//!
//! One reconcile is a pipeline, and each step is a file or a function of core:
//! [`dereference`] (fetch what the spec refers to) → `check::parse` → watch (the prober learns the
//! definition, and answers with what it knows) → `plan::claim` → `fail_open` → `endpoints` →
//! `plan::plan` → [`apply`] → [`status`].
//!
//! Every replica runs it up to the probing; only the one that holds the Lease goes on to write.

mod apply;
mod context;
mod dereference;
mod error;
mod events;
mod memory;
mod reconcile;
mod retire;
mod status;
mod watches;

use std::sync::Arc;

use cep_core::check::Definition;
use cep_core::snapshot::{CepKey, Seeds, Snapshot, Told};
use futures::future::BoxFuture;

pub use context::{Context, Options};
pub use error::Error;
pub use events::{Events, Recipient};
pub use watches::run;

/// The one who knows how hosts are. The controller does not know that it is a prober.
pub trait HealthSource: Send + Sync + 'static {
    /// Takes over a definition (one equal to the former changes nothing), and says what is known.
    /// `None` at shutdown.
    fn watch(
        &self,
        key: CepKey,
        definition: Arc<Definition>,
        seeds: Seeds,
    ) -> BoxFuture<'_, Option<Arc<Snapshot>>>;

    /// Takes over since when and why verdicts hold, where it has come to the same ones; says what is
    /// known then. `None` if it does not know the cep.
    fn settle(&self, key: CepKey, told: Vec<Told>) -> BoxFuture<'_, Option<Arc<Snapshot>>>;

    /// Forgets a cep that is gone.
    fn forget(&self, key: CepKey);
}
