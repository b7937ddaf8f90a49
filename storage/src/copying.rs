//! Copies of vbuckets: what a snapshot can read, written into another store in bounded steps; and reading a copy back.
//!
//! Invariant: a copy that was read back as it was written holds what was read of its source. It begins a branch of history of
//! its own, so that nobody takes what its source did afterwards for its past. Called by all that writes a bucket down: backups,
//! what brings them back, pasts.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::collections::DroppedCollection;
use crate::document::{Item, Namespace, Predecessor};
use crate::error::StorageError;
use crate::failover_table::FailoverTable;
use crate::kv_store::{Batch, CommitDurability, ItemView, KvStore, Scan, Snapshot};
use crate::outcome::{AbortReason, Job, Outcome};
use crate::seqno::{Seqno, SeqnoRange, SnapshotRange};
use crate::vbucket::{
    Incarnation, RollbackEpoch, SnapshotKind, Topology, VbucketId, VbucketIdentity, VbucketState,
    VbucketStateRecord, VbucketUuid, Watermarks,
};

/// Bytes read, and written, in one step.
const STEP_BYTES: usize = 1 << 20;

/// What of a vbucket is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOf {
    /// All of it, as what it is.
    Everything,
    /// What a client could read, what was deleted, and which collections there are, as an active vbucket without replicas.
    /// Prepares stay behind: nobody waits for them any more.
    Documents {
        /// The manifest it had come to.
        manifest_uid: u64,
    },
}

/// What a copy of one vbucket holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Items: documents, tombstones, prepares and events of collections.
    pub items: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Documents among them.
    pub documents: u64,
    /// Bytes of the documents' keys and values.
    pub document_bytes: u64,
    /// The highest seqno.
    pub high_seqno: Seqno,
    /// Of everything in them: two copies that are the same have the same.
    pub digest: u64,
}

/// Why there is no copy. What was written of it is not to be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// What is to be copied cannot be read.
    #[error("vbucket {vbucket} cannot be read: {cause}")]
    Source {
        /// Which.
        vbucket: VbucketId,
        /// Why.
        cause: StorageError,
    },
    /// The copy cannot be written, or not read back.
    #[error("the copy of vbucket {vbucket} cannot be kept: {cause}")]
    Target {
        /// Which.
        vbucket: VbucketId,
        /// Why.
        cause: StorageError,
    },
}

/// Copies one vbucket into a store that does not have it yet. Durable with the next sync of that store.
pub struct CopyJob {
    to: Arc<dyn KvStore>,
    vbucket: VbucketId,
    of: CopyOf,
    source: VbucketStateRecord,
    uuid: VbucketUuid,
    ended: Vec<DroppedCollection>,
    read: Read,
    phase: Phase,
}

enum Phase {
    Begin(Box<dyn Scan>),
    Write(Box<dyn Scan>, Life),
    Finish(Life),
    Over,
}

/// The life of the copied vbucket in its new store.
#[derive(Clone, Copy)]
struct Life {
    incarnation: Incarnation,
    epoch: RollbackEpoch,
}

/// What was read so far.
#[derive(Default)]
struct Read {
    digest: Xxh3,
    copied: Copied,
}

impl CopyJob {
    /// A job that copies what `snapshot` reads. The copy's own branch of history begins as `uuid`, with its last item.
    #[must_use]
    pub fn new(
        snapshot: &dyn Snapshot,
        of: CopyOf,
        to: Arc<dyn KvStore>,
        uuid: VbucketUuid,
    ) -> CopyJob {
        CopyJob {
            to,
            vbucket: snapshot.vbucket(),
            of,
            source: snapshot.state(),
            uuid,
            ended: snapshot.dropped_collections(),
            read: Read::default(),
            phase: Phase::Begin(snapshot.scan_by_seqno(SeqnoRange::ALL)),
        }
    }

    /// The vbucket is made, as one that holds nothing yet.
    fn begin(&mut self, scan: Box<dyn Scan>) -> Result<Phase, CopyError> {
        let identity = VbucketIdentity {
            failover_table: FailoverTable::new(self.uuid),
            ..self.as_copied()
        };
        let empty = VbucketStateRecord {
            identity: Arc::new(identity),
            // Before that moment nothing is known of the copy.
            watermarks: Watermarks {
                commit_time_ms: self.source.watermarks.commit_time_ms,
                ..Watermarks::default()
            },
        };
        let target = |cause| self.target(cause);
        let incarnation = self
            .to
            .create_vbucket(self.vbucket, &empty)
            .map_err(target)?;
        let epoch = self.to.snapshot(self.vbucket).map_err(target)?.epoch();
        Ok(Phase::Write(scan, Life { incarnation, epoch }))
    }

