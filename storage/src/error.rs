//! Errors of the store, and what the caller does next.
//!
//! Invariant: every variant names a fact; [`StorageError::advice`] is total and says what helps.

use std::sync::Arc;

use crate::disk::{DiskError, DiskErrorKind};
use crate::document::KeyError;
use crate::kv_store::Batch;
use crate::seqno::Seqno;
use crate::vbucket::{Incarnation, RollbackEpoch, VbucketId};

/// Anything that can go wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No such vbucket.
    #[error("vbucket {0} does not exist in this store")]
    UnknownVbucket(VbucketId),
    /// It exists already.
    #[error("vbucket {0} exists already")]
    VbucketExists(VbucketId),
    /// It exists, but cannot be served; its data is left as it is.
    #[error("vbucket {vbucket} is out of service: {cause}")]
    VbucketDown {
        /// Which.
        vbucket: VbucketId,
        /// Why.
        cause: Arc<StorageError>,
    },
    /// A log shard as a whole cannot be served, nor written to; its files are left as they are.
    #[error("log shard {shard} is out of service: {cause}")]
    ShardDown {
        /// Which.
        shard: u16,
        /// Why.
        cause: Arc<StorageError>,
    },
    /// A batch was refused before anything was written.
    #[error("batch for vbucket {vbucket} refused: {refusal}")]
    Refused {
        /// Whose batch.
        vbucket: VbucketId,
        /// Why.
        refusal: Refusal,
    },
    /// A rollback to a seqno the vbucket has not reached.
    #[error("vbucket {vbucket} cannot be rolled back to {to}: it is at {high_seqno}")]
    RollbackAbove {
        /// Which.
        vbucket: VbucketId,
        /// The seqno asked for.
        to: Seqno,
        /// Highest seqno held.
        high_seqno: Seqno,
    },
    /// A past the vbucket has not come to.
    #[error("vbucket {vbucket} was never at {to}: it is at {high_seqno}")]
    NotReached {
        /// Which.
        vbucket: VbucketId,
        /// The seqno asked for.
        to: Seqno,
        /// Highest seqno held.
        high_seqno: Seqno,
    },
    /// A past of which something is no longer held.
    #[error("what vbucket {vbucket} was at {to} is no longer known, only from {from} on")]
    Forgotten {
        /// Which.
        vbucket: VbucketId,
        /// The seqno asked for.
        to: Seqno,
        /// The seqno from which on its past is known.
        from: Seqno,
    },
    /// A moment of which something is no longer held.
    #[error(
        "what vbucket {vbucket} was at {time_ms} ms is no longer known, only from {from_ms} ms on"
    )]
    ForgottenTime {
        /// Which.
        vbucket: VbucketId,
        /// The moment asked for, in milliseconds since the Unix epoch.
        time_ms: u64,
        /// The first moment that is known.
        from_ms: u64,
    },
    /// A key outside the limits.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A call on the disk failed.
    #[error("disk: {0}")]
    Disk(#[from] DiskError),
    /// Bytes that are not what was written.
    #[error("corruption in {file} at offset {offset}: {what}")]
    Corruption {
        /// The file's name.
        file: String,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A store of another format version.
    #[error("the store has format version {found}; this program reads {expected}")]
    FormatVersion {
        /// Version found.
        found: u32,
        /// Version this program writes.
        expected: u32,
    },
    /// The directory holds files of another program.
    #[error("the directory is not a store: it holds {0}")]
    ForeignDirectory(String),
    /// There is no store to open.
    #[error("there is no store in this directory; create one, or give the directory of another")]
    NoStore,
    /// There is a store already where one should be created.
    #[error("there is a store in this directory already; open it, or give another directory")]
    StoreExists,
    /// A setting outside its limits, or other than the one stored at creation.
    #[error("{0}")]
    Setting(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// It could not be read at once.
    #[error("the disk, or others, would have to be waited for; read it where that is allowed")]
    WouldWait,
    /// A snapshot was asked for something it does not hold any more.
    #[error("the version wanted is no longer held")]
    Gone,
}

/// Why a batch was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The vbucket was deleted and created anew since the batch was made.
    #[error("it is of incarnation {given:?}, the vbucket is at {current:?}")]
    StaleIncarnation {
        /// The batch's.
        given: Incarnation,
        /// The vbucket's.
        current: Incarnation,
    },
    /// The vbucket was rolled back since the batch was made.
    #[error("it is of rollback epoch {given:?}, the vbucket is at {current:?}")]
    StaleEpoch {
        /// The batch's.
        given: RollbackEpoch,
        /// The vbucket's.
        current: RollbackEpoch,
    },
    /// Its first seqno is not above what the store holds (MB-65737).
    #[error("its first seqno is {given}, the store holds up to {persisted}")]
    SeqnoNotAbovePersisted {
        /// First seqno of the batch.
        given: Seqno,
        /// Highest seqno in the store.
        persisted: Seqno,
    },
    /// Its items do not rise in seqno, or one has the seqno that none may have.
    #[error("its items do not rise in seqno at {at}")]
    SeqnoOrder {
        /// The first seqno out of order.
        at: Seqno,
    },
    /// Its watermarks contradict its items or go back.
    #[error("its high seqno {high} is not that of its items ({items})")]
    HighSeqno {
        /// High seqno of the watermarks.
        high: Seqno,
        /// High seqno expected.
        items: Seqno,
    },
    /// A value over the limit.
    #[error("the value at seqno {seqno} is {length} bytes; the most is 20 MiB")]
    ValueTooLarge {
        /// Whose value.
        seqno: Seqno,
        /// Its length in bytes.
        length: usize,
    },
    /// Its items are over what one batch may hold.
    #[error("its items are {bytes} bytes; the most is {max}", max = Batch::BYTES_MAX)]
    BatchTooLarge {
        /// Bytes of its keys, values and metadata.
        bytes: u64,
    },
    /// Its state names a topology over the limit.
    #[error("its topology is {bytes} bytes; the most is 1 MiB")]
    TopologyTooLarge {
        /// Bytes of the topology.
        bytes: usize,
    },
    /// Its purge seqno is above everything the vbucket holds with it (MB-63977).
    #[error("its purge seqno {purge} is above its high seqno {high}")]
    PurgeSeqno {
        /// Purge seqno of the watermarks.
        purge: Seqno,
        /// Their high seqno.
        high: Seqno,
    },
    /// An item of the system events' namespace says nothing that can be read, or ends what had not begun.
    #[error("the item at seqno {at} is no system event; write the key and value of one")]
    SystemEvent {
        /// Its seqno.
        at: Seqno,
    },
    /// Two batches of one group are for the same vbucket.
    #[error("the group holds another batch of the same vbucket")]
    DuplicateVbucket,
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The request was wrong; the same request will fail again.
    FixRequest,
    /// Nothing was applied; try again later (perhaps after making room on the disk).
    RetryLater,
    /// Take position anew from the store, then send what is above it.
    Resynchronize,
    /// Close the store and open it again.
    Reopen,
    /// Data on disk is damaged: run verify, restore or delete what it names.
    Repair,
}

impl StorageError {
    /// What the caller does next.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            StorageError::UnknownVbucket(_)
            | StorageError::VbucketExists(_)
            | StorageError::RollbackAbove { .. }
            | StorageError::NotReached { .. }
            | StorageError::Forgotten { .. }
            | StorageError::ForgottenTime { .. }
            | StorageError::Key(_)
            | StorageError::FormatVersion { .. }
            | StorageError::ForeignDirectory(_)
            | StorageError::NoStore
            | StorageError::StoreExists
            | StorageError::Setting(_)
            | StorageError::Gone => Advice::FixRequest,
            StorageError::WouldWait => Advice::RetryLater,
            StorageError::Refused { refusal, .. } => match refusal {
                Refusal::StaleIncarnation { .. }
                | Refusal::StaleEpoch { .. }
                | Refusal::SeqnoNotAbovePersisted { .. } => Advice::Resynchronize,
                Refusal::SeqnoOrder { .. }
                | Refusal::HighSeqno { .. }
                | Refusal::ValueTooLarge { .. }
                | Refusal::BatchTooLarge { .. }
                | Refusal::TopologyTooLarge { .. }
                | Refusal::PurgeSeqno { .. }
                | Refusal::SystemEvent { .. }
                | Refusal::DuplicateVbucket => Advice::FixRequest,
            },
            // Down because a call on the disk failed: its data may be as it should be.
            StorageError::VbucketDown { cause, .. } | StorageError::ShardDown { cause, .. }
                if matches!(**cause, StorageError::Disk(_)) =>
            {
                Advice::Reopen
            }
            StorageError::VbucketDown { .. }
            | StorageError::ShardDown { .. }
            | StorageError::Corruption { .. } => Advice::Repair,
            StorageError::Closed => Advice::Reopen,
            StorageError::Disk(error) => match error.kind {
                DiskErrorKind::Full
                | DiskErrorKind::Locked
                | DiskErrorKind::WouldWait
                | DiskErrorKind::Other(_) => Advice::RetryLater,
                DiskErrorKind::NotFound
                | DiskErrorKind::EndOfFile
                | DiskErrorKind::PowerCut
                | DiskErrorKind::Exists => Advice::Reopen,
                DiskErrorKind::ReadOnly
                | DiskErrorKind::PermissionDenied
                | DiskErrorKind::NotADirectory => Advice::FixRequest,
            },
        }
    }

    /// Whether it says something of the bytes of one file only, so that what lies elsewhere may be served.
    pub(crate) fn is_of_one_file(&self) -> bool {
        if let StorageError::Disk(error) = self {
            return matches!(
                error.kind,
                DiskErrorKind::EndOfFile | DiskErrorKind::Other(_)
            );
        }
        matches!(self, StorageError::Corruption { .. })
    }

    /// Corruption in `file` at `offset`.
    pub(crate) fn corruption(
        file: impl Into<String>,
        offset: u64,
        what: impl Into<String>,
    ) -> StorageError {
        StorageError::Corruption {
            file: file.into(),
            offset,
            what: what.into(),
        }
    }
}
