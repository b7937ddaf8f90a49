//! The promises of the bucket as an embedder holds it, one file per promise, by the public API on real threads.
//!
//! Nothing here sleeps or measures time: a test waits for what it caused.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod bad_input;
mod closed_bucket;
mod collections;
mod dropped_collections;
mod dropped_futures;
mod figures_are_told;
mod last_handle;
mod manifest_slices;
mod own_system;
mod panics;
mod places;
mod quota_and_space;
mod repairs;
mod restarts;
mod runtimes;
mod stalls;
mod takeover;
mod vbucket_down;
