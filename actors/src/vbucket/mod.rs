//! The vbucket: one vbucket's truth in memory, owned by the bucket.
//!
//! Both doors (a caller's thread, the vbucket's actor) lead to the functions of [`VbucketCore`]; flusher, streams and
//! warmup use it too (rule R17). Reads take no lock of the vbucket. A write takes one short lock, under which seqno,
//! checkpoint log and document map change as one step.

pub mod checkpoint;
pub mod dirty;
mod memory;
mod kept;
mod document_map;
mod prepares;
mod tombstones;
mod snapshots;
mod fault;
mod invariants;
mod waiters;
mod status;
mod lock;
mod core;
mod change;
mod moment;
mod rule;
mod amend;
mod draft;
mod operations;
mod locks;
mod lookup;
mod observe;
mod durable;
mod announced;
mod durability;
mod deciding;
mod acknowledge;
mod expiry;
mod manifest;
mod state;
mod hand_over;
mod replica;
mod replicated;
mod rollback;
mod loading;
mod flush;
mod producing;
mod relief;
mod traffic;
mod eviction;
mod slot;
mod scans;
mod actor;

pub use self::acknowledge::Acknowledged;
pub use self::actor::VbucketActor;
pub use self::core::{OnSuspect, VbucketConfig, VbucketCore};
pub use self::dirty::{DirtyVbuckets, WakeFlusher, WakeSent};
pub use self::manifest::{BucketManifest, changed, changed_above, manifest_of, newest};
pub use deciding::DurabilityProgress;
pub use document_map::MapFigures;
pub use durable::DurableWait;
pub use eviction::{Evicted, EvictionWalk};
pub use expiry::{ExpiryWalk, Swept};
pub use fault::ChangeStep;
pub use flush::FlushTake;
pub use hand_over::{Hold, StandStill};
pub use lookup::LookedUp;
pub(crate) use lookup::NOT_IN_MEMORY;
pub use producing::{Past, StreamBreak, StreamCursor, StreamWatch, WholeFlushes};
pub use replica::{Resume, StreamEpoch};
pub use slot::VbucketSlot;
pub use traffic::TrafficFigures;
pub use waiters::{PersistPlace, Persisted, WAITERS_MAX};

#[cfg(test)]
pub(crate) mod tests;
