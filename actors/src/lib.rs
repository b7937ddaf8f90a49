//! The workers of a bucket, declared in the order the data travels.
//!
//! Every actor is a folder of one shape: plain state machines that return effects, and a thin `actor.rs` that turns
//! messages into calls. No actor names another: they hold recipients and shared monotone state.

#[cfg(test)]
extern crate self as piggin_actors;

mod sync;
pub mod environment;
pub mod system;
pub mod hooks;
pub mod guardian;
pub mod panics;
pub mod planted;
pub mod tether;
pub mod shell;
pub mod executor;
pub mod vbucket;
pub mod backoff;
pub mod store_handle;
pub mod flusher;
pub mod writer;
pub mod maintenance;
pub mod compactor;
pub mod backfill;
pub mod stream;
pub mod durability;
pub mod warmup;
pub mod rollback;
#[cfg(any(test, feature = "testing"))]
pub mod simulation;
mod split_mix;
