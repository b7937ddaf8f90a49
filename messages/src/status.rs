//! What a client can be told instead of an answer, in the protocol's terms, with what to do about it.
//!
//! Invariant: an error means nothing of the request was applied, unless its text says otherwise.

use std::sync::Arc;

use storage::{
    Advice, Cas, Document, KeyError, ManifestUid, StorageError, VbucketId, VbucketState,
    VbucketUuid,
};

use crate::collections::ManifestClash;
use crate::lifecycle::ChildName;
use crate::vbucket::GetAndLock;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// There is no document of that key.
    #[error("the document does not exist")]
    KeyNotFound,
    /// There is a document of that key already.
    #[error("the document exists already")]
    KeyExists,
    /// The document was changed since the caller read it.
    #[error("the document's cas is {}, not the one given; read it again", current.0)]
    CasMismatch {
        /// Its CAS now.
        current: Cas,
    },
    /// A key outside the limits.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A value over the limit.
    #[error("the value is {length} bytes; the most is {max}", max = Document::VALUE_LENGTH_MAX)]
    ValueTooLarge {
        /// Its length in bytes.
        length: usize,
    },
    /// A value that no number of 64 bits in decimal digits is (the field's `DeltaBadval`).
    #[error("the value is not a number in decimal digits that fits 64 bits; write one first")]
    DeltaBadValue,
    /// Bytes cannot be added to a value that is compressed, or begins with extended attributes.
    #[error("the value is compressed or has extended attributes; read it and write it whole")]
    NotExtensible,
    /// Somebody has the document locked, and the request does not name the CAS of that lock.
    #[error("the document is locked; give the cas of the lock, or wait until it ends")]
    Locked,
    /// There is no lock to be taken back: it ended by itself, or with a change.
    #[error("the document is not locked; read it again")]
    NotLocked,
    /// A lock longer than any can be.
    #[error(
        "a lock of {seconds} s is too long; ask for {max} s at most",
        max = GetAndLock::SECONDS_MAX
    )]
    LockTimeTooLong {
        /// What was asked for.
        seconds: u32,
    },
    /// The version there stays ([`Resolution::ByRevision`](crate::vbucket::Resolution)); nothing was written (the field's
    /// `KeyEexists`).
    #[error("the document there is of a later revision, with cas {}, and stays", current.0)]
    ConflictLost {
        /// Its CAS; [`Cas::LOCKED`] while it is locked.
        current: Cas,
    },
    /// A CAS that no document can have.
    #[error("a document cannot have cas {}; give the one it has where it was written", cas.0)]
    InvalidCas {
        /// What was given.
        cas: Cas,
    },
    /// A CAS so far ahead of this node's clock that every document written after it would have to follow it.
    #[error(
        "cas {} is {ahead_s} s ahead of this node's clock; set the clocks right, {max} s are the most",
        cas.0,
        max = OperationError::CAS_AHEAD_S_MAX
    )]
    CasTooFarAhead {
        /// What was given.
        cas: Cas,
        /// How far that is, in seconds.
        ahead_s: u64,
    },
    /// The vbucket knows of no such branch of its history: it was rolled back behind it, or never had it.
    #[error("vbucket {vbucket} has no branch of history {:016x}; what was written on it is not here", vbucket_uuid.0)]
    UnknownHistory {
        /// Which vbucket.
        vbucket: VbucketId,
        /// What was asked for.
        vbucket_uuid: VbucketUuid,
    },
    /// There is no such collection: it was dropped, or never was (the field's `UnknownCollection`).
    #[error("the collection is not in manifest {}; look it up by its name again", manifest_uid.0)]
    UnknownCollection {
        /// The manifest that does not have it.
        manifest_uid: ManifestUid,
    },
    /// The bucket has no such vbucket.
    #[error("vbucket {0} does not exist in this bucket")]
    UnknownVbucket(VbucketId),
    /// The vbucket is in a state that does not serve this request (the field's `NotMyVbucket`).
    #[error("vbucket {vbucket} is {state:?} and does not serve this request; ask the active one")]
    NotMyVbucket {
        /// Which.
        vbucket: VbucketId,
        /// Its state.
        state: VbucketState,
    },
    /// The vbucket was taken out of service; it is not empty.
    #[error("vbucket {vbucket} is out of service: {cause}")]
    VbucketDown {
        /// Which.
        vbucket: VbucketId,
        /// Why.
        cause: DownCause,
    },
    /// A panic interrupted an operation on this vbucket, or the operation itself; it is being repaired. Whether
    /// the request was applied is not known: read the document, then decide.
    #[error(
        "an operation on vbucket {vbucket} crashed; read the document again before you repeat the request"
    )]
    Crashed {
        /// Which.
        vbucket: VbucketId,
    },
    /// The actor panicked, or was restarted with a sibling, while the request was under way. Whether it was done is
    /// not known.
    #[error(
        "{child} crashed while the request was under way; look whether it was done, then repeat it"
    )]
    ActorCrashed {
        /// Which.
        child: ChildName,
    },
    /// The actor was taken out of service.
    #[error("{child} is out of service: {cause}; open the bucket again")]
    ActorDown {
        /// Which.
        child: ChildName,
        /// Why.
        cause: DownCause,
    },
    /// Nothing was accepted; the same request may succeed later.
    #[error("temporary failure: {0}; try again later")]
    TemporaryFailure(Busy),
    /// A replica operation of a stream that was superseded (rule R17).
    #[error("the stream that sent this was superseded")]
    StaleStream,
    /// A replicated item that does not fit the vbucket's history.
    #[error("the replicated item does not fit: {0}")]
    BadReplication(String),
    /// Replication chains no vbucket can have.
    #[error("the topology is not valid: {0}")]
    InvalidTopology(String),
    /// A level this bucket does not offer, or a timeout outside the range (the field's 0xa0).
    #[error(
        "the durable write asks for a level this bucket does not offer, or for a timeout outside 1 to 65534 ms; ask for another"
    )]
    DurabilityInvalidLevel,
    /// No write can be committed with the nodes there are; nothing was written (0xa1).
    #[error(
        "the replication chain has too few nodes for a majority, or more than this bucket allows; set another topology"
    )]
    DurabilityImpossible,
    /// An operation that cannot be durable.
    #[error("this operation cannot be durable; write the document instead")]
    DurabilityNotSupported,
    /// A durable write of this key is under way; nothing was written (0xa2).
    #[error("a durable write of this document is under way; try again when it is over")]
    SyncWriteInProgress,
    /// The durable write was accepted, and may or may not be committed (0xa3).
    #[error(
        "whether the durable write is committed is not known; read the document before you repeat it"
    )]
    SyncWriteAmbiguous,
    /// A read of a document whose durable write may have been committed elsewhere, and is being committed anew (0xa4).
    #[error("a durable write of this document is being committed anew; try again later")]
    SyncWriteReCommitInProgress,
    /// The vbucket would become active, or follow a source, and its collections and those its bucket has elsewhere cannot
    /// both be: they were made in different buckets.
    #[error(
        "vbucket {vbucket} has other collections than its bucket: {clash}; \
         drop the one in the bucket, or make its other vbuckets follow the same source"
    )]
    ManifestClash {
        /// Which.
        vbucket: VbucketId,
        /// What cannot be both.
        clash: Box<ManifestClash>,
    },
    /// The bucket was shut down.
    #[error("the bucket is shut down; open it again")]
    Closed,
}

