//! Documents that are to be read from the store one by one, in the order they were asked for.
//!
//! Invariant: whoever asked is answered once, or learns from its end of the line that nobody will answer; so many wait at most,
//! and not for ever. Pure, but for the line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::vbucket::{LookedUp, VbucketCore};
use messages::scan::ScanError;
use messages::{Busy, OperationError};
use storage::DocumentKey;

/// Most that wait at once.
pub(super) const FETCHES_MAX: usize = 4096;

/// While the store is being opened anew it is waited for; but not for longer than clients usually wait for an answer.
const WAIT_MAX: Duration = Duration::from_secs(10);

pub(super) type Answer = Result<LookedUp, ScanError>;

/// A document to be read.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) core: Arc<VbucketCore>,
    pub(super) key: DocumentKey,
    asked_at: Duration,
    answer: oneshot::Sender<Answer>,
}

impl Fetch {
    /// One who went away needs no answer.
    pub(super) fn tell(self, answer: Answer) {
        drop(self.answer.send(answer));
    }

    /// Whether it waited long enough for a store that is not there.
    pub(super) fn is_overdue(&self, now: Duration) -> bool {
        now.saturating_sub(self.asked_at) >= WAIT_MAX
    }
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    waiting: VecDeque<Fetch>,
    /// The store is being opened anew: not before then (monotonic), unless somebody says earlier that it is there.
    not_before: Option<Duration>,
    is_stopped: bool,
    /// That a store is missing was told of the reads that wait until then.
    missing_told_until: Duration,
}

impl Fetches {
    /// Has a document read; refused when too many wait.
    pub(super) fn ask(
        &mut self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        now: Duration,
    ) -> Result<oneshot::Receiver<Answer>, OperationError> {
        if self.is_stopped {
            return Err(OperationError::Closed);
        }
        if self.waiting.len() >= FETCHES_MAX {
            self.waiting.retain(|fetch| !fetch.answer.is_closed());
        }
        if self.waiting.len() >= FETCHES_MAX {
            return Err(OperationError::TemporaryFailure(Busy::Queue));
        }
        let (answer, receiver) = oneshot::channel();
        self.waiting.push_back(Fetch {
            core: Arc::clone(core),
            key: key.clone(),
            asked_at: now,
            answer,
        });
        Ok(receiver)
    }

    /// The next to be read.
    pub(super) fn next(&mut self, now: Duration) -> Option<Fetch> {
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.not_before = None;
        while let Some(fetch) = self.waiting.pop_front() {
            if !fetch.answer.is_closed() {
                return Some(fetch);
            }
        }
        None
    }

    /// It cannot be read before then; nor can others.
    pub(super) fn put_off(&mut self, fetch: Fetch, until: Duration) {
        if self.is_stopped {
            return fetch.tell(Err(OperationError::Closed.into()));
        }
        self.waiting.push_front(fetch);
        self.not_before = Some(until);
    }

    /// Whether to say that the store is missing: once for all that wait in vain at about the same time.
    pub(super) fn must_tell_missing(&mut self, now: Duration) -> bool {
        let must_tell = now >= self.missing_told_until;
        if must_tell {
            self.missing_told_until = now.saturating_add(WAIT_MAX);
        }
        must_tell
    }

    /// The store may be there again.
    pub(super) fn hasten(&mut self) {
        self.not_before = None;
    }

    /// When somebody must look, at the latest.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.not_before.filter(|_| !self.waiting.is_empty())
    }

    /// Nothing is read any more; those that wait.
    #[must_use]
    pub(super) fn stop(&mut self) -> VecDeque<Fetch> {
        self.is_stopped = true;
        std::mem::take(&mut self.waiting)
    }
}
