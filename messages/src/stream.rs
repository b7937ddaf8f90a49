//! Change streams: what a producer is asked, what it answers, and what it sends. The names are those of the field's
//! protocol (DCP); see `docs/streams.md`.
//!
//! Invariant: a request has one answer, a stream that was opened ends with exactly one [`StreamEvent::StreamEnd`], and
//! between the two the events of one vbucket come in the order of their seqnos.

use std::sync::Arc;

use actix::{Message, Recipient};
use storage::{
    Cas, CollectionId, FailoverEntry, Item, ScopeId, Seqno, SnapshotRange, SystemEvent, VbucketId,
    VbucketUuid,
};

use crate::status::OperationError;

/// One stream; never used twice while a bucket is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// How a stream is wanted, as the field's bit set. A bit that is not named here is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamFlags(pub u32);

impl StreamFlags {
    /// Only what is on disk at the request; the stream ends there.
    pub const DISK_ONLY: StreamFlags = StreamFlags(0x02);
    /// The stream ends at what is the newest at the request.
    pub const TO_LATEST: StreamFlags = StreamFlags(0x04);
    /// The vbucket must be active.
    pub const ACTIVE_VB_ONLY: StreamFlags = StreamFlags(0x10);
    /// The vbucket's uuid is compared also at a start of zero.
    pub const STRICT_VB_UUID: StreamFlags = StreamFlags(0x20);
    /// The stream begins behind what is the newest at the request.
    pub const FROM_LATEST: StreamFlags = StreamFlags(0x40);
    /// That tombstones above the start were purged is no reason to roll back.
    pub const IGNORE_PURGED_TOMBSTONES: StreamFlags = StreamFlags(0x80);
    /// All that a producer knows.
    pub const KNOWN: StreamFlags = StreamFlags(0x02 | 0x04 | 0x10 | 0x20 | 0x40 | 0x80);

    /// Whether all bits of `flag` are set.
    #[must_use]
    pub const fn has(self, flag: StreamFlags) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, flags: StreamFlags) -> StreamFlags {
        StreamFlags(self.0 | flags.0)
    }
}

/// What of a vbucket is streamed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StreamFilter {
    /// Everything.
    #[default]
    All,
    /// These collections, and the events of them.
    Collections(Vec<CollectionId>),
    /// The collections of this scope, also those it gets later.
    Scope(ScopeId),
}

/// What a stream is asked for. `start` is the last seqno the consumer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRequest {
    /// Which vbucket.
    pub vbucket: VbucketId,
    /// Name of the consumer: a vbucket has one stream of a name and a stream number.
    pub consumer: Arc<str>,
    /// Number of the stream, for a consumer that wants several of a vbucket.
    pub stream_number: u16,
    /// How.
    pub flags: StreamFlags,
    /// The last seqno the consumer has; zero for nothing.
    pub start: Seqno,
    /// The stream ends once it sent the snapshot that holds this; [`Seqno::MAX`] for never.
    pub end: Seqno,
    /// The branch of history the consumer's items are of; zero for none.
    pub vbucket_uuid: VbucketUuid,
    /// The snapshot `start` lies in.
    pub snapshot: SnapshotRange,
    /// What is streamed.
    pub filter: StreamFilter,
    /// The rest.
    pub options: StreamOptions,
}

impl StreamRequest {
    /// Everything of a vbucket, from its beginning on, without an end.
    #[must_use]
    pub fn new(vbucket: VbucketId, consumer: &str) -> StreamRequest {
        StreamRequest {
            vbucket,
            consumer: consumer.into(),
            stream_number: 0,
            flags: StreamFlags::default(),
            start: Seqno::ZERO,
            end: Seqno::MAX,
            vbucket_uuid: VbucketUuid(0),
            snapshot: SnapshotRange::default(),
            filter: StreamFilter::All,
            options: StreamOptions::default(),
        }
    }
}

/// The rest of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Up to here the consumer has purged tombstones itself.
    pub purge_seqno: Seqno,
    /// Bytes that may be sent and not acknowledged (by [`BufferAcknowledge`]); one event may overshoot it. `None`: the
    /// consumer acknowledges nothing, and only its mailbox holds the producer up.
    pub buffer_bytes: Option<u64>,
    /// The consumer is a replica, which takes part in durable writes. `None`: it is told of what is committed, and of
    /// nothing else.
    pub sync_replication: Option<SyncReplication>,
    /// Every version that the bucket's history holds, not only the newest of each key. Of a bucket that keeps one.
    pub history: bool,
}

