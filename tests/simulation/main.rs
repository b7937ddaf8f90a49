//! The whole in a simulated world: workloads, faults and checkers, one file each, put together by `scenario.rs`. One
//! seed is one run; to replay one, see `docs/harness.md`.
//!
//! What is tested is behind `engine`: for now writers and maintenance on a log store, later the bucket itself.
#![cfg(test)]

mod canary;
mod checkers;
mod determinism;
mod engine;
mod faults;
mod many_seeds;
mod scenario;
mod workloads;
