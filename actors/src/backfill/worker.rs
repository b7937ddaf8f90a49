//! A reader: takes one backfill after the other, does a step of it, hands over what was read.
//!
//! Between them it reads pages of ranges. Invariant: whatever becomes of a step, its stream is told: what was read, that it goes
//! on, or how it ended, once; and what a panic tears from a reader's hands ends with that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fetches::{Answer, Fetch, Fetched};
use super::job::{Backfill, Stepped};
use super::manager::Shared;
use super::pipe::Chunk;
use super::queues::{Entry, Next, Turn};
use super::range::{RangeEnd, Stepped as PageRead};
use super::reads::{self, Cell};
use crate::environment::FailureReport;
use crate::executor::{Step, Worker};
use crate::panics::caught;
use crate::store_handle::StoreGeneration;
use crate::stream::BackfillEnd;
use crate::vbucket::LookedUp;
use messages::failure::ScanPurpose;
use messages::scan::ScanError;
use messages::{Busy, ChildName, FailureCause, FailureKind, Generation, NextStep, OperationError};
use storage::{Advice, StorageError, VbucketId};

/// Documents read one by one before others have their turn.
const FETCHES_AT_ONCE: usize = 32;

/// One life of a reader.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    name: ChildName,
    generation: Generation,
    /// Stays in its place while it is read, so that a panic finds it.
    in_hand: Option<Entry<Backfill>>,
    /// Set while it is read: if it stays set, a panic ended it.
    is_reading: bool,
    /// Whose page is read at the moment; if it stays here, a panic ended that.
    page_of: Option<Arc<Cell>>,
    /// Streams and ranges take turns.
    is_turn_of_ranges: bool,
    /// And both with single documents.
    is_turn_of_others: bool,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, name: ChildName, generation: Generation) -> Reader {
        Reader {
            shared,
            name,
            generation,
            in_hand: None,
            is_reading: false,
            page_of: None,
            is_turn_of_ranges: false,
            is_turn_of_others: false,
        }
    }

    fn begin(&mut self) -> Step {
        if self.shared.store.wants_reopening() {
            self.shared.give_back_store();
        } else {
            self.shared.fetches.lock().hasten();
        }
        let now = self.shared.now();
        self.shared.end_overdue(now);
        if !self.is_turn_of_others && self.fetch_some(now) {
            self.is_turn_of_others = true;
            return Step::Again;
        }
        self.is_turn_of_others = false;
        self.is_turn_of_ranges = !self.is_turn_of_ranges;
        if self.is_turn_of_ranges && self.read_page(now) {
            return Step::Again;
        }
        let next = self.shared.queues.lock().next(now);
        match next {
            Next::Run(entry) => self.in_hand = Some(entry),
            Next::GiveUp(pipes) => {
                for pipe in pipes {
                    pipe.give_up();
                }
            }
            Next::WaitUntil(until) => return self.idle(Some(until), now),
            Next::Wait => return self.idle(None, now),
            Next::End => return Step::Ended,
        }
        Step::Again
    }

    /// There is nothing to do for streams until then.
    fn idle(&mut self, until: Option<Duration>, now: Duration) -> Step {
        if self.read_page(now) || self.fetch_some(now) {
            return Step::Again;
        }
        let look_at = self.shared.reads.lock().wake_at();
        let fetch_at = self.shared.fetches.lock().wake_at();
        let times = until.into_iter().chain(look_at).chain(fetch_at);
        match times.min() {
            Some(until) => Step::IdleFor(until.saturating_sub(now)),
            None => Step::Idle,
        }
    }

    /// Reads some documents that are asked for one by one; whether there were any.
    fn fetch_some(&mut self, now: Duration) -> bool {
        for done in 0..FETCHES_AT_ONCE {
            let untaken_bytes = self.shared.untaken_bytes.load(Ordering::Acquire);
            let next = self.shared.fetches.lock().next(now, untaken_bytes);
            let Some(fetch) = next else {
                self.refuse_overdue(now);
                return done > 0;
            };
            let Some(answer) = self.fetch(&fetch, now) else {
                let until = now.saturating_add(self.shared.limits.retry);
                self.shared.fetches.lock().put_off(fetch, until);
                return done > 0;
            };
            fetch.tell(answer);
        }
        true
    }

    /// Others took nothing for too long.
    fn refuse_overdue(&self, now: Duration) {
        let overdue = self.shared.fetches.lock().overdue(now);
        for fetch in overdue {
            fetch.tell(Err(OperationError::TemporaryFailure(Busy::Queue).into()));
        }
    }

    /// Reads one; `None` while the store is opened anew and it may wait for that.
    fn fetch(&self, fetch: &Fetch, now: Duration) -> Option<Answer> {
        let store = &self.shared.store;
        let (core, vbucket) = (&fetch.core, fetch.core.id());
        if let Err(error) = core.may_be_read() {
            return Some(Err(error.into()));
        }
        let mut of = store.generation();
        if let Some(cause) = fetch.met.clone() {
            self.report_of(of, vbucket, FailureKind::Fetch, cause.clone());
            return Some(Err(ScanError::Unread { vbucket, cause }));
        }
        // A panic of the store is the answer of whoever asked, not the end of all who wait.
        let found = caught(|| {
            let lease = store.lease()?;
            of = lease.generation();
            let looked_up = LookedUp::in_store(lease.store(), vbucket, &fetch.key)?;
            Ok::<_, StorageError>(core.pay_for(looked_up))
        });
        let cause = match found {
            Ok(Ok(looked_up)) => return Some(Ok(Fetched::new(looked_up, &self.shared))),
            Ok(Err(_)) if store.wants_reopening() && !fetch.is_overdue(now) => return None,
            Ok(Err(cause)) => FailureCause::from(cause),
            Err(panic) => FailureCause::Panic(panic),
        };
        let must_tell = || self.shared.fetches.lock().must_tell_missing(now);
        let is_missing = store.wants_reopening() && fetch.is_overdue(now);
        if !is_missing || must_tell() {
            self.report_of(of, vbucket, FailureKind::Fetch, cause.clone());
        }
        Some(Err(ScanError::Unread { vbucket, cause }))
    }

    /// Reads a page of a range, if one is wanted.
    fn read_page(&mut self, now: Duration) -> bool {
        let next = self.shared.reads.lock().next(now);
        let Some(cell) = next else { return false };
        let Some(mut read) = cell.take_read() else {
            return true;
        };
        self.page_of = Some(Arc::clone(&cell));
        let Shared {
            store, environment, ..
        } = &*self.shared;
        let stepped = read.step(store, environment);
        if let PageRead::Ended(_, RangeEnd::Failed(ScanError::Unread { vbucket, cause })) = &stepped
        {
            let kind = FailureKind::Scan {
                purpose: ScanPurpose::Client,
            };
            self.report(*vbucket, kind, cause.clone());
        }
        self.page_of = None;
        let next = cell.put_back(read, stepped, self.shared.now());
        let mut reads = self.shared.reads.lock();
        match next {
            reads::Next::Again => {
                if let Err(cell) = reads.want(cell) {
                    drop(reads);
                    cell.end(RangeEnd::Cancelled);
                }
            }
            reads::Next::Later => {
                reads.want_later(cell, now.saturating_add(self.shared.limits.retry));
            }
            reads::Next::Still => {}
        }
        true
    }

    /// The one in hand stays there until the queues were told, so that a panic on the way is told as well.
    fn settle(&mut self, stepped: Stepped) {
        let Some(entry) = &self.in_hand else { return };
        match stepped {
            Stepped::Again(chunk) => {
                self.hand_over(entry, chunk);
                self.go_on(Turn::Again);
            }
            Stepped::Later => {
                let until = self.shared.now().saturating_add(self.shared.limits.retry);
                self.go_on(Turn::Later(until));
            }
            Stepped::Ended { chunk, end, cause } => {
                self.hand_over(entry, chunk);
                self.end(entry, end, cause);
                self.in_hand = None;
            }
        }
    }

    fn go_on(&mut self, turn: Turn) {
        let Some(entry) = self.in_hand.take() else {
            return;
        };
        let Err(entry) = self.shared.queues.lock().put_back(entry, turn) else {
            return;
        };
        // Nothing is read any more.
        entry.job.request().pipe.end(BackfillEnd::Aborted);
    }

    fn end(&self, entry: &Entry<Backfill>, end: BackfillEnd, cause: Option<FailureCause>) {
        if let Some(cause) = cause {
            let vbucket = entry.job.request().core.id();
            let kind = FailureKind::Scan {
                purpose: ScanPurpose::Backfill,
            };
            self.report(vbucket, kind, cause);
        }
        self.shared.queues.lock().done(&entry.consumer, entry.id);
        entry.job.request().pipe.end(end);
    }

    fn report(&self, vbucket: VbucketId, kind: FailureKind, cause: FailureCause) {
        self.report_of(self.shared.store.generation(), vbucket, kind, cause);
    }

    /// The same of what was read from that opening of the store.
    fn report_of(
        &self,
        opening: StoreGeneration,
        vbucket: VbucketId,
        kind: FailureKind,
        cause: FailureCause,
    ) {
        if let FailureCause::Storage(error) = &cause
            && error.advice() == Advice::Reopen
        {
            self.shared.store.recall(opening, error.clone());
        }
        self.shared.environment.failures.report(FailureReport {
            child: self.name.clone(),
            generation: self.generation,
            vbucket: Some(vbucket),
            kind,
            cause,
            // The stream, the scan or the read ends and says so; whoever waits for it decides.
            next: NextStep::Nothing,
        });
    }

    fn hand_over(&self, entry: &Entry<Backfill>, chunk: Chunk) {
        let pipe = &entry.job.request().pipe;
        if chunk.read.events.is_empty() && chunk.read.skipped.items == 0 {
            return;
        }
        let of = (&entry.consumer, entry.id);
        let (bytes, now) = (chunk.bytes, self.shared.now());
        self.shared.queues.lock().buffered(of, pipe, bytes, now);
        pipe.put(chunk);
        if pipe.is_cancelled() {
            self.shared.release(of, pipe.drain());
        }
    }
}

impl Worker for Reader {
    fn step(&mut self) -> Step {
        let Some(entry) = &mut self.in_hand else {
            return self.begin();
        };
        let around = entry.job.span();
        self.is_reading = true;
        let stepped = around.in_scope(|| {
            let Shared {
                store,
                environment,
                limits,
                ..
            } = &*self.shared;
            entry.job.step(store, environment, limits.step_bytes)
        });
        around.in_scope(|| self.settle(stepped));
        self.is_reading = false;
        Step::Again
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(cell) = self.page_of.take() {
            cell.end(RangeEnd::Failed(ScanError::Crashed));
        }
        if let Some(entry) = self.in_hand.take() {
            let end = if self.is_reading {
                BackfillEnd::Panicked
            } else {
                BackfillEnd::Aborted
            };
            self.shared.queues.lock().done(&entry.consumer, entry.id);
            entry.job.request().pipe.end(end);
        }
    }
}
