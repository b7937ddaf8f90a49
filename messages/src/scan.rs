//! Range scans: the documents of a collection whose keys lie in a range, by rising key, as one snapshot of a vbucket's disk
//! has them.
//!
//! Invariant: a scan that did not read everything says so; there is no other way to an end without an error than that
//! everything was read, or as many as were asked for.

use std::ops::Bound;
use std::time::Duration;

use actix::Message;
use bytes::Bytes;
use storage::{CollectionId, DocumentKey, Seqno, VbucketId};

use crate::failure::FailureCause;
use crate::status::OperationError;
use crate::vbucket::{Meta, MutationToken};

/// Keys of one collection, as clients say them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRange {
    /// Where it begins.
    pub start: Bound<Vec<u8>>,
    /// Where it ends.
    pub end: Bound<Vec<u8>>,
}

impl ScanRange {
    /// All of them.
    #[must_use]
    pub const fn all() -> ScanRange {
        ScanRange {
            start: Bound::Unbounded,
            end: Bound::Unbounded,
        }
    }

    /// Those that begin with this.
    #[must_use]
    pub fn prefix(prefix: impl AsRef<[u8]>) -> ScanRange {
        let prefix = prefix.as_ref();
        ScanRange {
            start: Bound::Included(prefix.to_vec()),
            end: behind_all_with(prefix).map_or(Bound::Unbounded, Bound::Excluded),
        }
    }

    /// Those from `start` on, which is one of them.
    #[must_use]
    pub fn from(start: impl AsRef<[u8]>) -> ScanRange {
        ScanRange {
            start: Bound::Included(start.as_ref().to_vec()),
            end: Bound::Unbounded,
        }
    }

    /// The same, up to `end`, which is none of them.
    #[must_use]
    pub fn up_to(self, end: impl AsRef<[u8]>) -> ScanRange {
        ScanRange {
            end: Bound::Excluded(end.as_ref().to_vec()),
            ..self
        }
    }
}

/// The first key behind all that begin with `prefix`; none where that is the end of all keys.
#[must_use]
pub fn behind_all_with(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut behind = prefix.to_vec();
    while let Some(last) = behind.last_mut() {
        if let Some(next) = last.checked_add(1) {
            *last = next;
            return Some(behind);
        }
        behind.pop();
    }
    None
}

/// What a scan must see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScanConsistency {
    /// Every write that was answered before the scan was opened. Waits until they are on disk.
    #[default]
    Answered,
    /// This change, on this branch of history. Waits until it is on disk.
    AtLeast(MutationToken),
    /// What is on disk.
    OnDisk,
}

/// A scan of one vbucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// Of which collection.
    pub collection: CollectionId,
    /// Which keys.
    pub range: ScanRange,
    /// Whether values are read, or keys and metadata only.
    pub with_values: bool,
    /// How many documents at most.
    pub limit: Option<u64>,
    /// What it must see.
    pub consistency: ScanConsistency,
    /// How long it may wait for that.
    pub patience: Duration,
    /// About so many bytes are read at once.
    pub page_bytes: usize,
}

impl ScanRequest {
    /// How long a scan waits for what it must see, if nothing is said.
    pub const PATIENCE: Duration = Duration::from_secs(30);
    /// About so many bytes are read at once, if nothing is said.
    pub const PAGE_BYTES: usize = 256 << 10;

    /// All documents of this range.
    #[must_use]
    pub const fn of(collection: CollectionId, range: ScanRange) -> ScanRequest {
        ScanRequest {
            collection,
            range,
            with_values: true,
            limit: None,
            consistency: ScanConsistency::Answered,
            patience: ScanRequest::PATIENCE,
            page_bytes: ScanRequest::PAGE_BYTES,
        }
    }
}

/// A document that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Its key.
    pub key: DocumentKey,
    /// Its metadata.
    pub meta: Meta,
    /// Its value, unless only keys were asked for.
    pub value: Option<Bytes>,
}

/// Why a scan was not opened, or did not read everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The vbucket does not serve it, or its collection was dropped meanwhile.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The store could not be read.
    #[error("vbucket {vbucket} could not be read: {cause}")]
    Unread {
        /// Which.
        vbucket: VbucketId,
        /// Why.
        cause: FailureCause,
    },
    /// What the scan must see is of another branch of history: it may be lost.
    #[error("vbucket {vbucket} has another history by now; read what you wrote again")]
    OtherHistory {
        /// Which.
        vbucket: VbucketId,
    },
    /// What the scan must see did not get to disk in time.
    #[error("seqno {} of vbucket {vbucket} is not on disk in time; try again", seqno.0)]
    NotOnDisk {
        /// Which.
        vbucket: VbucketId,
        /// What was waited for.
        seqno: Seqno,
    },
    /// Its snapshot was taken away: the store was opened anew.
    #[error("the scan was broken off, since the store was opened anew; scan again")]
    BrokenOff,
    /// Nothing was asked of it for so long that its snapshot was given back.
    #[error("the scan was given up, since nothing was asked of it for too long; scan again")]
    Idle,
    /// Reading panicked.
    #[error("reading crashed; scan again")]
    Crashed,
    /// There is no such scan: it is over, or the actor was restarted.
    #[error("there is no such scan; open another one")]
    NoScan,
}

/// A scan that was opened by message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanId(pub u64);

/// Open a scan of a vbucket. It holds a snapshot until it is read to its end or closed.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<ScanId, ScanError>")]
pub struct OpenScan(pub ScanRequest);

/// Read on in a scan. After an error there is no more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<ScanPage, ScanError>")]
pub struct ReadScan {
    /// In which.
    pub scan: ScanId,
}

/// Some of what a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// By rising key.
    pub documents: Vec<Scanned>,
    /// Whether that was all.
    pub is_complete: bool,
}

/// Close a scan, read to its end or not. Of one that is not there nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct CloseScan {
    /// Which.
    pub scan: ScanId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_prefix_lies_the_first_key_without_it() {
        assert_eq!(behind_all_with(b"ab").unwrap(), b"ac");
        assert_eq!(behind_all_with(b"a\xff\xff").unwrap(), b"b");
        assert_eq!(behind_all_with(b"\xff\xff"), None);
        assert_eq!(behind_all_with(b""), None);
    }
}
