//! Compaction of a bucket, by public means: the seed tests, and what whoever asks for one is told.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod seeds;
mod answers;
mod disk_calls;
mod disk_share;
mod events;
mod expiry;
mod policy;
mod prepares;
mod scans;

use piggin::storage::Retention;

/// No bug; `tests/planted` has others.
fn plant() {}

/// No history; `tests/history` has one.
const RETENTION: Option<Retention> = None;
