//! The words of the engine: every message, one file per receiver, and what can be answered. No behaviour.
//!
//! | sender | message | receiver | answer |
//! |---|---|---|---|
//! | client | [`vbucket::Get`], [`vbucket::GetMeta`], [`vbucket::GetMany`] | vbucket | the documents, or why not |
//! | client | [`vbucket::Set`], `Add`, `Replace`, `Delete`, `Touch`, `GetAndTouch`, [`vbucket::Append`], `Prepend`, `Count`, [`vbucket::WriteBatch`] | vbucket | [`vbucket::Mutated`] |
//! | client | [`vbucket::GetAndLock`], [`vbucket::Unlock`] | vbucket | the document with the lock's CAS; that it is free |
//! | client | [`vbucket::SetWithMeta`], `DeleteWithMeta` | vbucket | [`vbucket::Mutated`] |
//! | client | [`vbucket::Observe`], [`vbucket::ObserveVbucket`] | vbucket | how far a document, or a branch of its history, is |
//! | client | [`vbucket::GetRandom`] | vbucket | [`vbucket::Picked`] |
//! | client | [`scan::OpenScan`], `ReadScan`, `CloseScan` | vbucket | a page of a range of keys |
//! | client | [`durability::WriteDurably`] | vbucket | [`vbucket::Mutated`], once it is decided |
//! | operator | [`vbucket::SetVbucketState`], [`vbucket::DescribeVbucket`] | vbucket | [`vbucket::VbucketDescription`] |
//! | operator | [`collections::ChangeManifest`], [`collections::GetManifest`] | bucket | the new uid, the manifest |
//! | supervisor | [`vbucket::EraseEnded`] | vbucket | how far it is |
//! | vbucket, writer | [`flusher::Wake`] | flusher | none: what changed is in shared state |
//! | operator | [`flusher::PauseFlushing`], [`flusher::ResumeFlushing`], [`flusher::FlushNow`] | flusher | when it is so |
//! | supervisor | [`flusher::StopFlushing`] | flusher | what could not be written in time |
//! | operator | [`compactor::Compact`] | compactor | [`storage::Compacted`], or [`compactor::CompactError`] |
//! | operator | [`compactor::CompactionStatuses`], `SetCompactionLimit`, `CancelCompaction` | compactor | what there is; the limit; how many |
//! | compactor | [`compactor::PreparesErased`] | durability monitor | none: may come twice |
//! | consumer | [`stream::OpenStream`], `CloseStream`, `BufferAcknowledge`, `GetFailoverLog` | producer | the stream, or why not |
//! | replica | [`stream::AcknowledgePrepared`] | producer | none: the stream may be over |
//! | producer | [`stream::StreamBatch`] | consumer | none: it acknowledges bytes |
//! | vbucket, backfill | [`stream::LookAtStreams`] | producer | none: what changed is in shared state |
//! | every background job | [`failure::Failure`] | failure bus, and its subscribers | none |

pub mod status;
pub mod failure;
pub mod lifecycle;
pub mod vbucket;
pub mod scan;
pub mod durability;
pub mod collections;
pub mod flusher;
pub mod compactor;
pub mod stream;
pub mod replication;

pub use collections::{
    ChangeManifest, CollectionsManifest, ManifestChange, ManifestClash, ManifestError,
};
pub use compactor::{CompactError, CompactOptions};
pub use durability::{Durability, DurabilityStatus, WriteDurably};
pub use failure::{Failure, FailureCause, FailureId, FailureKind, FailureNotice, NextStep};
pub use lifecycle::{ChildName, Generation};
pub use scan::{ScanError, ScanRange};
pub use status::{Busy, DownCause, OperationError};
