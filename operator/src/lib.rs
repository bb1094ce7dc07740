//! `endpoints-operator`: makes things outside the cluster behave like Services inside it.
//!
//! See `ARCHITECTURE.md` beside this crate for who does what. The decisions are in `cep_core`.

pub mod admin;
pub mod app;
pub mod cepctl;
pub mod cli;
pub mod connection;
pub mod controller;
pub mod error_chain;
pub mod lease;
pub mod metrics;
pub mod prober;
pub mod telemetry;