    fn write(&mut self, scan: &mut dyn Scan, life: Life) -> Outcome<(), CopyError> {
        let mut items = Vec::new();
        let mut bad_key = None;
        let (of, ended, read) = (self.of, &self.ended, &mut self.read);
        let outcome = scan.step(STEP_BYTES, &mut |view| {
            let item = match view.to_item(Bytes::copy_from_slice(view.value)) {
                Ok(item) => item,
                Err(error) => {
                    bad_key = Some(error);
                    return ControlFlow::Break(());
                }
            };
            let is_prepare = item.namespace() == Namespace::Prepared;
            if is_prepare && of != CopyOf::Everything {
                return ControlFlow::Continue(());
            }
            let collection = item.document.key.collection();
            if ended.iter().any(|life| life.holds(collection, item.seqno)) {
                return ControlFlow::Continue(());
            }
            read.note(&view);
            items.push(Arc::new(Item {
                predecessor: Predecessor::Absent,
                ..item
            }));
            ControlFlow::Continue(())
        });
        if let Some(error) = bad_key {
            return Outcome::Failed(self.unread(error.into()));
        }
        let is_over = match outcome {
            Outcome::Complete(_) => true,
            Outcome::Yielded => false,
            Outcome::Aborted(reason) => return Outcome::Aborted(reason),
            Outcome::Failed(cause) => return Outcome::Failed(self.unread(cause)),
        };
        if !items.is_empty() {
            // Until its end a copy is no state its source was ever in.
            let watermarks = Watermarks {
                high_seqno: self.read.copied.high_seqno,
                snapshot: SnapshotRange {
                    start: Seqno::ZERO,
                    end: self.source.watermarks.high_seqno,
                },
                snapshot_kind: SnapshotKind::Disk,
                ..self.watermarks()
            };
            if let Err(error) = self.commit(life, items, watermarks, None) {
                return Outcome::Failed(error);
            }
        }
        if is_over {
            Outcome::Complete(())
        } else {
            Outcome::Yielded
        }
    }

    /// How far the copy is when all of it is there. Its last item may lie below the source's high seqno.
    fn watermarks(&self) -> Watermarks {
        let high_seqno = self.read.copied.high_seqno;
        let source = self.source.watermarks;
        let purge_seqno = source.purge_seqno.min(high_seqno);
        if self.of != CopyOf::Everything {
            return Watermarks {
                purge_seqno,
                ..Watermarks::at(high_seqno, source.commit_time_ms)
            };
        }
        let is_cut = source.snapshot.end > source.high_seqno;
        let snapshot = if is_cut {
            // A replica in the middle of what its source sends: no more whole here than there.
            source.snapshot
        } else {
            SnapshotRange {
                start: source.snapshot.start.min(high_seqno),
                end: source.snapshot.end.min(high_seqno),
            }
        };
        Watermarks {
            high_seqno,
            max_visible_seqno: source.max_visible_seqno.min(high_seqno),
            prepared_seqno: source.prepared_seqno.min(high_seqno),
            completed_seqno: source.completed_seqno.min(high_seqno),
            high_prepared_seqno: source.high_prepared_seqno.min(high_seqno),
            purge_seqno,
            snapshot,
            ..source
        }
    }

    /// What the copy is: what its source is, on a branch of its own. Where tombstones were purged above the copy's last item,
    /// nobody who knows a branch before may go on.
    fn identity(&self) -> VbucketIdentity {
        let high_seqno = self.read.copied.high_seqno;
        let mut identity = self.as_copied();
        if self.source.watermarks.purge_seqno > high_seqno {
            identity.failover_table = FailoverTable::new(self.uuid);
        } else {
            identity.failover_table.create_entry(self.uuid, high_seqno);
        }
        identity
    }

    /// What its source is, or what it is to be.
    fn as_copied(&self) -> VbucketIdentity {
        let identity = self.source.identity.as_ref().clone();
        match self.of {
            CopyOf::Everything => identity,
            CopyOf::Documents { manifest_uid } => VbucketIdentity {
                state: VbucketState::Active,
                topology: Topology::default(),
                manifest_uid,
                ..identity
            },
        }
    }

