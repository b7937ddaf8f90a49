//! What a vbucket is asked. Each struct of a client's operation is its argument at both doors: the message to the
//! vbucket's actor, and the direct call on the caller's thread.
//!
//! Answers: an error means nothing was applied ([`OperationError::Crashed`] excepted). A write is acknowledged as its
//! [`Acknowledge`] says.

mod amending;
mod with_meta;
mod observing;

use actix::Message;
use bytes::Bytes;
use storage::{
    Cas, Datatype, DocumentKey, Expiry, Item, Outcome, RevSeqno, Seqno, SnapshotRange, Topology,
    VbucketCounts, VbucketId, VbucketState, VbucketUuid,
};

use crate::status::OperationError;
pub use amending::{Append, Count, Delta, GetAndLock, Prepend, Unlock};
pub use observing::{
    FailedOver, Observe, ObserveVbucket, Observed, ObservedVbucket, ReplicatedUpTo,
};
pub use with_meta::{DeleteWithMeta, GetRandom, GivenMeta, Resolution, SetWithMeta};

/// Answer of a read: a live document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// Everything else.
    pub meta: Meta,
}

/// A document that was not asked for by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Its key.
    pub key: DocumentKey,
    /// The rest.
    pub found: Found,
}

/// A document's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its version; [`Cas::LOCKED`] while it is locked.
    pub cas: Cas,
    /// The client's flags.
    pub flags: u32,
    /// What the value's bytes are.
    pub datatype: Datatype,
    /// When it expires, absolute; zero is never.
    pub expiry: Expiry,
    /// How often it was changed.
    pub rev_seqno: RevSeqno,
    /// Its place in the vbucket's history.
    pub seqno: Seqno,
    /// Whether this is a tombstone (only [`GetMeta`] shows one).
    pub is_deleted: bool,
}

impl Meta {
    /// Of an item.
    #[must_use]
    pub const fn of(item: &Item) -> Meta {
        let document = &item.document;
        Meta {
            cas: document.cas,
            flags: document.flags,
            datatype: document.datatype,
            expiry: document.expiry,
            rev_seqno: document.rev_seqno,
            seqno: item.seqno,
            is_deleted: item.operation.is_tombstone(),
        }
    }
}

/// Names a change for ever: which branch of history, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MutationToken {
    /// The vbucket.
    pub vbucket: VbucketId,
    /// The branch of its history.
    pub vbucket_uuid: VbucketUuid,
    /// The place in it.
    pub seqno: Seqno,
}

/// Answer of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutated {
    /// The document's new version.
    pub cas: Cas,
    /// Where the change lies.
    pub token: MutationToken,
    /// The number it is now, of a [`Count`].
    pub counter: Option<u64>,
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// Once it is in memory: it survives the panic of any actor, not the death of the process.
    #[default]
    InMemory,
    /// Once it is on this node's disk.
    Persisted,
}

/// When a document shall expire, as a client says it: zero is never, up to 30 days are seconds from now, more is
/// seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpiryRequest(pub u32);

impl ExpiryRequest {
    /// The longest time that counts from now, in seconds (30 days).
    pub const RELATIVE_SECONDS_MAX: u32 = 30 * 24 * 60 * 60;
}

/// What a write of a whole document brings besides key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// The version the caller read; the write fails when it is not the present one.
    pub cas: Option<Cas>,
    /// Kept as they are.
    pub flags: u32,
    /// What the value's bytes are.
    pub datatype: Datatype,
    /// When it expires.
    pub expiry: ExpiryRequest,
    /// When the write is answered.
    pub acknowledge: Acknowledge,
}

/// Read a document.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Found, OperationError>")]
pub struct Get {
    /// Which.
    pub key: DocumentKey,
}

/// Read metadata only; shows tombstones that are still in memory, too.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Meta, OperationError>")]
pub struct GetMeta {
    /// Which.
    pub key: DocumentKey,
}

/// Read many documents of one vbucket, answered in order.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Vec<Result<Found, OperationError>>")]
pub struct GetMany {
    /// Which.
    pub keys: Vec<DocumentKey>,
}

/// Write a document, whatever was there.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct Set {
    /// Which.
    pub key: DocumentKey,
    /// Its new value.
    pub value: Bytes,
    /// The rest.
    pub options: WriteOptions,
}

/// Write a document that must not be there yet. A CAS given is refused as a mismatch.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct Add {
    /// Which.
    pub key: DocumentKey,
    /// Its value.
    pub value: Bytes,
    /// The rest.
    pub options: WriteOptions,
}

/// Write a document that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct Replace {
    /// Which.
    pub key: DocumentKey,
    /// Its new value.
    pub value: Bytes,
    /// The rest.
    pub options: WriteOptions,
}

/// Delete a document that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct Delete {
    /// Which.
    pub key: DocumentKey,
    /// The version the caller read.
    pub cas: Option<Cas>,
    /// When it is answered.
    pub acknowledge: Acknowledge,
}

/// Give a document another expiry, which is a change like any other.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct Touch {
    /// Which.
    pub key: DocumentKey,
    /// When it expires from now on.
    pub expiry: ExpiryRequest,
    /// When it is answered.
    pub acknowledge: Acknowledge,
}

