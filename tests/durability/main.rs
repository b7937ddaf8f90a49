//! Durable writes across buckets, by public means: what is answered, what survives the loss of a node, what a crash of whoever
//! drives them costs.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod common;
mod seeds;
mod answers;
mod failover;
mod invariants;
mod levels;
mod linearizable;
mod panics;
mod power_cut;
mod promoted;
mod streams;
mod suspects;
mod takeover;

/// No bug; `tests/planted` has others.
fn plant() {}