    fn finish(&self, life: Life) -> Result<Copied, CopyError> {
        self.commit(life, Vec::new(), self.watermarks(), Some(self.identity()))?;
        Ok(self.read.copied())
    }

    fn commit(
        &self,
        life: Life,
        items: Vec<Arc<Item>>,
        watermarks: Watermarks,
        identity: Option<VbucketIdentity>,
    ) -> Result<(), CopyError> {
        let batch = Batch {
            vbucket: self.vbucket,
            incarnation: life.incarnation,
            epoch: life.epoch,
            items,
            watermarks,
            identity: identity.map(Arc::new),
        };
        let written = self.to.commit(&[batch], CommitDurability::Buffered);
        let first = written.into_iter().next().unwrap_or(Ok(()));
        first.map_err(|cause| self.target(cause))
    }

    fn unread(&self, cause: StorageError) -> CopyError {
        CopyError::Source {
            vbucket: self.vbucket,
            cause,
        }
    }

    fn target(&self, cause: StorageError) -> CopyError {
        CopyError::Target {
            vbucket: self.vbucket,
            cause,
        }
    }
}

impl Job for CopyJob {
    type Output = Copied;
    type Failure = CopyError;

    fn step(&mut self) -> Outcome<Copied, CopyError> {
        // A job that ended, in whatever way, stays ended.
        let next = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Begin(scan) => self.begin(scan),
            Phase::Write(mut scan, life) => match self.write(&mut *scan, life) {
                Outcome::Complete(()) => Ok(Phase::Finish(life)),
                Outcome::Yielded => Ok(Phase::Write(scan, life)),
                Outcome::Aborted(reason) => return Outcome::Aborted(reason),
                Outcome::Failed(error) => Err(error),
            },
            Phase::Finish(life) => match self.finish(life) {
                Ok(copied) => return Outcome::Complete(copied),
                Err(error) => Err(error),
            },
            Phase::Over => return Outcome::Aborted(AbortReason::Cancelled),
        };
        match next {
            Ok(phase) => {
                self.phase = phase;
                Outcome::Yielded
            }
            Err(error) => Outcome::Failed(error),
        }
    }
}

impl Read {
    fn note(&mut self, view: &ItemView<'_>) {
        let ItemView {
            seqno,
            operation,
            // The copy knows nothing of what its items once replaced.
            predecessor: _,
            key,
            value,
            datatype,
            flags,
            expiry,
            cas,
            rev_seqno,
        } = *view;
        let numbers = (seqno.0, datatype.0, flags, expiry.0, cas.0, rev_seqno.0);
        (operation, key, value, numbers).hash(&mut self.digest);
        let bytes = key.len().saturating_add(value.len()) as u64;
        let is_document = view.namespace() == Namespace::Committed && !operation.is_tombstone();
        let (documents, of_it) = if is_document { (1, bytes) } else { (0, 0) };
        self.copied = Copied {
            items: self.copied.items.saturating_add(1),
            bytes: self.copied.bytes.saturating_add(bytes),
            documents: self.copied.documents.saturating_add(documents),
            document_bytes: self.copied.document_bytes.saturating_add(of_it),
            high_seqno: seqno,
            digest: 0,
        };
    }

    fn copied(&self) -> Copied {
        Copied {
            digest: self.digest.finish(),
            ..self.copied
        }
    }
}

/// Reads all of a vbucket, to be compared with what was copied into it.
pub struct ReadBackJob {
    scan: Box<dyn Scan>,
    read: Read,
}

impl ReadBackJob {
    /// A job that reads what `snapshot` reads.
    #[must_use]
    pub fn new(snapshot: &dyn Snapshot) -> ReadBackJob {
        ReadBackJob {
            scan: snapshot.scan_by_seqno(SeqnoRange::ALL),
            read: Read::default(),
        }
    }
}

impl Job for ReadBackJob {
    type Output = Copied;
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<Copied> {
        let read = &mut self.read;
        let outcome = self.scan.step(STEP_BYTES, &mut |view| {
            read.note(&view);
            ControlFlow::Continue(())
        });
        outcome.map(|_| self.read.copied())
    }
}

impl fmt::Debug for ReadBackJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBackJob")
            .field("read", &self.read.copied)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CopyJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyJob")
            .field("vbucket", &self.vbucket)
            .field("copied", &self.read.copied)
            .finish_non_exhaustive()
    }
}
