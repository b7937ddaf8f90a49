//! What a bucket was at an earlier moment: found, read, scanned, and written down as a bucket of its own.
//!
//! Invariant: a past is of one moment, whatever is written, compacted or dropped meanwhile. Of each vbucket it is what the
//! last commit at or before that moment left: everything acknowledged as persisted by then, nothing written later. What
//! it is not known any more is refused, never guessed.

mod error;
mod find;
mod read;
mod restore;
mod versions;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actors::store_handle::StoreGeneration;
use storage::{CreateOptions, DroppedCollection, Retention, Seqno, Snapshot, VbucketId};

use crate::changes::ChangesToken;
use crate::running::Held;
pub use error::PastError;
pub use read::PastDocuments;
pub use restore::Restored;
pub use versions::Version;

/// Which moment of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Of all vbuckets the same time, in milliseconds since the Unix epoch.
    TimeMs(u64),
    /// Of each vbucket the seqno a token names; of one it does not name, before its first.
    Token(ChangesToken),
}

impl From<SystemTime> for Moment {
    /// A time before the epoch is the epoch.
    fn from(time: SystemTime) -> Moment {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
        Moment::from(since_epoch.unwrap_or_default())
    }
}

impl From<Duration> for Moment {
    /// So long after the Unix epoch.
    fn from(since_epoch: Duration) -> Moment {
        Moment::TimeMs(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<ChangesToken> for Moment {
    fn from(token: ChangesToken) -> Moment {
        Moment::Token(token)
    }
}

/// A bucket as it was. A handle of the bucket goes with it. Whatever it reads it reads from the disk, on the caller's
/// thread.
#[derive(Debug)]
pub struct Past {
    held: Arc<Held>,
    /// The opening of the store it reads.
    generation: StoreGeneration,
    shape: CreateOptions,
    retention: Retention,
    vbuckets: Vec<PastVbucket>,
}

/// One vbucket as it was.
#[derive(Debug)]
struct PastVbucket {
    snapshot: Box<dyn Snapshot>,
    dropped: Vec<DroppedCollection>,
    /// By then a document had expired or had not.
    time_s: u32,
}

impl Past {
    /// The seqno a vbucket had come to.
    #[must_use]
    pub fn seqno(&self, vbucket: VbucketId) -> Option<Seqno> {
        let one = self.vbuckets.get(vbucket.index())?;
        Some(one.snapshot.high_seqno())
    }
}
