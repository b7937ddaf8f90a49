//! Compaction: what may be asked of it, what it tells, and which items it lets go.
//!
//! Invariant: the rules are pure functions of a request and of what the vbucket was when the run began, the same for
//! every store; nothing goes that a rollback to the history floor or above could still ask for (rule R11).

mod rules;

use crate::cas::Cas;
use crate::collections::DroppedCollection;
use crate::document::{CollectionId, DocumentKey, Namespace};
use crate::error::StorageError;
use crate::kv_store::Snapshot;
use crate::seqno::Seqno;

pub(crate) use rules::{Completions, Highest, LostHighs, Rules};

/// What a compaction is to do besides leaving out what is superseded, erasing what was dropped, and forgetting
/// prepares that are completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionRequest {
    /// Merge the newest segments, as many as are worth it, without what is superseded in them at or below the history
    /// floor, and nothing else of all this: for a vbucket that has too many segments.
    pub newest_only: bool,
    /// Forget every tombstone that may be forgotten at all, whatever its age.
    pub drop_deletes: bool,
    /// Forget tombstones of deletions before this, in seconds since the Unix epoch; zero: none because of its age.
    pub purge_before_s: u32,
    /// Because of its age, forget only tombstones up to here.
    pub purge_up_to: Option<Seqno>,
    /// Tell documents whose expiry is before this; they are kept. Zero: do not look.
    pub expired_at_s: u32,
    /// What is superseded, dropped or deleted above this stays: a rollback may still ask for it (rule R11). Where the store
    /// keeps a history, what lies inside of that stays whatever is said here.
    pub history_floor: Seqno,
    /// What time it is, in milliseconds since the Unix epoch, for a store that keeps a history; zero, or a time before the
    /// newest commit, is the time of that one.
    pub now_ms: u64,
    /// What is written is synced whenever it has grown by so many bytes.
    pub sync_bytes: u64,
}

impl CompactionRequest {
    /// A sync of so many bytes does not hold up commits for long.
    pub const SYNC_BYTES: u64 = 4 << 20;
}

impl Default for CompactionRequest {
    /// Only what nobody can ask for any more goes; no tombstone does.
    fn default() -> CompactionRequest {
        CompactionRequest {
            newest_only: false,
            drop_deletes: false,
            purge_before_s: 0,
            purge_up_to: None,
            expired_at_s: 0,
            history_floor: Seqno::MAX,
            now_ms: 0,
            sync_bytes: CompactionRequest::SYNC_BYTES,
        }
    }
}

/// Where in a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompactionStage {
    /// Sealing the vbucket, and reading what it is.
    Start,
    /// Writing what stays.
    Merge,
    /// Finding what is left of a dropped collection.
    Collection(CollectionId),
    /// Finding the prepares that go.
    Prepare,
    /// Finding the system events that go.
    SystemEvent,
    /// Making the result durable and visible.
    Publish,
}

impl std::fmt::Display for CompactionStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CompactionStage::Start => f.write_str("start"),
            CompactionStage::Merge => f.write_str("merge"),
            CompactionStage::Collection(id) => write!(f, "collection {}", id.0),
            CompactionStage::Prepare => f.write_str("prepare"),
            CompactionStage::SystemEvent => f.write_str("system event"),
            CompactionStage::Publish => f.write_str("publish"),
        }
    }
}

/// What a compaction came to: durable when it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the vbucket before; of the segments merged, where only the newest were asked for.
    pub bytes_before: u64,
    /// Bytes of what took their place.
    pub bytes_after: u64,
    /// Tombstones forgotten, aborts and ends of collections and scopes among them.
    pub tombstones_purged: u64,
    /// Completed prepares forgotten.
    pub prepares_purged: u64,
    /// Items of dropped collections erased, of whatever kind.
    pub collection_items_purged: u64,
    /// The vbucket's purge seqno after it.
    pub purge_seqno: Seqno,
    /// The lives of collections of which nothing is left, and which are therefore off the drop list.
    pub erased: Vec<DroppedCollection>,
    /// Prepares of dropped collections that were erased and were not completed: whoever waits for one waits in vain.
    pub prepares_erased: Vec<ErasedPrepare>,
}

/// A prepare that was neither committed nor aborted when its collection was erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedPrepare {
    /// Its key.
    pub key: DocumentKey,
    /// Its seqno.
    pub seqno: Seqno,
}

impl ErasedPrepare {
    /// Whether a store no longer has it: erased, or overwritten by what ended it. To be asked of a store that was opened
    /// anew after a publish that did not come back ([`crate::CompactionJob::prepares_at_stake`]).
    pub fn is_gone_from(&self, snapshot: &dyn Snapshot) -> Result<bool, StorageError> {
        let newest = snapshot.get(Namespace::Prepared, &self.key)?;
        Ok(newest.is_none_or(|newest| newest.seqno != self.seqno))
    }
}

/// Why a compaction failed, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compaction failed at its stage {stage}: {cause}")]
pub struct CompactionFailure {
    /// The first stage that failed.
    pub stage: CompactionStage,
    /// Why; its advice says what helps.
    pub cause: StorageError,
    /// What was done all the same: where only the pass of a collection failed, that one stays listed and whole, and
    /// the rest is published. Otherwise nothing is.
    pub published: Option<Box<Compacted>>,
}

impl CompactionFailure {
    /// A failure after which nothing of the compaction is visible.
    #[must_use]
    pub fn at(stage: CompactionStage, cause: StorageError) -> CompactionFailure {
        CompactionFailure {
            stage,
            cause,
            published: None,
        }
    }
}

/// How far a compaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionProgress {
    /// What the next step works on.
    pub stage: CompactionStage,
    /// Bytes of records read so far.
    pub bytes_read: u64,
    /// Bytes of records to read; zero until that is known.
    pub bytes_total: u64,
    /// Bytes written so far.
    pub bytes_written: u64,
}

/// A document whose time is up: it is told, and kept, because only its vbucket may expire it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredDocument {
    /// Its key.
    pub key: DocumentKey,
    /// The version whose time is up.
    pub cas: Cas,
    /// Its seqno.
    pub seqno: Seqno,
}
