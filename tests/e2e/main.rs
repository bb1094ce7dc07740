//! End-to-end tests: the operator and the test bed itself against a real control plane.
//!
//! Each test starts what it needs and shares nothing. Run them as root, with `--test-threads=2` on a small
//! machine, since each cluster brings its own API server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod admission;
mod adoption;
mod bed;
mod blindness;
mod cepctl;
mod client;
mod conditions;
mod deletion;
mod dns;
mod handover;
mod http;
mod malformed;
mod outage;
mod readme;
mod repair;
mod scale;
mod stage;
mod status_page;
mod steady;
mod traffic;
mod wordpress;
