//! One backfill: waits until the store has what is wanted, opens a snapshot, reads it step by step.
//!
//! | phase | finds | comes to |
//! |---|---|---|
//! | create | nobody needs it | aborted |
//! | | the store is being opened anew; it does not hold enough, or has gaps | later |
//! | | the store is called back while it reads | aborted |
//! | | no lease, no snapshot, no counts of it | **failed** |
//! | | tombstones that would be needed may be gone | purged |
//! | | the beginning of the history is not known, or cannot be read | **failed** |
//! | scan | nobody needs it; the store is called back | aborted |
//! | | memory is used up and what was read is not taken | later |
//! | | the scan yields | again |
//! | | the scan is complete, with proof | the next part, complete behind the last |
//! | | the scan is complete, without proof; it failed | **failed** |
//!
//! Invariant: every outcome of a scan is named here, and none but a proven completion comes to one (MB-47790).

mod parts;
mod reading;

use std::collections::VecDeque;
use std::sync::Arc;

use super::pipe::{Chunk, Pipe};
use crate::environment::Environment;
use crate::hooks::FaultPoint;
use crate::planted::{Bug, is_planted};
use crate::store_handle::{StoreHandle, StoreLease};
use crate::stream::{BackfillEnd, BackfillRange, Filter, Purged};
use crate::vbucket::{VbucketCore, WholeFlushes};
use messages::FailureCause;
use messages::failure::ScanPurpose;
use parts::{Part, parts_of};
use reading::Reading;
use storage::{KvStore, Outcome, ScanEnd, Seqno, Snapshot, StorageError};

/// What a stream asks for.
#[derive(Clone, Debug)]
pub struct BackfillRequest {
    /// Of which vbucket.
    pub core: Arc<VbucketCore>,
    /// Whose.
    pub consumer: Arc<str>,
    /// What must be read.
    pub range: BackfillRange,
    /// What the stream was asked for from on.
    pub start: Seqno,
    /// Nothing of the stream's collections lies at or below this.
    pub nothing_below: Seqno,
    /// What is known of purged tombstones; `None` if that does not count.
    pub purged: Option<Purged>,
    /// What is handed over; it follows the collections that are read to have begun and ended.
    pub filter: Filter,
    /// Every version there is, not only the newest of each key.
    pub has_history: bool,
    /// Where to.
    pub pipe: Arc<Pipe>,
}

/// A backfill on its way.
#[derive(Debug)]
pub(super) struct Backfill {
    request: BackfillRequest,
    phase: Phase,
    span: tracing::Span,
}

#[derive(Debug)]
enum Phase {
    /// Waits until the store holds enough; if it has gaps, for flushes that leave none.
    Create(Option<WholeFlushes>),
    Scan(Scanning),
}

#[derive(Debug)]
struct Scanning {
    // Dropped before the lease.
    part: Part,
    /// Those that are read behind it.
    rest: VecDeque<Part>,
    lease: StoreLease,
    high: Seqno,
    /// Prepares up to here are over in this snapshot.
    completed: Seqno,
}

/// What a step came to.
#[must_use = "a backfill that failed must be told to its stream, and to the failure bus"]
#[derive(Debug)]
pub(super) enum Stepped {
    /// There is more.
    Again(Chunk),
    /// Not now.
    Later,
    /// It is over.
    Ended {
        /// What the last step read.
        chunk: Chunk,
        /// How.
        end: BackfillEnd,
        /// Why it failed, if it did.
        cause: Option<FailureCause>,
    },
}

impl Backfill {
    /// One that holds nothing yet.
    #[must_use]
    pub(super) fn new(request: BackfillRequest) -> Backfill {
        let span = tracing::debug_span!(
            "backfill",
            vbucket = request.core.id().get(),
            consumer = &*request.consumer,
            first = request.range.first.0,
        );
        Backfill {
            request,
            phase: Phase::Create(None),
            span,
        }
    }

    pub(super) fn request(&self) -> &BackfillRequest {
        &self.request
    }

    pub(super) fn span(&self) -> tracing::Span {
        self.span.clone()
    }

    /// Whether it holds a store that should be given back.
    pub(super) fn is_recalled(&self) -> bool {
        match &self.phase {
            Phase::Create(_) => false,
            Phase::Scan(scanning) => scanning.lease.is_recalled(),
        }
    }

    /// Does a piece of it.
    pub(super) fn step(
        &mut self,
        store: &StoreHandle,
        environment: &Environment,
        step_bytes: usize,
    ) -> Stepped {
        if self.request.pipe.is_cancelled() {
            return ended(BackfillEnd::Aborted);
        }
        match &mut self.phase {
            Phase::Create(_) => self.create(store),
            Phase::Scan(scanning) => {
                if scanning.lease.is_recalled() {
                    return ended(BackfillEnd::Aborted);
                }
                let is_taken = self.request.pipe.is_empty();
                if !is_taken && self.request.core.is_memory_tight() {
                    return Stepped::Later;
                }
                scanning.read(&mut self.request, environment, step_bytes)
            }
        }
    }

