//! The failure bus: every failure gets a number, moves one counter, is logged once, kept, and told to subscribers.
//!
//! Invariant: numbers rise by one and a subscriber is told of each, by the failure itself or by a range in
//! [`FailureNotice::Missed`] for which it reads the history; it never waits for one. Any thread may report.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use actix::Recipient;
use actix::dev::SendError;
use parking_lot::Mutex;

use actors::environment::{Clock, FailureReport, ReportFailure};
use actors::panics::caught;
use messages::{Failure, FailureId, FailureKind, FailureNotice};

use crate::metric_names;

/// Numbers, counts, logs, keeps and publishes failures.
pub struct FailureBus {
    clock: Arc<dyn Clock>,
    history_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    counters: [u64; FailureKind::ALL.len()],
    history: VecDeque<Failure>,
    subscribers: Vec<Subscriber>,
    next_subscriber: u64,
}

struct Subscriber {
    id: SubscriberId,
    recipient: Recipient<FailureNotice>,
    missed: Option<(FailureId, FailureId)>,
}

/// A subscription, to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriberId(u64);

/// What the history holds from some number on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The first and last of those asked for that are no longer kept.
    pub forgotten: Option<(FailureId, FailureId)>,
    /// The others, in order.
    pub failures: Vec<Failure>,
}

impl FailureBus {
    /// Failures kept by default: enough to read what a slow subscriber missed in a storm; some hundred kilobytes.
    pub const HISTORY_MAX: usize = 1024;

    /// A bus that keeps the last `history_max` failures (at least one).
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, history_max: usize) -> FailureBus {
        FailureBus {
            clock,
            history_max: history_max.max(1),
            inner: Mutex::default(),
        }
    }

    /// Tells this recipient of every failure from now on, until it is gone or [`FailureBus::unsubscribe`] is called.
    pub fn subscribe(&self, recipient: Recipient<FailureNotice>) -> SubscriberId {
        let mut inner = self.inner.lock();
        let id = SubscriberId(inner.next_subscriber);
        inner.next_subscriber = inner.next_subscriber.wrapping_add(1);
        inner.subscribers.push(Subscriber {
            id,
            recipient,
            missed: None,
        });
        id
    }

    /// Tells it no more.
    pub fn unsubscribe(&self, id: SubscriberId) {
        self.inner.lock().subscribers.retain(|one| one.id != id);
    }

    /// Every failure after that one; all of them for `FailureId(0)`.
    #[must_use]
    pub fn since(&self, after: FailureId) -> History {
        let inner = self.inner.lock();
        let first_wanted = FailureId(after.0.saturating_add(1));
        let first_kept = inner.history.front().map(|failure| failure.id);
        let forgotten = first_kept
            .filter(|kept| *kept > first_wanted)
            .map(|kept| (first_wanted, FailureId(kept.0.saturating_sub(1))));
        let wanted = inner.history.iter().filter(|failure| failure.id > after);
        History {
            forgotten,
            failures: wanted.cloned().collect(),
        }
    }

    /// How often this kind was reported.
    #[must_use]
    pub fn count(&self, kind: FailureKind) -> u64 {
        let mut counts = FailureKind::ALL.iter().zip(self.inner.lock().counters);
        counts
            .find(|(one, _)| **one == kind)
            .map_or(0, |(_, count)| count)
    }

    /// Every counter by its name.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = self.inner.lock().counters;
        FailureKind::ALL
            .iter()
            .map(|kind| kind.counter())
            .zip(counters)
            .collect()
    }
}

impl ReportFailure for FailureBus {
    fn report(&self, report: FailureReport) -> FailureId {
        let at_ms = u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX);
        let failure = {
            let mut inner = self.inner.lock();
            let failure = inner.number(report, at_ms);
            inner.keep(failure.clone(), self.history_max);
            inner.publish(&failure);
            failure
        };
        log(&failure);
        // Whoever failed must not fail again for the embedder's recorder.
        if let Err(text) = caught(|| metric_names::count(failure.kind)) {
            tracing::error!(panic = %text, "the recorder of metrics panicked");
        }
        failure.id
    }

    fn catch_up(&self) {
        let mut inner = self.inner.lock();
        inner.subscribers.retain_mut(Subscriber::tell_missed);
    }
}

impl Inner {
    fn number(&mut self, report: FailureReport, at_ms: u64) -> Failure {
        self.last = self.last.saturating_add(1);
        let FailureReport {
            child,
            generation,
            vbucket,
            kind,
            cause,
            next,
        } = report;
        let counters = FailureKind::ALL.iter().zip(&mut self.counters);
        for (_, count) in counters.filter(|(one, _)| **one == kind) {
            *count = count.saturating_add(1);
        }
        Failure {
            id: FailureId(self.last),
            at_ms,
            child,
            generation,
            vbucket,
            kind,
            cause,
            next,
        }
    }

    fn keep(&mut self, failure: Failure, history_max: usize) {
        while self.history.len() >= history_max {
            self.history.pop_front();
        }
        self.history.push_back(failure);
    }

    fn publish(&mut self, failure: &Failure) {
        self.subscribers.retain_mut(|one| one.tell(failure));
    }
}

impl Subscriber {
    /// Tells it, or notes what it missed. `false`: it is gone.
    fn tell(&mut self, failure: &Failure) -> bool {
        if !self.tell_missed() {
            return false;
        }
        if let Some((_, to)) = &mut self.missed {
            *to = failure.id;
            return true;
        }
        match self
            .recipient
            .try_send(FailureNotice::Failed(failure.clone()))
        {
            Ok(()) => true,
            Err(SendError::Full(_)) => {
                self.missed = Some((failure.id, failure.id));
                true
            }
            Err(SendError::Closed(_)) => false,
        }
    }

    /// Tells it what it missed, if it has room now. `false`: it is gone.
    fn tell_missed(&mut self) -> bool {
        let Some((from, to)) = self.missed else {
            return true;
        };
        match self.recipient.try_send(FailureNotice::Missed { from, to }) {
            Ok(()) => {
                self.missed = None;
                true
            }
            Err(SendError::Full(_)) => true,
            Err(SendError::Closed(_)) => false,
        }
    }
}

fn log(failure: &Failure) {
    tracing::error!(
        failure = failure.id.0,
        counter = failure.kind.counter(),
        child = failure.child.as_str(),
        generation = failure.generation.0,
        vbucket = failure.vbucket.map(storage::VbucketId::get),
        cause = %failure.cause,
        next = ?failure.next,
        "a background job or a child failed"
    );
}

impl fmt::Debug for FailureBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureBus")
            .field("last", &self.inner.lock().last)
            .finish_non_exhaustive()
    }
}
