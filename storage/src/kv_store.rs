//! The trait every store implements: everything an actor may ask of the disk.
//!
//! Invariant: both implementations ([`crate::LogStore`], [`crate::MemoryStore`]) give the same answers to the same
//! calls; one property suite runs on both. A batch is atomic per vbucket; a snapshot never changes.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::cas::Cas;
use crate::collections::DroppedCollection;
use crate::compaction::{Compacted, CompactionFailure, CompactionRequest};
use crate::counts::VbucketCounts;
use crate::document::{
    CollectionId, Datatype, Document, DocumentKey, Expiry, Item, KeyError, Namespace, Operation,
    Predecessor, RevSeqno, split,
};
use crate::error::StorageError;
use crate::memory::MemoryToken;
use crate::outcome::Outcome;
use crate::seqno::{Seqno, SeqnoRange};
use crate::vbucket::{
    Incarnation, RollbackEpoch, VbucketId, VbucketIdentity, VbucketStateRecord, Watermarks,
};

/// A durable map of vbuckets.
pub trait KvStore: std::fmt::Debug + Send + Sync + 'static {
    /// Creates a vbucket that holds nothing but this state. Durable when it returns.
    fn create_vbucket(
        &self,
        vbucket: VbucketId,
        state: &VbucketStateRecord,
    ) -> Result<Incarnation, StorageError>;

    /// Deletes a vbucket and everything in it, also one that is down. Durable when it returns.
    fn delete_vbucket(&self, vbucket: VbucketId) -> Result<(), StorageError>;

    /// Every vbucket there is, in order.
    fn vbuckets(&self) -> Vec<VbucketStatus>;

    /// Writes batches of many vbuckets with one sync. One answer per batch, in order; an `Err` means nothing of
    /// that batch is visible. Batches of other vbuckets are not affected by one that is refused. After an `Err`
    /// from the disk a crash may still bring the batch back whole, until a later sync or checkpoint succeeded.
    fn commit(
        &self,
        group: &[Batch],
        durability: CommitDurability,
    ) -> Vec<Result<(), StorageError>>;

    /// Makes everything committed so far durable.
    fn sync(&self) -> Result<(), StorageError>;

    /// A frozen view of one vbucket.
    fn snapshot(&self, vbucket: VbucketId) -> Result<Box<dyn Snapshot>, StorageError>;

    /// The newest version of a key, tombstones included.
    fn get(
        &self,
        vbucket: VbucketId,
        namespace: Namespace,
        key: &DocumentKey,
    ) -> Result<Option<Item>, StorageError> {
        self.snapshot(vbucket)?.get(namespace, key)
    }

    /// The newest versions of many keys of one vbucket, in the order of `keys`, all from one snapshot.
    fn get_many(
        &self,
        vbucket: VbucketId,
        namespace: Namespace,
        keys: &[DocumentKey],
    ) -> Result<Vec<Result<Option<Item>, StorageError>>, StorageError> {
        let snapshot = self.snapshot(vbucket)?;
        Ok(keys
            .iter()
            .map(|key| snapshot.get(namespace, key))
            .collect())
    }

    /// The vbucket's state record.
    fn state(&self, vbucket: VbucketId) -> Result<VbucketStateRecord, StorageError> {
        Ok(self.snapshot(vbucket)?.state())
    }

    /// Counts and sizes, exact.
    fn counts(&self, vbucket: VbucketId) -> Result<VbucketCounts, StorageError> {
        self.snapshot(vbucket)?.counts()
    }

    /// Takes the vbucket back to `to`: what it holds afterwards is exactly what it held at that seqno, or, where
    /// that is no longer known, nothing at all. Every rollback begins a new epoch, also one to the high seqno,
    /// which changes nothing else; one above it fails. Durable when complete.
    fn rollback(&self, vbucket: VbucketId, to: Seqno) -> Outcome<RolledBack>;

    /// Turns what was committed so far into its final form on disk. `history_floor`: versions whose killer is at
    /// or below it may be dropped, and rollback below their killers becomes a reset (rule R11).
    fn seal(&self, vbucket: VbucketId, history_floor: Seqno) -> Outcome<()>;

    /// Writes anew what stays of a vbucket: without what is superseded at or below the history floor, without
    /// dropped collections, completed prepares and the tombstones the request names. Seals first, unless only the
    /// newest segments are asked for. One publish makes all of it visible, durable when it is told.
    fn compact(
        &self,
        vbucket: VbucketId,
        request: &CompactionRequest,
    ) -> Outcome<Compacted, CompactionFailure>;

    /// Space on disk of one vbucket.
    fn file_statistics(&self, vbucket: VbucketId) -> Result<FileStatistics, StorageError>;
}

