//! Piggin, an actor-based bucket engine: the one crate an embedder depends on.
//!
//! This crate holds re-exports and nothing else; each part says in its own documentation what it promises. A bucket in an
//! actix application, as one more actor of it:
//!
//! ```
//! use actix::prelude::*;
//! use piggin::messages::vbucket::{Acknowledge, Get, Set, WriteOptions};
//! use piggin::storage::{CollectionId, DocumentKey};
//! use piggin::{Bucket, BucketActor, BucketConfig, Shutdown};
//!
//! # let directory = std::env::temp_dir().join(format!("piggin-doc-{}", std::process::id()));
//! System::new().block_on(async {
//!     let bucket = Bucket::open_or_create(BucketConfig::at(&directory)).await?;
//!     let bucket = BucketActor::new(bucket).start();
//!
//!     let key = DocumentKey::new(CollectionId::DEFAULT, b"greeting")?;
//!     // Answered once it is on disk; without that, once it is in memory.
//!     let options = WriteOptions { acknowledge: Acknowledge::Persisted, ..WriteOptions::default() };
//!     bucket.send(Set { key: key.clone(), value: "hello".into(), options }).await??;
//!     let found = bucket.send(Get { key }).await??;
//!     assert_eq!(found.value, "hello");
//!
//!     let report = bucket.send(Shutdown).await??;
//!     assert!(report.is_clean());
//!     Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! })?;
//! # std::fs::remove_dir_all(&directory)?;
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! Any other program, on any runtime or none, calls the same bucket directly: see [`Bucket`].

#[cfg(feature = "testing")]
pub use supervisor::testing;
pub use supervisor::{
    BackupError, BackupReport, Bucket, BucketActor, BucketConfig, BucketError, BucketStatistics,
    Change, Changes, ChangesError, ChangesOptions, ChangesToken, Collection, CollectionStatistics,
    CompactionConfig, CompactionFigures, CompactionPolicy, CompactionReport, CompactorAddr,
    DurabilityFigures, Figures, KeepsSalvage, Location, MemoryStatistics, Moment, Past,
    PastDocuments, PastError, ProducerAddr, RepairError, RepairOptions, RepairReport,
    ReplicateError, Replication, Restored, Scan, ScanBuilder, SetAside, Shutdown, ShutdownReport,
    Since, SizeTier, TakeOverError, TakenOver, TellsFigures, TokenError, Until, VbucketAddr,
    Version, WhyNot, WriteFuture, WriteRequest, repair, restore, vbucket_of,
};
pub use {actors, messages, storage, supervisor};

/// The programs in README.md, compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
