//! Documents that are to be read from the store one by one, in the order they were asked for.
//!
//! Invariant: whoever asked is answered once, or learns from its end of the line that nobody will answer; so many wait at most,
//! and not for ever, and so much is read at most that nobody has taken yet. Pure, but for the line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::manager::Shared;
use crate::vbucket::{LookedUp, VbucketCore};
use messages::scan::ScanError;
use messages::{Busy, FailureCause, OperationError};
use storage::DocumentKey;

/// Most that wait at once.
pub(super) const FETCHES_MAX: usize = 4096;

/// While the store is being opened anew it is waited for; but not for longer than clients usually wait for an answer.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Bytes that were read and are not taken yet, from which on nothing more is read: some of the largest documents, or sixteen
/// KiB for each that may wait. Who takes what he asked for takes it at once, so that hardly anybody ever waits for this.
pub(super) const UNTAKEN_BYTES_MAX: u64 = 64 << 20;
/// Who takes nothing for so long has others refused, who would wait for ever if he never does.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) type Answer = Result<Fetched, ScanError>;

/// What was read, until it is taken or nobody will.
#[derive(Debug)]
pub(super) struct Fetched {
    looked_up: Option<LookedUp>,
    bytes: u64,
    shared: Arc<Shared>,
}

impl Fetched {
    pub(super) fn new(looked_up: LookedUp, shared: &Arc<Shared>) -> Fetched {
        let newest = looked_up.newest.as_ref();
        let bytes = newest.map_or(0, |item| item.document.value.len() as u64);
        shared.untaken_bytes.fetch_add(bytes, Ordering::AcqRel);
        Fetched {
            looked_up: Some(looked_up),
            bytes,
            shared: Arc::clone(shared),
        }
    }

    /// Takes it; nothing only if it was taken before.
    pub(super) fn take(mut self) -> Option<LookedUp> {
        self.looked_up.take()
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        let before = self
            .shared
            .untaken_bytes
            .fetch_sub(self.bytes, Ordering::AcqRel);
        if before >= UNTAKEN_BYTES_MAX && before.saturating_sub(self.bytes) < UNTAKEN_BYTES_MAX {
            self.shared.wake();
        }
    }
}

/// A document to be read.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) core: Arc<VbucketCore>,
    pub(super) key: DocumentKey,
    /// Why it could not be read at once, if that is to be told: a panic, or a fault that a test wants.
    pub(super) met: Option<FailureCause>,
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
    /// Nothing more is read, because too much is not taken, since then.
    full_since: Option<Duration>,
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
        (asked_at, met): (Duration, Option<FailureCause>),
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
            met,
            asked_at,
            answer,
        });
        Ok(receiver)
    }

    /// The next to be read, while so much is not taken yet.
    pub(super) fn next(&mut self, now: Duration, untaken_bytes: u64) -> Option<Fetch> {
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.not_before = None;
        if untaken_bytes >= UNTAKEN_BYTES_MAX && !self.waiting.is_empty() {
            self.full_since.get_or_insert(now);
            return None;
        }
        self.full_since = None;
        while let Some(fetch) = self.waiting.pop_front() {
            if !fetch.answer.is_closed() {
                return Some(fetch);
            }
        }
        None
    }

    /// Those that waited too long for others to take what was read.
    #[must_use]
    pub(super) fn overdue(&mut self, now: Duration) -> VecDeque<Fetch> {
        let is_over = |since: Duration| since.saturating_add(PATIENCE) <= now;
        if !self.full_since.is_some_and(is_over) {
            return VecDeque::new();
        }
        self.full_since = None;
        std::mem::take(&mut self.waiting)
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
        let is_full = self.full_since.map(|since| since.saturating_add(PATIENCE));
        let at = self.not_before.into_iter().chain(is_full).min();
        at.filter(|_| !self.waiting.is_empty())
    }

    /// Those that wait, to be told something else.
    #[must_use]
    pub(super) fn take_all(&mut self) -> VecDeque<Fetch> {
        std::mem::take(&mut self.waiting)
    }

    /// Nothing is read any more; those that wait.
    #[must_use]
    pub(super) fn stop(&mut self) -> VecDeque<Fetch> {
        self.is_stopped = true;
        self.take_all()
    }
}