    fn create(&mut self, store: &StoreHandle) -> Stepped {
        let BackfillRequest {
            core,
            range,
            has_history,
            pipe,
            ..
        } = &self.request;
        let opened = store.lease().and_then(|lease| {
            let snapshot = lease.store().snapshot(core.id())?;
            Ok((lease, snapshot))
        });
        let (lease, snapshot) = match opened {
            Ok(opened) => opened,
            // Woken when the store is back.
            Err(_) if store.wants_reopening() => return Stepped::Later,
            Err(cause) => return failed(Chunk::default(), cause.into()),
        };
        let watermarks = snapshot.state().watermarks;
        let high = watermarks.high_seqno;
        let has_gaps = watermarks.snapshot.end > high && core.high_seqno() > high;
        if high < range.last || has_gaps {
            pipe.wait_for(Some(range.last.max(high.next())));
            let core = Arc::clone(core);
            if let Phase::Create(wish) = &mut self.phase {
                wish.get_or_insert_with(|| core.want_whole_flushes());
            }
            return Stepped::Later;
        }
        match self.misses_tombstones(&*snapshot, watermarks.purge_seqno) {
            Ok(false) => {}
            Ok(true) => return ended(BackfillEnd::Purged),
            Err(_) if lease.is_recalled() => return ended(BackfillEnd::Aborted),
            Err(cause) => return failed(Chunk::default(), cause.into()),
        }
        let parts = parts_of(&*snapshot, range.first, *has_history).and_then(|mut parts| {
            let part = parts.pop_front().ok_or(StorageError::Gone)?;
            Ok((part, parts))
        });
        let (part, rest) = match parts {
            Ok(parts) => parts,
            // Called back while it read: it is asked for again.
            Err(_) if lease.is_recalled() => return ended(BackfillEnd::Aborted),
            Err(cause) => return failed(Chunk::default(), cause.into()),
        };
        pipe.wait_for(None);
        pipe.open(&watermarks);
        self.phase = Phase::Scan(Scanning {
            part,
            rest,
            lease,
            high,
            completed: watermarks.completed_seqno,
        });
        Stepped::Again(Chunk::default())
    }

    /// Compaction may have run since the request was checked, and the stream's collections may have changed: what counts
    /// is the snapshot that is read (MB-63159).
    fn misses_tombstones(
        &self,
        snapshot: &dyn Snapshot,
        here: Seqno,
    ) -> Result<bool, StorageError> {
        let BackfillRequest {
            range,
            start,
            nothing_below,
            purged,
            filter,
            ..
        } = &self.request;
        let begins = *start == Seqno::ZERO && range.first == nothing_below.next();
        let Some(asked) = purged.filter(|_| !begins) else {
            return Ok(false);
        };
        let mut purged = Purged { here, ..asked };
        if let Some(high) = &mut purged.collections_high {
            // It only rises, and an empty collection has no counts.
            for (id, counts) in &snapshot.counts()?.collections {
                if filter.has(*id) {
                    *high = counts.high_seqno.max(*high);
                }
            }
        }
        Ok(purged.is_missed_by_backfill(*start, range.first))
    }
}

impl Drop for Backfill {
    /// Whoever lets go of it has said how it ended, but a panic, which says nothing.
    fn drop(&mut self) {
        if !self.request.pipe.is_cancelled() {
            self.request.pipe.end(BackfillEnd::Panicked);
        }
    }
}

impl Scanning {
    fn read(
        &mut self,
        request: &mut BackfillRequest,
        environment: &Environment,
        step_bytes: usize,
    ) -> Stepped {
        let purpose = ScanPurpose::Backfill;
        let Part {
            scan,
            dropped,
            is_history,
            ..
        } = &mut self.part;
        let mut reading = Reading::new(request, self.completed, dropped);
        reading.chunk.read.is_history = *is_history;
        // A test's fault strikes where the store's own would.
        let outcome = match environment.hooks.fault(FaultPoint::Scan { purpose }) {
            Ok(()) => scan.step(step_bytes, &mut |view| reading.visit(view)),
            Err(cause) => return self.failed(Chunk::default(), cause),
        };
        let Reading {
            chunk, items, bad, ..
        } = reading;
        self.part.note(items);
        if let Some(cause) = bad {
            return self.failed(chunk, cause);
        }
        match outcome {
            Outcome::Yielded => Stepped::Again(chunk),
            Outcome::Complete(end) => self.proven(chunk, end),
            Outcome::Aborted(_) => Stepped::Ended {
                chunk,
                end: BackfillEnd::Aborted,
                cause: None,
            },
            Outcome::Failed(cause) => self.failed(chunk, cause.into()),
        }
    }

    fn failed(&self, chunk: Chunk, cause: FailureCause) -> Stepped {
        if is_planted(Bug::FailedScanIsComplete) {
            return Stepped::Ended {
                chunk,
                end: BackfillEnd::Complete(self.high),
                cause: None,
            };
        }
        failed(chunk, cause)
    }

    /// A scan that says it is complete must have been read to its end, every item of it.
    fn proven(&mut self, chunk: Chunk, end: ScanEnd) -> Stepped {
        if !self.part.is_proven(end, chunk.read.up_to) {
            return failed(chunk, FailureCause::Storage(StorageError::Gone));
        }
        if let Some(next) = self.rest.pop_front() {
            self.part = next;
            return Stepped::Again(chunk);
        }
        Stepped::Ended {
            chunk,
            end: BackfillEnd::Complete(self.high),
            cause: None,
        }
    }
}

fn ended(end: BackfillEnd) -> Stepped {
    Stepped::Ended {
        chunk: Chunk::default(),
        end,
        cause: None,
    }
}

fn failed(chunk: Chunk, cause: FailureCause) -> Stepped {
    Stepped::Ended {
        chunk,
        end: BackfillEnd::Failed,
        cause: Some(cause),
    }
}

#[cfg(test)]
mod tests;
