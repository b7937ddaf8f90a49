//! Why there is no such past.
//!
//! Invariant: every refusal says the fact and what may be asked for instead, and nothing was changed by it.

use messages::OperationError;
use storage::{Advice, KeyError, Seqno, StorageError, VbucketId};

use crate::backup::BackupError;
use crate::changes::TokenError;

/// Why a past cannot be had, read or written down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PastError {
    /// The bucket keeps no history.
    #[error("the bucket keeps no history; create one that does, and load it from this one")]
    NoHistory,
    /// A time that lies before what is kept.
    #[error("{time_ms} ms lies before the history that is kept; give a time from {from_ms} ms on")]
    BeforeWindow {
        /// The time asked for, in milliseconds since the Unix epoch.
        time_ms: u64,
        /// The first that may be asked for.
        from_ms: u64,
    },
    /// A time that has not passed.
    #[error("{time_ms} ms has not passed, it is {now_ms} ms; give an earlier time")]
    NotYet {
        /// The time asked for, in milliseconds since the Unix epoch.
        time_ms: u64,
        /// What time it is.
        now_ms: u64,
    },
    /// The token was not taken.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token names a history this vbucket never had, or no longer has.
    #[error(
        "the token is of another bucket, or of a past that vbucket {vbucket} was taken back from; give a token of this bucket"
    )]
    OtherHistory {
        /// Which.
        vbucket: VbucketId,
    },
    /// The moment lies within what came from another node as a snapshot, which has no past.
    #[error(
        "vbucket {vbucket} got seqno {seqno} from another node in a snapshot that is whole at seqno {from} only; give a moment from there on"
    )]
    NotWhole {
        /// Which.
        vbucket: VbucketId,
        /// Where that moment lies.
        seqno: Seqno,
        /// Where the snapshot ends.
        from: Seqno,
    },
    /// The store was closed, or opened anew, since, and what was read of it cannot be read on.
    #[error("the bucket's files were closed or opened anew since; ask for the past again")]
    Outlived,
    /// No such collection at that moment.
    #[error("there was no collection {scope}.{collection} then; give one that was there")]
    UnknownCollection {
        /// Name of the scope.
        scope: String,
        /// Name of the collection.
        collection: String,
    },
    /// A key outside the limits.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store's word.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It could not be written down: what was read, or the place where it goes.
    #[error(transparent)]
    Copy(BackupError),
    /// The bucket's word.
    #[error(transparent)]
    Bucket(#[from] OperationError),
}

impl From<BackupError> for PastError {
    fn from(error: BackupError) -> PastError {
        match error {
            BackupError::Flush(error) => PastError::Bucket(error),
            BackupError::CutOff => PastError::Outlived,
            // Each says of which side it is.
            BackupError::Source(_)
            | BackupError::Target(_)
            | BackupError::Down { .. }
            | BackupError::Copy(_)
            | BackupError::Differs { .. }
            | BackupError::Damaged { .. }
            | BackupError::Engine(_) => PastError::Copy(error),
        }
    }
}

impl PastError {
    /// What the caller does next.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            PastError::NoHistory
            | PastError::BeforeWindow { .. }
            | PastError::NotYet { .. }
            | PastError::Token(_)
            | PastError::OtherHistory { .. }
            | PastError::NotWhole { .. }
            | PastError::UnknownCollection { .. }
            | PastError::Key(_) => Advice::FixRequest,
            PastError::Outlived => Advice::RetryLater,
            PastError::Storage(error) => error.advice(),
            PastError::Copy(error) => error.advice(),
            PastError::Bucket(error) => error.advice(),
        }
    }
}