/// A consumer that takes part in durable writes: it is told of prepares, and says which it holds
/// ([`AcknowledgePrepared`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncReplication {
    /// Its name in replication chains.
    pub node: Arc<str>,
    /// The snapshot it stands in came from a disk. What that left out it lacks until the end of it, so it goes on from
    /// disk, at least to there.
    pub is_in_disk_snapshot: bool,
}

impl StreamOptions {
    /// What may be under way to one consumer if nothing else is said: some frames of the store, little enough that a
    /// consumer of a thousand vbuckets that stands still costs no more than its share of a quota.
    pub const BUFFER_BYTES: u64 = 1 << 20;
}

impl Default for StreamOptions {
    fn default() -> StreamOptions {
        StreamOptions {
            purge_seqno: Seqno::ZERO,
            buffer_bytes: Some(StreamOptions::BUFFER_BYTES),
            sync_replication: None,
            history: false,
        }
    }
}

/// Open a stream. Sent by a consumer; once it is answered with success, events come to `to` until `StreamEnd`.
#[derive(Clone, Message)]
#[rtype(result = "Result<StreamOpened, StreamRequestError>")]
pub struct OpenStream {
    /// What is asked for.
    pub request: StreamRequest,
    /// Who gets the events.
    pub to: Recipient<StreamBatch>,
}

impl std::fmt::Debug for OpenStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenStream").field(&self.request).finish()
    }
}

/// Answer of a request that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOpened {
    /// The stream.
    pub stream: StreamId,
    /// The branches of the vbucket's history, newest first: what the consumer's items are of from now on.
    pub failover_log: Vec<FailoverEntry>,
    /// Everything up to here the consumer has: known only now where the request said `FROM_LATEST`.
    pub start: Seqno,
    /// Where it ends, if it ends: known only now where the request said `TO_LATEST` or `DISK_ONLY`.
    pub end: Seqno,
}

/// Why a stream was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamRequestError {
    /// The vbucket does not serve it.
    #[error(transparent)]
    Vbucket(#[from] OperationError),
    /// A flag no producer knows, or none of this version.
    #[error("the flags {unknown:#x} are not known; leave them out")]
    UnknownFlags {
        /// The bits.
        unknown: u32,
    },
    /// A name no node of a replication chain may have.
    #[error("the name of a node is 1 to 200 bytes, this one is {length}")]
    NodeName {
        /// Its length in bytes.
        length: usize,
    },
    /// A stream of a replica that would leave something out. What a node says it holds counts for everything up to there.
    #[error(
        "a stream with sync_replication carries everything behind what its consumer has; leave out the filter and FROM_LATEST"
    )]
    PartialReplica,
    /// A name no consumer may have.
    #[error("the name of a consumer is 1 to 200 bytes, this one is {length}")]
    ConsumerName {
        /// Its length in bytes.
        length: usize,
    },
    /// Every version is asked for of a bucket that keeps the newest only.
    #[error(
        "vbucket {vbucket} keeps no history; ask without it, or create a bucket that keeps one"
    )]
    NoHistory {
        /// The vbucket.
        vbucket: VbucketId,
    },
    /// Every version is asked for by a replica, or of a scope: what of the past was in that one is not known everywhere.
    #[error(
        "history is told of everything or of collections that are named, and to no replica; ask without it, or name the collections"
    )]
    HistoryOfScope,
    /// The start lies above the end.
    #[error("the stream starts at {start} and ends at {end}; start it at or below its end")]
    StartAboveEnd {
        /// Its start.
        start: Seqno,
        /// Its end.
        end: Seqno,
    },
    /// The start does not lie in the snapshot that was given.
    #[error(
        "the start {start} does not lie in the snapshot {} to {}; give the snapshot it lies in",
        snapshot.start, snapshot.end
    )]
    OutsideSnapshot {
        /// The start.
        start: Seqno,
        /// The snapshot.
        snapshot: SnapshotRange,
    },
    /// The start lies above all there is.
    #[error("the start {start} lies above the vbucket's newest item {high}; start at or below it")]
    StartAboveHigh {
        /// The start.
        start: Seqno,
        /// The newest item.
        high: Seqno,
    },
    /// A filter that names no collection.
    #[error("the filter names no collection; name one, or filter nothing")]
    EmptyFilter,
    /// A collection this vbucket does not have.
    #[error("collection {} does not exist in this vbucket", .0.0)]
    UnknownCollection(CollectionId),
    /// A scope this vbucket does not have.
    #[error("scope {} does not exist in this vbucket", .0.0)]
    UnknownScope(ScopeId),
    /// There is such a stream already; it goes on.
    #[error(
        "consumer {consumer} has stream {stream_number} of this vbucket already; close it first"
    )]
    StreamExists {
        /// The consumer.
        consumer: Arc<str>,
        /// The stream's number.
        stream_number: u16,
    },
    /// The node has another stream already, which goes on: what it says is heard on one.
    #[error("node {node} has a stream of this vbucket already; close it first")]
    NodeHasStream {
        /// The node.
        node: Arc<str>,
    },
    /// What the consumer has is not part of this vbucket's history, or may lack deletions: it must go back.
    #[error("the consumer must roll back to {seqno}, then ask again")]
    Rollback {
        /// To where.
        seqno: Seqno,
    },
    /// The vbucket is getting its own first snapshot.
    #[error("the vbucket is receiving its first snapshot; try again later")]
    ReceivingInitialSnapshot,
}

