//! The log store: a write-ahead log per shard, immutable segments in shared containers, a manifest as checkpoint.
//!
//! Read the modules in this order to follow one commit from `commit()` to the disk and back through recovery:
//! [`options`], `store`, `shard`, `commit`, `log` (payload, writer, file, frame), `layer`, `version`, `snapshot`;
//! then `output`, `seal`, `segment`, `containers`, `compaction`, `copy_out`, `checkpoint`, `manifest`, `maintenance`; then
//! `recovery` (image, log reader), `rollback`, `past`, `verify`.

pub mod options;
mod store;
mod shard;
mod commit;
mod log;
mod record;
mod codec;
mod append_log;
mod layer;
mod version;
mod snapshot;
mod seqno_scan;
mod key_scan;
mod output;
mod seal;
pub(crate) mod segment;
mod containers;
mod compaction;
mod copy_out;
mod checkpoint;
mod manifest;
mod image;
mod maintenance;
mod recovery;
mod rollback;
mod past;
mod verify;
mod repair;
mod identity;
mod names;
#[cfg(any(test, feature = "fuzzing"))]
mod samples;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod conformance;

pub use compaction::CompactionJob;
pub use maintenance::MaintenanceKind;
pub use options::{BlockCompression, CreateOptions, OpenOptions};
pub(crate) use record::OVERHEAD_MAX;
pub use repair::Salvaged;
pub use store::{LogStore, Maintained, StoreStatistics};
pub use verify::{Fault, FaultKind, VerifyReport};
