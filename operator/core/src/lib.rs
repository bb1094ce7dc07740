//! The decisions of endpoints-operator, and nothing else.
//!
//! Everything here is a pure function or a plain state machine: no tokio, no client, no clock and
//! no random numbers (`clippy.toml` bans them). Time comes in as an argument — [`std::time::Duration`]
//! since an epoch of the caller's choosing for schedules, [`jiff::Timestamp`] for what people read.
//!
//! The pipeline, in the order in which a `ClusterEndpoint` travels it:
//!
//! [`api`] → [`check`] → [`target`] ⇒ [`schedule`], [`health`], [`guard`] ⇒ [`fail_open`] →
//! [`endpoints`] → [`plan`] → [`status`]
#![warn(missing_docs)]

pub mod address_policy;
pub mod api;
pub mod check;
pub mod endpoints;
pub mod fail_open;
pub mod guard;
pub mod health;
pub mod outcome;
pub mod overview;
pub mod plan;
#[cfg(test)]
mod samples;
pub mod schedule;
pub mod snapshot;
pub mod status;
pub mod target;
