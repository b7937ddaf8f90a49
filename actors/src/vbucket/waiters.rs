//! Who waits for a seqno to be on disk.
//!
//! Invariant: whoever waits is answered once: when the persisted seqno reaches what it waits for, in the order of
//! seqnos, or with the reason why it never will. A future that is dropped leaves nothing behind, and a place is taken
//! before the write it is for, so that a full queue refuses the write and never its answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};
use messages::{Busy, OperationError};
use storage::Seqno;

/// Most callers that wait on one vbucket: some hundred bytes each, far above what one vbucket's share of the callers of
/// a busy bucket is; beyond it the disk is what holds them up, and more would only wait longer.
pub const WAITERS_MAX: usize = 16 * 1024;

type Answer = Result<(), OperationError>;

/// Everybody who waits on one vbucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiters {
    inner: Arc<Mutex<Inner>>,
    /// As many as `places`, to be read without the lock.
    awaited: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<(Seqno, u64), oneshot::Sender<Answer>>,
    /// Places taken, waiting or about to.
    places: usize,
    next_number: u64,
    persisted: Seqno,
    /// Why nobody may wait any more.
    ended: Option<OperationError>,
}

impl Waiters {
    /// Waiters of a vbucket that is persisted so far.
    pub(super) fn new(persisted: Seqno) -> Waiters {
        let waiters = Waiters::default();
        waiters.inner.lock().persisted = persisted;
        waiters
    }

    /// Takes a place, before the write it is for.
    pub(super) fn reserve(&self) -> Result<PersistPlace, OperationError> {
        let mut inner = self.inner.lock();
        if let Some(ended) = &inner.ended {
            return Err(ended.clone());
        }
        if inner.places >= WAITERS_MAX {
            return Err(OperationError::TemporaryFailure(Busy::Queue));
        }
        inner.places += 1;
        self.awaited.store(inner.places, Ordering::Release);
        drop(inner);
        Ok(PersistPlace {
            waiters: self.clone(),
            waits_as: None,
        })
    }

    /// Whether somebody waits, or took a place to.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Acquire) > 0
    }

    /// Everything up to `seqno` is on disk. Said under the vbucket's lock, so that nothing is believed of a past that
    /// was given up meanwhile; told behind it.
    pub(super) fn settle_up_to(&self, seqno: Seqno) -> Answered {
        let mut inner = self.inner.lock();
        inner.persisted = inner.persisted.max(seqno);
        let first_left = (inner.persisted.next(), 0);
        let left = inner.waiting.split_off(&first_left);
        let callers = std::mem::replace(&mut inner.waiting, left);
        let answer = Ok(());
        Answered { callers, answer }
    }

    /// Up to here everything was said to be on disk.
    pub(super) fn settled(&self) -> Seqno {
        self.inner.lock().persisted
    }

    /// What is above `seqno` will never be on disk: it was taken back. Said under the vbucket's lock, told behind it.
    pub(super) fn refuse_above(&self, seqno: Seqno, reason: OperationError) -> Answered {
        let mut inner = self.inner.lock();
        inner.persisted = seqno;
        let callers = inner.waiting.split_off(&(seqno.next(), 0));
        let answer = Err(reason);
        Answered { callers, answer }
    }

    /// Answers everybody with `reason`, and whoever comes from now on.
    pub(super) fn end(&self, reason: &OperationError) {
        let mut inner = self.inner.lock();
        inner.ended = Some(reason.clone());
        let all = std::mem::take(&mut inner.waiting);
        drop(inner);
        for waiting in all.into_values() {
            drop(waiting.send(Err(reason.clone())));
        }
    }

    /// Takes back [`Waiters::end`].
    pub(super) fn resume(&self) {
        self.inner.lock().ended = None;
    }

    /// Why nobody may wait any more, if so.
    pub(super) fn ended(&self) -> Option<OperationError> {
        self.inner.lock().ended.clone()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.inner.lock().waiting.len()
    }
}

/// Callers whose wait is over.
#[derive(Debug)]
#[must_use = "they wait to be told"]
pub(super) struct Answered {
    callers: BTreeMap<(Seqno, u64), oneshot::Sender<Answer>>,
    answer: Answer,
}

impl Answered {
    /// Tells them, with no lock held.
    pub(super) fn tell(self) {
        for caller in self.callers.into_values() {
            // A caller that went away meanwhile needs no answer.
            drop(caller.send(self.answer.clone()));
        }
    }
}

/// A place among those who wait for one vbucket's disk.
#[derive(Debug)]
#[must_use = "a place is given back when it is dropped"]
pub struct PersistPlace {
    waiters: Waiters,
    waits_as: Option<(Seqno, u64)>,
}

impl PersistPlace {
    /// Waits until everything up to `seqno` is on disk.
    #[must_use]
    pub fn wait_for(mut self, seqno: Seqno) -> Persisted {
        let (sender, answer) = oneshot::channel();
        let mut inner = self.waiters.inner.lock();
        if seqno <= inner.persisted {
            drop(inner);
            drop(sender.send(Ok(())));
        } else if let Some(ended) = inner.ended.clone() {
            drop(inner);
            drop(sender.send(Err(ended)));
        } else {
            let number = inner.next_number;
            inner.next_number = number.wrapping_add(1);
            inner.waiting.insert((seqno, number), sender);
            drop(inner);
            self.waits_as = Some((seqno, number));
        }
        Persisted {
            _place: self,
            answer,
        }
    }
}

impl Drop for PersistPlace {
    fn drop(&mut self) {
        let mut inner = self.waiters.inner.lock();
        inner.places = inner.places.saturating_sub(1);
        self.waiters.awaited.store(inner.places, Ordering::Release);
        let waiting = self.waits_as.and_then(|key| inner.waiting.remove(&key));
        drop(inner);
        drop(waiting);
    }
}

/// Answered once a seqno is on disk. Dropping it takes back nothing but the wait.
#[derive(Debug)]
pub struct Persisted {
    _place: PersistPlace,
    answer: oneshot::Receiver<Answer>,
}

impl Future for Persisted {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        // Every sender is answered before it is dropped, so an unanswered end means the vbucket itself is gone.
        let gone = |_| Err(OperationError::Closed);
        Pin::new(&mut self.answer)
            .poll(context)
            .map(|answer| answer.unwrap_or_else(gone))
    }
}

#[cfg(test)]
mod tests;
