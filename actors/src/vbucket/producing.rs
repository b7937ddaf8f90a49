//! What a stream needs of its vbucket: to be told of changes, a cursor, what lies behind it, and what its past became.
//!
//! Invariant: a cursor, a watch and a wish for whole flushes are held by a guard each, so that whatever ends a stream, a
//! panic too, leaves none behind. A stream that was begun in another past of the vbucket reads nothing more.

use std::sync::{Arc, OnceLock};

use super::checkpoint::{
    CheckpointKind, CursorError, CursorId, CursorKind, CursorName, Registered, TakeLimits, Taken,
};
use super::core::{Inner, VbucketCore};
use super::dirty::DirtyVbuckets;
use super::memory;
use super::status::Status;
use crate::durability::RoleEpoch;
use crate::stream::{OpenCollection, VbucketView};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use messages::{Busy, CollectionsManifest, OperationError};
use storage::{Item, Seqno, VbucketState};

/// Who is told of changes of a vbucket because of its streams.
#[derive(Debug, Default)]
pub(super) struct Watched {
    edge: OnceLock<Arc<DirtyVbuckets>>,
    watchers: AtomicUsize,
    cursors_dropped: AtomicU64,
}

/// What the lock guards of it.
#[derive(Debug, Default)]
pub(super) struct Producing {
    /// Changes of the vbucket's state.
    changes: u64,
    rollbacks: u64,
    /// Backfills that wait for a store without gaps.
    whole_wanted: u64,
}

/// A past of a vbucket: what a stream was begun in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    changes: u64,
    rollbacks: u64,
    role: RoleEpoch,
}

impl Past {
    /// The role the vbucket had: what its replicas say on the stream counts in that one.
    #[must_use]
    pub fn role(&self) -> RoleEpoch {
        self.role
    }
}

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamBreak {
    /// The vbucket's state changed.
    StateChanged,
    /// It was rolled back.
    RolledBack,
    /// It was taken out of service.
    Down,
    /// The cursor was dropped to free memory.
    CursorGone,
}

impl Producing {
    pub(super) fn note_state_changed(&mut self) {
        self.changes = self.changes.saturating_add(1);
    }

    pub(super) fn note_rolled_back(&mut self) {
        self.rollbacks = self.rollbacks.saturating_add(1);
    }
}

impl VbucketCore {
    /// How the streams of this vbucket learn of changes; set once, when the bucket is built.
    pub fn set_stream_edge(&self, edge: Arc<DirtyVbuckets>) {
        self.watched.edge.get_or_init(|| edge);
    }

    /// Somebody streams: they are told.
    pub(super) fn mark_streams(&self) {
        if self.watched.watchers.load(Ordering::SeqCst) > 0
            && let Some(edge) = self.watched.edge.get()
        {
            edge.mark(self.id());
        }
    }

    /// The vbucket as a request for a stream finds it, and its past.
    pub fn stream_view(&self) -> Result<(VbucketView, Past), OperationError> {
        self.keep_up();
        let locked = self.lock();
        self.admit_engine()?;
        if locked.rollback.is_some() {
            return Err(OperationError::TemporaryFailure(Busy::RollingBack));
        }
        let (_, _, snapshot_end, kind) = locked.log.open_snapshot();
        let high = locked.log.last_seqno();
        let manifest = self.collections_manifest();
        let view = VbucketView {
            vbucket: self.id(),
            state: locked.identity.state,
            high,
            persisted: self.persisted_seqno(),
            purge_seqno: locked.flushed.purged_up_to(high),
            snapshot_end,
            is_receiving_initial: kind == CheckpointKind::InitialDisk && high < snapshot_end,
            failover_table: locked.identity.failover_table.clone(),
            collections: self.open_collections(&manifest),
            scopes: manifest.scopes.keys().copied().collect(),
            keeps_history: locked.log.keeps_history(),
        };
        let past = Past {
            changes: locked.producing.changes,
            rollbacks: locked.producing.rollbacks,
            role: locked.durable.ledger.role(),
        };
        Ok((view, past))
    }

    /// From now on the stream edge is marked when something changes.
    #[must_use]
    pub fn watch(self: &Arc<Self>) -> StreamWatch {
        self.watched.watchers.fetch_add(1, Ordering::SeqCst);
        StreamWatch(Arc::clone(self))
    }

    /// A cursor for a stream that holds everything up to `held`. One of that name is replaced.
    pub fn register_stream(
        self: &Arc<Self>,
        name: &CursorName,
        held: Seqno,
        past: Past,
    ) -> Result<(StreamCursor, Registered), StreamBreak> {
        let mut locked = self.lock();
        self.check_past(&locked, past)?;
        let kind = CursorKind::Stream { droppable: true };
        match locked.log.register(name.clone(), held, kind) {
            Ok(registered) => {
                let cursor = StreamCursor {
                    core: Arc::clone(self),
                    id: registered.cursor,
                };
                Ok((cursor, registered))
            }
            Err(error) => {
                tracing::error!(vbucket = %self.id(), %error, "a stream got no cursor");
                Err(StreamBreak::StateChanged)
            }
        }
    }

