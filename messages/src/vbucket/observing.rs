//! How far a document, or a branch of a vbucket's history, has come: in memory, on disk, on other nodes.
//!
//! Invariant: an answer is of one moment, and what it says of the past stays true; what is on disk stays there.

use actix::Message;
use storage::{Cas, DocumentKey, Seqno, VbucketId, VbucketUuid};

use crate::status::OperationError;

/// Say how far the newest version of a document is.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Observed, OperationError>")]
pub struct Observe {
    /// Which.
    pub key: DocumentKey,
}

/// How far a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// There is a document.
    Found {
        /// Its version; [`Cas::LOCKED`] while it is locked.
        cas: Cas,
        /// Whether that version is on disk.
        is_persisted: bool,
    },
    /// It was deleted, and that is in memory only: a power cut may bring it back.
    Deleted {
        /// The deletion's version.
        cas: Cas,
    },
    /// There is none, in memory or on disk.
    Missing,
}

/// Say how far a vbucket is, to whoever knows a branch of its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<ObservedVbucket, OperationError>")]
pub struct ObserveVbucket {
    /// The branch, as a [`MutationToken`](super::MutationToken) names it.
    pub vbucket_uuid: VbucketUuid,
}

/// How far a vbucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedVbucket {
    /// Which.
    pub vbucket: VbucketId,
    /// The branch it is on now.
    pub vbucket_uuid: VbucketUuid,
    /// Up to here it is on disk: every change, itself or a newer one of its key.
    pub persisted_seqno: Seqno,
    /// Up to here it is in memory.
    pub current_seqno: Seqno,
    /// What became of the branch that was asked for, if it is not the one of now.
    pub failed_over: Option<FailedOver>,
    /// The nodes that take part in its durable writes, as far as they were heard; of an active vbucket.
    pub replicas: Vec<ReplicatedUpTo>,
}

impl ObservedVbucket {
    /// Whether a change of the branch that was asked for is part of the vbucket's history.
    #[must_use]
    pub fn has(&self, seqno: Seqno) -> bool {
        let end = self
            .failed_over
            .map_or(self.current_seqno, |over| over.last_seqno);
        seqno <= end
    }
}

/// A branch of history that is no longer gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedOver {
    /// Which: the one that was asked for.
    pub vbucket_uuid: VbucketUuid,
    /// Up to here it is part of the history; what it had above is lost.
    pub last_seqno: Seqno,
}

/// How far another node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicatedUpTo {
    /// What replication chains call it.
    pub node: String,
    /// It said that it holds every durable write up to here as strongly as that asks.
    pub prepared_seqno: Seqno,
}
