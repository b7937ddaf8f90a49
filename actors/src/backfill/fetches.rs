//! Documents that are to be read from the store one by one, in the order they were asked for.
//!
//! Invariant: whoever asked is answered once, or learns from its end of the line that nobody will answer; so many wait at most,
//! so that what is read and not taken yet is bounded. Pure, but for the line.

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

pub(super) type Answer = Result<LookedUp, ScanError>;

/// A document to be read.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) core: Arc<VbucketCore>,
    pub(super) key: DocumentKey,
    answer: oneshot::Sender<Answer>,
}

impl Fetch {
    /// One who went away needs no answer.
    pub(super) fn tell(self, answer: Answer) {
        drop(self.answer.send(answer));
    }
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    waiting: VecDeque<Fetch>,
    /// The store is being opened anew: not before then (monotonic), unless somebody says earlier that it is there.
    not_before: Option<Duration>,
    is_stopped: bool,
}

impl Fetches {
    /// Has a document read; refused when too many wait.
    pub(super) fn ask(
        &mut self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
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