/// What a temporary failure waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Busy {
    /// The bucket's memory quota is used up (rule R15).
    #[error("the memory quota is used up")]
    Memory,
    /// Too many requests wait already.
    #[error("too many requests are waiting")]
    Queue,
    /// The disk has no space left; reads go on.
    #[error("the disk is full")]
    DiskFull,
    /// The vbucket's documents are not loaded yet.
    #[error("the vbucket is warming up")]
    WarmingUp,
    /// The vbucket waits to become active.
    #[error("the vbucket is pending")]
    Pending,
    /// A child of the bucket is being restarted.
    #[error("the actor is being restarted")]
    Restarting,
    /// The vbucket, a replica, is being taken back to where its source's history parted from its own.
    #[error("the vbucket is being rolled back")]
    RollingBack,
    /// The vbucket is handed over to another node.
    #[error("the vbucket is handed over to another node")]
    HandingOver,
    /// The vbucket has no replication chain yet that could hold a durable write.
    #[error("no topology was set yet")]
    NoTopology,
    /// What the store holds of the document must be looked up first; both doors do that by themselves.
    #[error("the document is not in memory")]
    NotInMemory,
    /// As many documents of the vbucket are locked as can be.
    #[error("too many documents are locked")]
    Locks,
}

/// Why a vbucket is out of service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DownCause {
    /// What the store says of it.
    #[error("{0}")]
    Storage(Arc<StorageError>),
    /// The supervisor gave it up: its children failed too often.
    #[error("it failed too often: {0}")]
    Escalated(String),
}

impl OperationError {
    /// How far a CAS that is brought along may be ahead of the clock: 65 minutes, as in the field.
    pub const CAS_AHEAD_S_MAX: u64 = 3900;

    /// What the caller does next.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            OperationError::KeyNotFound
            | OperationError::KeyExists
            | OperationError::CasMismatch { .. }
            | OperationError::Key(_)
            | OperationError::ValueTooLarge { .. }
            | OperationError::DeltaBadValue
            | OperationError::ConflictLost { .. }
            | OperationError::InvalidCas { .. }
            | OperationError::CasTooFarAhead { .. }
            | OperationError::NotExtensible
            | OperationError::NotLocked
            | OperationError::LockTimeTooLong { .. }
            | OperationError::UnknownHistory { .. }
            | OperationError::UnknownCollection { .. }
            | OperationError::UnknownVbucket(_)
            | OperationError::NotMyVbucket { .. }
            | OperationError::BadReplication(_)
            | OperationError::InvalidTopology(_)
            | OperationError::DurabilityInvalidLevel
            | OperationError::DurabilityImpossible
            | OperationError::DurabilityNotSupported
            | OperationError::ManifestClash { .. } => Advice::FixRequest,
            OperationError::Locked
            | OperationError::Crashed { .. }
            | OperationError::ActorCrashed { .. }
            | OperationError::SyncWriteInProgress
            | OperationError::SyncWriteAmbiguous
            | OperationError::SyncWriteReCommitInProgress
            | OperationError::TemporaryFailure(_) => Advice::RetryLater,
            OperationError::StaleStream => Advice::Resynchronize,
            OperationError::VbucketDown { cause, .. } | OperationError::ActorDown { cause, .. } => {
                match cause {
                    DownCause::Storage(error) => error.advice(),
                    DownCause::Escalated(_) => Advice::Reopen,
                }
            }
            OperationError::Closed => Advice::Reopen,
        }
    }
}
