//! A run in hand: the job, what it is allowed, and what it found and cost so far.
//!
//! Invariant: it is given up between two steps only, and never once a step of the publish was done.

use std::sync::Arc;
use std::time::Duration;

use crate::compactor::desk::Compactor;
use crate::compactor::policy::VbucketFigures;
use crate::compactor::state::{Assignment, RunEnd, Work};
use crate::compactor::vbucket::{Compactable, Expiring};
use crate::compactor::words::PastOf;
use crate::store_handle::StoreLease;
use crate::vbucket::LookedUp;
use messages::compactor::CompactError;
use messages::{DownCause, FailureCause};
use storage::disk::{DiskError, DiskErrorKind, Verb};
use storage::{
    AbortReason, Compacted, CompactionFailure, CompactionJob, CompactionProgress,
    CompactionRequest, CompactionStage, ExpiredDocument, KvStore, LogStore, Outcome, StorageError,
    VbucketId,
};

/// A run in hand.
pub(super) struct Working {
    pub(super) assignment: Assignment,
    pub(super) span: tracing::Span,
    pub(super) vbucket: Arc<dyn Compactable>,
    // Dropped before the lease: see `StoreLease`.
    pub(super) job: Option<CompactionJob>,
    pub(super) lease: StoreLease,
    /// Which past it reads, as soon as there is a job.
    pub(super) of: Option<PastOf>,
    /// How the vbucket stood before it read anything; not of a merge of the newest segments, which leaves the rest as it was.
    pub(super) began: Option<VbucketFigures>,
    /// Bytes read and written so far.
    pub(super) spent: u64,
    /// From then on (monotonic) the budget lets it go on.
    pub(super) resume_at: Duration,
    /// A step of the publish was done: what it did cannot be taken back.
    pub(super) is_publishing: bool,
    /// A fault a test asked for, as the store will tell it.
    pub(super) injected: Option<(StorageError, FailureCause)>,
}

impl Working {
    /// Why it ends before its next step, if it does.
    pub(super) fn must_end(&self, compactor: &Compactor) -> Option<RunEnd> {
        if self.is_publishing {
            return None;
        }
        if let Some(reason) = compactor.must_abort(self.assignment) {
            return Some(RunEnd::Aborted(reason));
        }
        self.lease.is_recalled().then_some(RunEnd::Interrupted)
    }

    pub(super) fn stage(&self) -> CompactionStage {
        let job = self.job.as_ref();
        job.map_or(CompactionStage::Start, |job| job.progress().stage)
    }

    pub(super) fn make_job(&mut self, compactor: &Compactor, work: Work) -> Result<(), RunEnd> {
        let request = CompactionRequest {
            history_floor: compactor.config().history_floor,
            now_ms: u64::from(compactor.now_s()).saturating_mul(1000),
            ..request_of(work, compactor.now_s())
        };
        let vbucket = self.assignment.vbucket;
        let past = past_of(self.lease.store(), vbucket);
        let past = past.map_err(|error| unserved(&error).unwrap_or(RunEnd::Interrupted));
        self.of = Some(past?);
        // First: what is dropped or sealed between this and its reading it erases or merges, and looks at once more.
        if !request.newest_only {
            self.began = compactor.before(vbucket, self.lease.store());
        }
        match self.lease.store().compaction_job(vbucket, request) {
            Ok(job) => {
                self.job = Some(job);
                Ok(())
            }
            // Nothing was begun: the store is not to be had for this now.
            Err(error) => Err(unserved(&error).unwrap_or(RunEnd::Interrupted)),
        }
    }

    /// Whether the vbucket still has the past it had when the job was made: then that is what the job reads.
    pub(super) fn is_of_its_past(&self) -> bool {
        past_of(self.lease.store(), self.assignment.vbucket).ok() == self.of
    }