/// Close a stream. Its `StreamEnd` says `Closed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), StreamError>")]
pub struct CloseStream {
    /// Of which vbucket.
    pub vbucket: VbucketId,
    /// Which.
    pub stream: StreamId,
}

/// The consumer is done with so many bytes of what it got (see [`StreamBatch::bytes`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), StreamError>")]
pub struct BufferAcknowledge {
    /// Of which vbucket.
    pub vbucket: VbucketId,
    /// Which stream.
    pub stream: StreamId,
    /// How many.
    pub bytes: u64,
}

/// The consumer, a replica, holds every prepare up to `seqno` as strongly as that asks. Rising values; of a stream that
/// ended nothing is heard, and the next one says it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), StreamError>")]
pub struct AcknowledgePrepared {
    /// Of which vbucket.
    pub vbucket: VbucketId,
    /// Which stream.
    pub stream: StreamId,
    /// Up to here; not above what the stream sent.
    pub seqno: Seqno,
}

/// Say the branches of a vbucket's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Vec<FailoverEntry>, StreamRequestError>")]
pub struct GetFailoverLog {
    /// Which vbucket.
    pub vbucket: VbucketId,
}

/// Something changed: look at the shared state. At most one is under way per edge (rule R18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LookAtStreams;

/// What is said of a stream that was named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// There is no such stream (any more).
    #[error("there is no stream {} of vbucket {vbucket}; it ended", stream.0)]
    NotFound {
        /// The vbucket.
        vbucket: VbucketId,
        /// The stream.
        stream: StreamId,
    },
    /// More was acknowledged than was sent; nothing of it counts.
    #[error("{acknowledged} bytes were acknowledged, but only {outstanding} are outstanding")]
    AcknowledgedTooMuch {
        /// The bytes given.
        acknowledged: u64,
        /// Sent, and not acknowledged yet.
        outstanding: u64,
    },
    /// A prepare was acknowledged that the stream did not send. It is ended: whoever says that knows not what it holds.
    #[error(
        "seqno {acknowledged} was acknowledged as prepared, but only {sent} was sent; the stream ends"
    )]
    AcknowledgedUnsent {
        /// The seqno given.
        acknowledged: Seqno,
        /// The last one sent.
        sent: Seqno,
    },
    /// A prepare was acknowledged on a stream that shows none.
    #[error("stream {} shows no prepares; ask for one with the name of a node", .0.0)]
    NotSynchronous(StreamId),
    /// The producer gave no answer.
    #[error(transparent)]
    Producer(#[from] OperationError),
}

/// Events of one stream, in order. Bytes are those of the field's protocol, headers included.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct StreamBatch {
    /// Of which vbucket.
    pub vbucket: VbucketId,
    /// Of which stream.
    pub stream: StreamId,
    /// The events.
    pub events: Vec<StreamEvent>,
    /// What they count for flow control.
    pub bytes: u64,
}

/// Something a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// A snapshot begins: what follows, up to its end, is one.
    SnapshotMarker(Box<SnapshotMarker>),
    /// A document was written.
    Mutation(Arc<Item>),
    /// A document was deleted.
    Deletion(Arc<Item>),
    /// A document's time was up.
    Expiration(Arc<Item>),
    /// A durable write waits for its replicas. This and the next two only where they were asked for
    /// ([`StreamOptions::sync_replication`]).
    Prepare(Arc<Item>),
    /// A durable write was committed: the document as of now. Not in a snapshot from disk, where it is a mutation or a
    /// deletion.
    Commit(Arc<Item>),
    /// A durable write was given up.
    Abort(Arc<Item>),
    /// A collection or scope began or ended.
    SystemEvent(Box<SystemEventAt>),
    /// Everything up to here was sent, or is not for this stream.
    SeqnoAdvanced(Seqno),
    /// Nothing more comes.
    StreamEnd(StreamEndReason),
}

