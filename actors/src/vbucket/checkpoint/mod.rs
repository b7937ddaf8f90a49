//! The checkpoint log of one vbucket: the ordered queue of what changed, which the flusher, every stream and the
//! durability monitor read at their own pace, each through a cursor.
//!
//! A pure data structure over `Arc<Item>`: no lock, no clock, no actor. The vbucket's lock guards it; appending to it
//! is the commit point in memory (rule R16), and the store lags behind it.
//!
//! - The log is a chain of **checkpoints**; only the last is open. In an open one a newer version of a key takes the
//!   place of the older ([`Disposition`] tells beforehand), so a checkpoint holds each key once per namespace.
//! - The log keeps no index of keys. The caller says which version the new one [`Replaces`], from its document map,
//!   and so owes this: **the map forgets no version, tombstones and prepares included, whose seqno is at or above
//!   [`CheckpointLog::open_start`]**; else one snapshot could show a key twice. But for what is on disk of a snapshot that
//!   came from a source's disk: that has each key once.
//! - A reader takes [`SnapshotPiece`]s. What a stream was told of a snapshot stays true: nothing is deduplicated out
//!   of the part it has yet to read. The flusher is told how far it is [`Taken::settled`] instead.
//! - Beginning and end of a checkpoint are no entries but facts of a piece ([`Opening`]); a change of the vbucket's
//!   identity is an entry that only the flusher sees. Neither ever moves a seqno.
//! - What nobody needs any more is detached at once and kept as [`Garbage`], to be dropped outside the lock.
//!
//! For streams and monitors to come, `docs/checkpoint-log.md` says how to use a cursor.

mod error;
mod snapshot;
mod cursor;
mod content;
mod chain;
mod disposition;
mod log;
mod register;
mod take;
mod memory;

pub use chain::CheckpointId;
pub use content::CheckpointKind;
pub use cursor::{CursorId, CursorKind, CursorName};
pub use disposition::{Disposition, FlushProgress, Replaces};
pub use error::{CursorError, QueueError, SnapshotError};
pub use log::{CheckpointLimits, CheckpointLog, Queued};
pub use memory::{Expelled, Figures, Garbage};
pub use register::Registered;
pub use snapshot::{Applied, ReplicaSnapshot};
pub use take::{Opening, SnapshotPiece, TakeLimits, Taken};

#[cfg(test)]
mod tests;
