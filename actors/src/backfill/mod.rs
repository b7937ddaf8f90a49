//! Backfills: what a stream wants that is no longer in memory is read from a snapshot of the store, in bounded steps, by
//! a few readers that all streams of a bucket share.
//!
//! A stream schedules a [`BackfillRequest`] and holds a [`BackfillHandle`]; readers take turns ([`queues`]) at steps of
//! the backfills (`job`) and put what they read into a [`Pipe`], of which the stream is told. Invariant: every backfill
//! ends its pipe once: complete, which is proven, or with a reason (MB-47790).

pub mod queues;
mod pipe;
mod job;
mod worker;
mod manager;

pub use job::BackfillRequest;
pub use manager::{BackfillConfig, BackfillFigures, BackfillHandle, Backfills};
pub use pipe::{Chunk, Pipe, Piped};
pub use queues::{BackfillId, BackfillLimits};
