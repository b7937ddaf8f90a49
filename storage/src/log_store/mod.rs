//! The log store: a write-ahead log per shard, immutable segments in shared containers, a manifest as checkpoint.

mod record;
pub(crate) mod segment;
