//! A reader: takes one backfill after the other, does a step of it, hands over what was read.
//!
//! Between them it reads pages of ranges. Invariant: whatever becomes of a step, its stream is told: what was read, that it goes
//! on, or how it ended, once; and what a panic tears from a reader's hands ends with that.

use std::sync::Arc;
use std::time::Duration;

use super::job::{Backfill, Stepped};
use super::manager::Shared;
use super::pipe::Chunk;
use super::queues::{Entry, Next, Turn};
use super::range::{RangeEnd, Stepped as PageRead};
use super::reads::{self, Cell};
use crate::environment::FailureReport;
use crate::executor::{Step, Worker};
use crate::stream::BackfillEnd;
use messages::failure::ScanPurpose;
use messages::scan::ScanError;
use messages::{ChildName, FailureCause, FailureKind, Generation, NextStep};
use storage::{Advice, VbucketId};

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
        }
    }

    fn begin(&mut self) -> Step {
        if self.shared.store.wants_reopening() {
            self.shared.give_back_store();
        }
        let now = self.shared.now();
        self.shared.end_overdue(now);
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
        if self.read_page(now) {
            return Step::Again;
        }
        let look_at = self.shared.reads.lock().wake_at();
        match until.into_iter().chain(look_at).min() {
            Some(until) => Step::IdleFor(until.saturating_sub(now)),
            None => Step::Idle,
        }
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
            self.report(*vbucket, ScanPurpose::Client, cause.clone());
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
            self.report(vbucket, ScanPurpose::Backfill, cause);
        }
        self.shared.queues.lock().done(&entry.consumer, entry.id);
        entry.job.request().pipe.end(end);
    }

    fn report(&self, vbucket: VbucketId, purpose: ScanPurpose, cause: FailureCause) {
        if let FailureCause::Storage(error) = &cause
            && error.advice() == Advice::Reopen
        {
            let store = &self.shared.store;
            store.recall(store.generation(), error.clone());
        }
        self.shared.environment.failures.report(FailureReport {
            child: self.name.clone(),
            generation: self.generation,
            vbucket: Some(vbucket),
            kind: FailureKind::Scan { purpose },
            cause,
            // The stream, or the scan, ends and says so; whoever reads it decides.
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
