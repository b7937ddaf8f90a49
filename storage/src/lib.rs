//! Storage of a bucket: what must be remembered, and how.
//!
//! This crate knows no actor, no async runtime, no clock and no thread of its own; whoever embeds it hands in a
//! [`disk::Disk`], the time, and threads to run jobs on. Modules are declared in the order the data travels.

pub mod seqno;
pub mod vbucket;
pub mod failover_table;
pub mod cas;
pub mod durability;
mod leb128;
pub mod memory;
pub mod document;
pub mod collections;
pub mod counts;
pub mod compaction;
pub mod kv_store;
pub mod outcome;
pub mod error;
pub mod waiting;
pub mod disk;
pub mod retention;
pub mod eviction;
mod admission;
mod rollback_state;
#[cfg(feature = "planted")]
pub mod planted;
pub mod memory_store;
pub mod copying;
pub mod log_store;

pub use cas::{Cas, HybridLogicalClock};
pub use collections::{DroppedCollection, ManifestUid, ScopeId, SystemEvent, SystemEventError};
pub use compaction::{
    Compacted, CompactionFailure, CompactionProgress, CompactionRequest, CompactionStage,
    ErasedPrepare, ExpiredDocument,
};
pub use copying::{Copied, CopyError, CopyJob, CopyOf, ReadBackJob};
pub use counts::{CollectionCounts, VbucketCounts};
pub use disk::FileSystemDisk;
pub use document::{
    CollectionId, Datatype, DeleteSource, Document, DocumentKey, Expiry, Item, KeyError, Namespace,
    Operation, Predecessor, RevSeqno,
};
pub use durability::DurabilityLevel;
pub use error::{Advice, Refusal, StorageError};
pub use eviction::Eviction;
pub use failover_table::{FailoverEntry, FailoverTable};
pub use kv_store::{
    Batch, CommitDurability, FileStatistics, ItemView, KeyRange, KvStore, RolledBack, Scan,
    ScanEnd, Snapshot, VbucketPosition, VbucketStatus,
};
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use log_store::fuzzing;
pub use log_store::{CompactionJob, CreateOptions, LogStore, OpenOptions, Salvaged};
pub use memory::{MemoryAccount, MemoryMarks, MemoryPool, MemoryToken};
pub use memory_store::MemoryStore;
pub use outcome::{AbortReason, Job, Outcome};
pub use retention::Retention;
pub use seqno::{Seqno, SeqnoRange, SnapshotRange};
pub use vbucket::{
    Incarnation, RollbackEpoch, SnapshotKind, Topology, VbucketId, VbucketIdentity, VbucketState,
    VbucketStateRecord, VbucketUuid, Watermarks,
};
