//! Piggin, an actor-based bucket engine: the one crate an embedder depends on.
//!
//! This crate holds re-exports and nothing else; each part says in its own documentation what it promises.

#[cfg(feature = "testing")]
pub use supervisor::testing;
pub use supervisor::{
    Bucket, BucketActor, BucketConfig, BucketError, BucketStatistics, Location, Shutdown,
    ShutdownReport, VbucketAddr, WriteFuture, WriteRequest, vbucket_of,
};
pub use {actors, messages, storage, supervisor};

/// The programs in README.md, compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