/// A frozen view of one vbucket: everything read through it is from the same moment.
pub trait Snapshot: std::fmt::Debug + Send + Sync {
    /// The vbucket it is of.
    fn vbucket(&self) -> VbucketId;
    /// The life of the vbucket it is of.
    fn incarnation(&self) -> Incarnation;
    /// The rollback epoch it is of.
    fn epoch(&self) -> RollbackEpoch;
    /// The state record of that moment.
    fn state(&self) -> VbucketStateRecord;
    /// Highest seqno of that moment.
    fn high_seqno(&self) -> Seqno {
        self.state().watermarks.high_seqno
    }
    /// The newest version of a key, tombstones included.
    fn get(&self, namespace: Namespace, key: &DocumentKey) -> Result<Option<Item>, StorageError>;
    /// The same without waiting for the disk or for others, and without work that takes its time:
    /// [`StorageError::WouldWait`] where it cannot be known that way; never a wrong answer.
    fn get_at_once(
        &self,
        namespace: Namespace,
        key: &DocumentKey,
    ) -> Result<Option<Item>, StorageError>;
    /// Counts and sizes of that moment.
    fn counts(&self) -> Result<VbucketCounts, StorageError>;
    /// Lives of collections that ended and are not erased yet: what of them can still be read is no longer theirs.
    fn dropped_collections(&self) -> Vec<DroppedCollection>;
    /// The newest version of every key (tombstones included) whose seqno lies in `range`, by rising seqno.
    fn scan_by_seqno(&self, range: SeqnoRange) -> Box<dyn Scan>;
    /// The newest version of every key (tombstones included) in `range`, by rising key.
    fn scan_by_key(&self, range: KeyRange) -> Box<dyn Scan>;
    /// Every version whose seqno lies in `range` and that is still held, by rising seqno. From
    /// [`Snapshot::history_start`] on none is missing.
    fn scan_history(&self, range: SeqnoRange) -> Box<dyn Scan>;
    /// The newest versions of a key that are still held, so many at most, newest first.
    fn versions(
        &self,
        namespace: Namespace,
        key: &DocumentKey,
        most: usize,
    ) -> Result<Vec<Item>, StorageError>;
    /// For each of these seqnos, which rise and are not above the high seqno, what the first batch left that is known and
    /// ended at or above it. Below [`Snapshot::history_start`] few are known, so it may be of any later time. One pass.
    fn batch_ends(&self, rising: &[Seqno]) -> Result<Vec<Watermarks>, StorageError>;
    /// When the item at `seqno`, which is not above the high seqno, was committed, in milliseconds since the Unix epoch;
    /// between batch ends that are known no more, a little later; below [`Snapshot::history_start`] any time later.
    fn committed_at(&self, seqno: Seqno) -> Result<u64, StorageError> {
        let ends = self.batch_ends(&[seqno])?;
        let newest = self.state().watermarks;
        Ok(ends.first().unwrap_or(&newest).commit_time_ms)
    }
    /// The seqno from which on every version is still held.
    fn history_start(&self) -> Seqno;
    /// What the vbucket was at `to`, for any seqno a rollback to which would be exact: a snapshot like this one. Like a
    /// rollback it says that moment's watermarks and this one's purge seqno and identity. It reads what superseded what,
    /// so it costs more than this one did; its counts are counted anew when they are asked for.
    fn as_of(&self, to: Seqno) -> Result<Box<dyn Snapshot>, StorageError>;
    /// The high seqno of the last batch that was committed at or before that moment, in milliseconds since the Unix
    /// epoch; an error for one that is no longer known, as a rule because it lies before the history that is kept. Where
    /// batches were too many to know the end of each, that of an earlier one.
    fn seqno_at(&self, time_ms: u64) -> Result<Seqno, StorageError>;
}

/// A scan in bounded steps. A new scan from the last item's successor goes on where one ended.
pub trait Scan: std::fmt::Debug + Send {
    /// Hands items to `visit` until about `bytes_max` bytes were read ([`Outcome::Yielded`]), or all were
    /// ([`Outcome::Complete`]); `visit` may break off, which is [`Outcome::Aborted`] after the item it was
    /// given. A failed scan never looks complete (MB-47790), and stays failed.
    fn step(
        &mut self,
        bytes_max: usize,
        visit: &mut dyn FnMut(ItemView<'_>) -> ControlFlow<()>,
    ) -> Outcome<ScanEnd>;
}

/// Proof that a scan is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanEnd {
    /// Items handed out.
    pub items: u64,
    /// The snapshot's high seqno, up to which the scan is complete.
    pub high_seqno: Seqno,
}

/// An item borrowed from wherever the scan found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemView<'a> {
    /// Its place in the vbucket's history.
    pub seqno: Seqno,
    /// What put it there.
    pub operation: Operation,
    /// What the writer said it replaces.
    pub predecessor: Predecessor,
    /// The encoded key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// What the value's bytes are.
    pub datatype: Datatype,
    /// The client's flags.
    pub flags: u32,
    /// When it expires.
    pub expiry: Expiry,
    /// Its version.
    pub cas: Cas,
    /// How often it was changed.
    pub rev_seqno: RevSeqno,
}

