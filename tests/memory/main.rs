//! The promises of a bucket with more documents than memory.
//!
//! Nothing here sleeps or measures time: a test waits for what it caused, or moves a simulated clock.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod common;
mod collections;
mod counts;
mod expired;
mod four_times;
mod model;
mod nothing_leaves_too_early;
mod old_values;
mod operations;
mod past;
#[cfg(feature = "planted")]
mod planted;
mod policies;
mod swept;
mod untaken;
mod unread;