/// [`Touch`], answered with the document and its new metadata.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Found, OperationError>")]
pub struct GetAndTouch {
    /// Which.
    pub key: DocumentKey,
    /// When it expires from now on.
    pub expiry: ExpiryRequest,
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the operation of that name")]
pub enum Write {
    Set(Set),
    Add(Add),
    Replace(Replace),
    Delete(Delete),
    Touch(Touch),
    Append(Append),
    Prepend(Prepend),
    Count(Count),
    SetWithMeta(SetWithMeta),
    DeleteWithMeta(DeleteWithMeta),
}

impl Write {
    /// The document it is about.
    #[must_use]
    pub fn key(&self) -> &DocumentKey {
        match self {
            Write::Set(set) => &set.key,
            Write::Add(add) => &add.key,
            Write::Replace(replace) => &replace.key,
            Write::Delete(delete) => &delete.key,
            Write::Touch(touch) => &touch.key,
            Write::Append(append) => &append.key,
            Write::Prepend(prepend) => &prepend.key,
            Write::Count(count) => &count.key,
            Write::SetWithMeta(set) => &set.key,
            Write::DeleteWithMeta(delete) => &delete.key,
        }
    }

    /// When it is answered.
    #[must_use]
    pub fn acknowledge(&self) -> Acknowledge {
        match self {
            Write::Set(set) => set.options.acknowledge,
            Write::Add(add) => add.options.acknowledge,
            Write::Replace(replace) => replace.options.acknowledge,
            Write::Delete(delete) => delete.acknowledge,
            Write::Touch(touch) => touch.acknowledge,
            Write::Append(append) => append.acknowledge,
            Write::Prepend(prepend) => prepend.acknowledge,
            Write::Count(count) => count.acknowledge,
            Write::SetWithMeta(set) => set.acknowledge,
            Write::DeleteWithMeta(delete) => delete.acknowledge,
        }
    }

    /// Bytes of the value it brings.
    #[must_use]
    pub fn value_bytes(&self) -> u64 {
        let value = match self {
            Write::Set(set) => &set.value,
            Write::Add(add) => &add.value,
            Write::Replace(replace) => &replace.value,
            Write::Append(append) => &append.value,
            Write::Prepend(prepend) => &prepend.value,
            Write::SetWithMeta(set) => &set.value,
            Write::Delete(_) | Write::Touch(_) | Write::Count(_) | Write::DeleteWithMeta(_) => {
                return 0;
            }
        };
        value.len() as u64
    }

    /// Whether it is done whatever there is, so that nobody needs to know that.
    #[must_use]
    pub const fn is_blind(&self) -> bool {
        match self {
            Write::Set(set) => set.options.cas.is_none(),
            Write::SetWithMeta(set) => {
                set.cas.is_none() && matches!(set.resolution, Resolution::Skip)
            }
            Write::DeleteWithMeta(delete) => {
                delete.cas.is_none() && matches!(delete.resolution, Resolution::Skip)
            }
            Write::Add(_)
            | Write::Replace(_)
            | Write::Delete(_)
            | Write::Touch(_)
            | Write::Append(_)
            | Write::Prepend(_)
            | Write::Count(_) => false,
        }
    }

    /// Whether it may ask for a durability level.
    #[must_use]
    pub const fn can_be_durable(&self) -> bool {
        match self {
            Write::Set(_)
            | Write::Add(_)
            | Write::Replace(_)
            | Write::Delete(_)
            | Write::Append(_)
            | Write::Prepend(_)
            | Write::Count(_) => true,
            Write::Touch(_) | Write::SetWithMeta(_) | Write::DeleteWithMeta(_) => false,
        }
    }
}

/// Many writes of one vbucket under one lock: each for itself (no atomicity over the batch), answered in order.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Vec<Result<Mutated, OperationError>>")]
pub struct WriteBatch {
    /// The writes.
    pub writes: Vec<Write>,
}

/// Make the vbucket active, replica, pending or dead.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<VbucketDescription, OperationError>")]
pub struct SetVbucketState {
    /// What it shall be.
    pub state: VbucketState,
    /// Its replication chains from now on, of none to take them away. `None` leaves them while the vbucket stays active,
    /// and takes them away when it becomes active or ceases to be.
    pub topology: Option<Topology>,
    /// A takeover: the new active goes on with the old one's history, no failover entry is made.
    pub is_takeover: bool,
}

/// Say how the vbucket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<VbucketDescription, OperationError>")]
pub struct DescribeVbucket;

/// Take some more documents of collections that ended out of memory; once more for as long as it yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Outcome<()>, OperationError>")]
pub struct EraseEnded;

/// How a vbucket stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VbucketDescription {
    /// Which.
    pub vbucket: VbucketId,
    /// What it may do.
    pub state: VbucketState,
    /// Newest branch of its history.
    pub vbucket_uuid: VbucketUuid,
    /// Highest seqno in memory.
    pub high_seqno: Seqno,
    /// Highest seqno on disk.
    pub persisted_seqno: Seqno,
    /// Highest tombstone purged.
    pub purge_seqno: Seqno,
    /// The snapshot the newest items belong to.
    pub snapshot: SnapshotRange,
    /// Live documents in memory.
    pub documents: u64,
    /// Whether the store may hold more, because some left memory.
    pub lacks_documents: bool,
    /// Counts of the store, as of the last flush; `None` while the vbucket is down.
    pub persisted_counts: Option<VbucketCounts>,
    /// Why it is out of service, if it is.
    pub down: Option<crate::status::DownCause>,
}

impl VbucketDescription {
    /// How a vbucket stands of which nothing could be read (yet).
    #[must_use]
    pub fn without_core(
        vbucket: VbucketId,
        down: Option<crate::status::DownCause>,
    ) -> VbucketDescription {
        VbucketDescription {
            vbucket,
            state: VbucketState::Dead,
            vbucket_uuid: VbucketUuid(0),
            high_seqno: Seqno::ZERO,
            persisted_seqno: Seqno::ZERO,
            purge_seqno: Seqno::ZERO,
            snapshot: SnapshotRange::default(),
            documents: 0,
            lacks_documents: false,
            persisted_counts: None,
            down,
        }
    }
}