    /// What lies behind a stream's cursor. Nothing while a panic waits to be repaired.
    pub fn take_for_stream(
        &self,
        cursor: &StreamCursor,
        past: Past,
        limits: TakeLimits,
    ) -> Result<Taken, StreamBreak> {
        let mut locked = self.lock();
        self.check_past(&locked, past)?;
        if self.status().has(Status::SUSPECT) {
            return Ok(Taken::default());
        }
        let taken = locked.log.take(cursor.id, limits);
        taken.map_err(|error| match error {
            CursorError::Gone(_) => StreamBreak::CursorGone,
            CursorError::Ahead { .. }
            | CursorError::NoLongerHeld { .. }
            | CursorError::FlushCursor => {
                tracing::error!(vbucket = %self.id(), %error, "a stream's cursor could not be read");
                StreamBreak::StateChanged
            }
        })
    }

    /// Whether a stream's cursor keeps more in memory than two full checkpoints.
    #[must_use]
    pub fn is_far_behind(&self, cursor: &StreamCursor) -> bool {
        self.lock().log.is_far_behind(cursor.id)
    }

    /// Cursors of streams were given up, so that what they kept in memory can go.
    pub fn note_cursors_dropped(&self, number: usize) {
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        let dropped = &self.watched.cursors_dropped;
        dropped.fetch_add(number, Ordering::Relaxed);
    }

    /// How many were since the vbucket was opened.
    #[must_use]
    pub fn cursors_dropped(&self) -> u64 {
        self.watched.cursors_dropped.load(Ordering::Relaxed)
    }

    /// Whether a stream that was begun in `past` may go on.
    pub fn check_stream(&self, past: Past) -> Result<(), StreamBreak> {
        self.check_past(&self.lock(), past)
    }

    /// Until the guard is dropped, what is flushed has no gaps: each batch ends where everything up to its last seqno
    /// is there, itself and not a newer version that comes with a later batch.
    #[must_use]
    pub fn want_whole_flushes(self: &Arc<Self>) -> WholeFlushes {
        self.wish_whole(true);
        WholeFlushes(Arc::clone(self))
    }

    fn wish_whole(&self, more: bool) {
        let mut locked = self.lock();
        let wanted = &mut locked.producing.whole_wanted;
        *wanted = if more {
            wanted.saturating_add(1)
        } else {
            wanted.saturating_sub(1)
        };
        let is_wanted = *wanted > 0;
        locked.log.set_whole_flushes(is_wanted);
    }

    /// How many cursors the checkpoint log has, the flusher's included.
    #[must_use]
    pub fn cursors(&self) -> usize {
        self.lock().log.figures().cursors
    }

    /// An item read from disk for a stream, as part of this vbucket's memory (rules R14, R15).
    #[must_use]
    pub fn charged_for_stream(&self, mut item: Item) -> Arc<Item> {
        item.token = self.memory.charge(memory::charged_bytes(&item));
        Arc::new(item)
    }

    /// Whether the bucket's memory is used up so far that no more than needed should be read ahead.
    #[must_use]
    pub fn is_memory_tight(&self) -> bool {
        let pool = self.memory.pool();
        let quota = pool.quota_bytes();
        pool.held_bytes() >= quota.saturating_sub(quota / BACKFILL_RESERVE_DIVISOR)
    }

    /// Whether the bucket's memory is used up: a source gets no more room until some is free.
    #[must_use]
    pub fn is_memory_full(&self) -> bool {
        let pool = self.memory.pool();
        pool.held_bytes() >= pool.quota_bytes()
    }

    /// The collections it has, as of memory.
    fn open_collections(&self, manifest: &CollectionsManifest) -> Vec<OpenCollection> {
        let entries = manifest.collections.iter();
        let open = entries.filter_map(|(id, entry)| {
            let opened = self.collections.read().opened(*id)?;
            Some(OpenCollection {
                id: *id,
                scope: entry.scope,
                start: opened.start,
                high: self.collection_high_seqno(*id)?,
            })
        });
        open.collect()
    }

    fn check_past(&self, inner: &Inner, past: Past) -> Result<(), StreamBreak> {
        let now = &inner.producing;
        if self.status().has(Status::DOWN) {
            Err(StreamBreak::Down)
        } else if now.rollbacks != past.rollbacks {
            Err(StreamBreak::RolledBack)
        } else if now.changes != past.changes {
            Err(StreamBreak::StateChanged)
        } else {
            Ok(())
        }
    }
}

/// The last 4% of the quota are not for reading ahead (the field's 96%).
const BACKFILL_RESERVE_DIVISOR: u64 = 25;

/// A stream's place in the log, given up when dropped.
#[derive(Debug)]
pub struct StreamCursor {
    core: Arc<VbucketCore>,
    id: CursorId,
}

impl Drop for StreamCursor {
    fn drop(&mut self) {
        // Gone already if it was registered anew or dropped to free memory.
        self.core.lock().log.remove_cursor(self.id);
    }
}

/// While held, the stream edge is marked when something changes.
#[derive(Debug)]
pub struct StreamWatch(Arc<VbucketCore>);

impl Drop for StreamWatch {
    fn drop(&mut self) {
        self.0.watched.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// While held, what is flushed has no gaps.
#[derive(Debug)]
pub struct WholeFlushes(Arc<VbucketCore>);

impl Drop for WholeFlushes {
    fn drop(&mut self) {
        self.0.wish_whole(false);
    }
}

/// Whether a change of state is one that streams do not outlive.
pub(super) fn ends_streams(before: VbucketState, after: VbucketState) -> bool {
    before != after
}
