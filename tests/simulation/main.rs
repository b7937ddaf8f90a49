//! The whole bucket in a simulated world: workloads, faults and checkers, one file each, put together by `scenario.rs`.
//! One seed is one run; to replay one, see `docs/harness.md`.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod canary;
mod checkers;
mod collections;
mod determinism;
mod faults;
mod history;
mod manifest_crash;
mod promotion_crash;
mod many_seeds;
mod plants;
mod scenario;
mod warmup_scans;
mod workloads;
