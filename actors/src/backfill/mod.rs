//! Backfills: what a stream wants that is no longer in memory is read from a snapshot of the store, in bounded steps, by
//! a few readers that all streams of a bucket share.
//!
//! A stream schedules a [`BackfillRequest`] and holds a [`BackfillHandle`]; readers take turns ([`queues`]) at steps of
//! the backfills (`job`) and put what they read into a [`Pipe`], of which the stream is told. The same readers read ranges of
//! keys for clients (`range`), a page when one is asked for ([`RangeScan`]), and single documents that left memory (`fetches`), for
//! operations that must know them (`knowing`, `asking`, `turns`, `waiting`). Invariant: every backfill and every read of a range ends once: complete,
//! which is proven, or with a reason (MB-47790).

pub mod queues;
mod pipe;
mod job;
mod range;
mod reads;
mod worker;
mod manager;
mod scan;
mod fetches;
mod turns;
mod waiting;
mod begun;
mod asking;
mod knowing;

pub use begun::{Answered, Asked, Begun, Writing};
pub use job::BackfillRequest;
pub use manager::{BackfillConfig, BackfillFigures, BackfillHandle, Backfills};
pub use pipe::{Chunk, Pipe, Piped};
pub use queues::{BackfillId, BackfillLimits};
pub use range::RangeEnd;
pub use scan::RangeScan;
pub use turns::Turns;