impl<'a> ItemView<'a> {
    /// A view of an owned item.
    #[must_use]
    pub fn of(item: &'a Item) -> ItemView<'a> {
        ItemView {
            seqno: item.seqno,
            operation: item.operation,
            predecessor: item.predecessor,
            key: item.document.key.as_encoded(),
            value: &item.document.value,
            datatype: item.document.datatype,
            flags: item.document.flags,
            expiry: item.document.expiry,
            cas: item.document.cas,
            rev_seqno: item.document.rev_seqno,
        }
    }

    /// The collection it is of; `None` for what is no key.
    #[must_use]
    pub fn collection(&self) -> Option<CollectionId> {
        let (collection, _) = split(self.key).ok()?;
        Some(collection)
    }

    /// The namespace it lies in.
    #[must_use]
    pub const fn namespace(&self) -> Namespace {
        self.operation.namespace()
    }

    /// An owned item around `value`, which must hold the view's value (a copy, or a shared slice).
    pub fn to_item(&self, value: Bytes) -> Result<Item, KeyError> {
        Ok(Item {
            seqno: self.seqno,
            operation: self.operation,
            predecessor: self.predecessor,
            document: Document {
                key: DocumentKey::from_encoded(self.key)?,
                value,
                datatype: self.datatype,
                flags: self.flags,
                expiry: self.expiry,
                cas: self.cas,
                rev_seqno: self.rev_seqno,
            },
            token: MemoryToken::default(),
        })
    }
}

/// Keys of one namespace, by their encoded form: `first <= key < end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The namespace.
    pub namespace: Namespace,
    /// First encoded key wanted; empty for the beginning.
    pub first: Vec<u8>,
    /// First encoded key no longer wanted; `None` for no end.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key of a namespace.
    #[must_use]
    pub fn all(namespace: Namespace) -> KeyRange {
        KeyRange {
            namespace,
            first: Vec::new(),
            end: None,
        }
    }
}

/// What one flush writes for one vbucket, atomically: items and how far the vbucket has come.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Whose.
    pub vbucket: VbucketId,
    /// The life of the vbucket it was made for.
    pub incarnation: Incarnation,
    /// The rollback epoch it was made in.
    pub epoch: RollbackEpoch,
    /// By rising seqno, all above what the store holds. Empty for a state-only flush.
    pub items: Vec<Arc<Item>>,
    /// How far the vbucket has come with these items; its high seqno is that of the last item (or, without
    /// items, the store's).
    pub watermarks: Watermarks,
    /// What the vbucket is, when that changed.
    pub identity: Option<Arc<VbucketIdentity>>,
}

impl Batch {
    /// Most bytes of keys, values and metadata: a batch is one frame of the log, written, and read back, whole.
    pub const BYTES_MAX: u64 = 1 << 30;

    /// A batch of written documents for a vbucket at `position`, with the watermarks they lead to.
    #[must_use]
    pub fn of_documents(
        vbucket: VbucketId,
        position: &VbucketPosition,
        items: Vec<Arc<Item>>,
        commit_time_ms: u64,
    ) -> Batch {
        let high_seqno = items.last().map_or(position.high_seqno, |item| item.seqno);
        Batch {
            vbucket,
            incarnation: position.incarnation,
            epoch: position.epoch,
            items,
            watermarks: Watermarks::at(high_seqno, commit_time_ms),
            identity: None,
        }
    }
}

/// When a commit is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitDurability {
    /// After its data is on disk.
    Synced,
    /// After its data was handed to the operating system; durable after the next sync. For bulk loads.
    Buffered,
}

/// What a rollback came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolledBack {
    /// The vbucket is exactly what it was at that seqno.
    To {
        /// The seqno.
        seqno: Seqno,
        /// The epoch batches must carry from now on.
        epoch: RollbackEpoch,
    },
    /// That moment is no longer known: the vbucket is empty.
    ToZero {
        /// The epoch batches must carry from now on.
        epoch: RollbackEpoch,
    },
}

/// One vbucket of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VbucketStatus {
    /// Which.
    pub vbucket: VbucketId,
    /// Its incarnation, epoch and high seqno, or why it is out of service.
    pub position: Result<VbucketPosition, StorageError>,
}

/// Where a vbucket stands in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VbucketPosition {
    /// Which life.
    pub incarnation: Incarnation,
    /// Which rollback epoch.
    pub epoch: RollbackEpoch,
    /// Highest seqno held.
    pub high_seqno: Seqno,
}

/// Space of one vbucket on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStatistics {
    /// Bytes of the newest versions in segments, with their share of indexes.
    pub live_bytes: u64,
    /// Bytes of its segments.
    pub total_bytes: u64,
    /// Bytes that are only in the log and in memory so far.
    pub unsealed_bytes: u64,
    /// How many segments it has.
    pub segments: usize,
}

impl FileStatistics {
    /// Share of the segments' bytes that is dead, in per mille.
    #[must_use]
    pub fn fragmentation_permille(&self) -> u64 {
        let dead = self.total_bytes.saturating_sub(self.live_bytes);
        dead.saturating_mul(1000)
            .checked_div(self.total_bytes)
            .unwrap_or(0)
    }
}