    /// The next step fails, as if the disk had said so.
    pub(super) fn inject(&mut self, cause: FailureCause) {
        let told = StorageError::Disk(DiskError {
            verb: Verb::Read,
            file: "none".to_owned(),
            kind: DiskErrorKind::Other(cause.to_string()),
        });
        if let Some(job) = &mut self.job {
            job.fail_next_step(told.clone());
        }
        self.injected = Some((told, cause));
    }

    /// What a step found and cost.
    pub(super) fn account(&mut self, compactor: &Compactor) {
        let Some(job) = &mut self.job else {
            return;
        };
        let (mut deleted, vbucket) = (0u64, self.assignment.vbucket);
        for document in job.take_expired() {
            match expire(&*self.vbucket, self.lease.store(), vbucket, &document) {
                Ok(Expiring::Deleted) => deleted = deleted.saturating_add(1),
                // The next compaction finds it again, if it is still there.
                Ok(Expiring::Left | Expiring::PutOff | Expiring::NotInMemory) => {}
                // What it cannot read of its vbucket ends it, as its own reads do.
                Err(cause) => job.fail_next_step(cause),
            }
        }
        let progress = job.progress();
        let spent = spent(&progress);
        let bytes = spent.saturating_sub(self.spent);
        self.spent = spent;
        self.resume_at = compactor.note_step(self.assignment, progress, bytes, deleted);
    }
}

/// So often an expired document is looked up while others leave memory.
const LOOKS_MAX: u32 = 4;

/// Has a document deleted whose time is up; of one that is not in memory it tells what the store holds now, which may be more
/// than the compaction reads.
fn expire(
    of: &dyn Compactable,
    store: &LogStore,
    vbucket: VbucketId,
    document: &ExpiredDocument,
) -> Result<Expiring, StorageError> {
    let mut expiring = of.expire(document, None);
    for _ in 0..LOOKS_MAX {
        if expiring != Expiring::NotInMemory {
            break;
        }
        let looked_up = LookedUp::in_store(store, vbucket, &document.key)?;
        expiring = of.expire(document, Some(&looked_up));
    }
    Ok(expiring)
}

fn request_of(work: Work, now_s: u32) -> CompactionRequest {
    match work {
        Work::MergeNewest => CompactionRequest {
            newest_only: true,
            ..CompactionRequest::default()
        },
        Work::Rewrite(purge) => CompactionRequest {
            drop_deletes: purge.drop_deletes,
            purge_before_s: purge.purge_before_s,
            expired_at_s: now_s,
            ..CompactionRequest::default()
        },
    }
}

fn past_of(store: &LogStore, vbucket: VbucketId) -> Result<PastOf, StorageError> {
    let snapshot = store.snapshot(vbucket)?;
    Ok((vbucket, snapshot.incarnation(), snapshot.epoch()))
}

/// What a run published, if it did: of all collections, or of those whose passes did not fail.
pub(super) fn published(outcome: &Outcome<Compacted, CompactionFailure>) -> Option<&Compacted> {
    match outcome {
        Outcome::Complete(compacted) => Some(compacted),
        Outcome::Failed(failure) => failure.published.as_deref(),
        Outcome::Yielded | Outcome::Aborted(_) => None,
    }
}

fn spent(progress: &CompactionProgress) -> u64 {
    let CompactionProgress {
        bytes_read,
        bytes_written,
        ..
    } = progress;
    bytes_read.saturating_add(*bytes_written)
}

/// How a run ends whose vbucket the store does not serve; `None`: the error is a failure.
pub(super) fn unserved(error: &StorageError) -> Option<RunEnd> {
    if let StorageError::UnknownVbucket(_) = error {
        // It was there when it was asked for.
        return Some(RunEnd::Aborted(AbortReason::Deleted));
    }
    if let StorageError::VbucketDown { vbucket, cause } = error {
        return Some(RunEnd::Refused(CompactError::VbucketDown {
            vbucket: *vbucket,
            cause: DownCause::Storage(Arc::clone(cause)),
        }));
    }
    None
}