impl StreamEvent {
    /// Its place in the vbucket's history; a snapshot begins at none.
    #[must_use]
    pub fn seqno(&self) -> Option<Seqno> {
        match self {
            StreamEvent::Mutation(item)
            | StreamEvent::Deletion(item)
            | StreamEvent::Expiration(item)
            | StreamEvent::Prepare(item)
            | StreamEvent::Commit(item)
            | StreamEvent::Abort(item) => Some(item.seqno),
            StreamEvent::SystemEvent(event) => Some(event.seqno),
            StreamEvent::SeqnoAdvanced(seqno) => Some(*seqno),
            StreamEvent::SnapshotMarker(_) | StreamEvent::StreamEnd(_) => None,
        }
    }
}

/// A system event at its seqno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemEventAt {
    /// Its place in the vbucket's history.
    pub seqno: Seqno,
    /// Its version.
    pub cas: Cas,
    /// The event.
    pub event: SystemEvent,
}

/// What a snapshot is, as the field's bit set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFlags(pub u32);

impl SnapshotFlags {
    /// From memory.
    pub const MEMORY: SnapshotFlags = SnapshotFlags(0x01);
    /// From disk: without [`SnapshotFlags::HISTORY`] the newest version of each key only.
    pub const DISK: SnapshotFlags = SnapshotFlags(0x02);
    /// A replica begins a new checkpoint.
    pub const CHECKPOINT: SnapshotFlags = SnapshotFlags(0x04);
    /// Every version the vbucket has. Only where it was asked for ([`StreamOptions::history`]).
    pub const HISTORY: SnapshotFlags = SnapshotFlags(0x10);
    /// It may hold several versions of a key.
    pub const MAY_CONTAIN_DUPLICATES: SnapshotFlags = SnapshotFlags(0x20);

    /// Whether all bits of `flag` are set.
    #[must_use]
    pub const fn has(self, flag: SnapshotFlags) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, flags: SnapshotFlags) -> SnapshotFlags {
        SnapshotFlags(self.0 | flags.0)
    }
}

/// A snapshot that begins. Its end is delivered, by an item or by a `SeqnoAdvanced`, unless the stream ends before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotMarker {
    /// Its first seqno, above the end of the one before; of a stream's first, at or below what was asked for. The marker of
    /// a history says the range of the one before again, if that told what there was when the history began: both are one.
    pub start: Seqno,
    /// Its last seqno. A consumer that has it has what the vbucket was at that seqno.
    pub end: Seqno,
    /// What it is.
    pub flags: SnapshotFlags,
    /// Highest seqno that readers without sync-writes may see.
    pub max_visible_seqno: Option<Seqno>,
    /// Highest completed prepare; always there on a disk snapshot.
    pub high_completed_seqno: Option<Seqno>,
    /// Highest prepare held acknowledged.
    pub high_prepared_seqno: Option<Seqno>,
    /// Highest tombstone purged.
    pub purge_seqno: Option<Seqno>,
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamEndReason {
    /// All that was asked for was sent.
    Ok,
    /// The consumer closed it.
    Closed,
    /// The vbucket is not what it was, or was taken from under the stream; ask again.
    StateChanged,
    /// The producer is gone: it crashed, or the bucket is being shut down.
    Disconnected,
    /// The consumer took nothing for so long that its backfill was given up.
    Slow,
    /// Reading from disk failed.
    BackfillFail,
    /// The vbucket was rolled back, or tombstones the stream would have needed were purged; ask again.
    Rollback,
    /// The last collection of its filter is gone.
    FilterEmpty,
    /// The consumer may no longer read it.
    LostPrivileges,
    /// The vbucket was taken out of service.
    VbucketDown,
}

impl StreamEndReason {
    /// Its name, in small letters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            StreamEndReason::Ok => "ok",
            StreamEndReason::Closed => "closed",
            StreamEndReason::StateChanged => "state_changed",
            StreamEndReason::Disconnected => "disconnected",
            StreamEndReason::Slow => "slow",
            StreamEndReason::BackfillFail => "backfill_fail",
            StreamEndReason::Rollback => "rollback",
            StreamEndReason::FilterEmpty => "filter_empty",
            StreamEndReason::LostPrivileges => "lost_privileges",
            StreamEndReason::VbucketDown => "vbucket_down",
        }
    }
}
