//! Reads of ranges that are under way, as those who asked for them and the readers share them.
//!
//! A read does a page when it is asked for one, and lies still in its [`Cell`] otherwise, with its snapshot. Invariant: a cell
//! ends once and says how; whoever drops his [`RangeScan`] gives the snapshot back with it; what lies still for too long, or
//! holds a store that is called back, is ended by the readers.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::range::{RangeEnd, RangeRead, Stepped};
use messages::OperationError;
use messages::scan::ScanError;
use storage::{Item, Seqno};

/// Most reads that are open at once: four scans of all vbuckets there can be.
const OPEN_MAX: usize = 4096;

/// A read, and what it found that was not taken.
#[derive(Debug)]
pub(super) struct Cell(Mutex<State>);

/// What a read waits for before it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// By then
    pub(super) at: Duration,
    /// this must be on disk.
    pub(super) seqno: Seqno,
}

#[derive(Debug)]
struct State {
    /// With whoever does a page of it, or over, if it is not here.
    read: Option<RangeRead>,
    found: VecDeque<Item>,
    end: Option<RangeEnd>,
    waker: Option<Waker>,
    /// A page was asked for and is not there.
    is_wanted: bool,
    deadline: Option<Deadline>,
    used_at: Duration,
}

impl State {
    /// What came first stays. The snapshot is for the caller to drop, outside the lock.
    #[must_use]
    fn end(&mut self, end: RangeEnd) -> (Option<RangeRead>, Option<Waker>) {
        self.end.get_or_insert(end);
        (self.read.take(), self.waker.take())
    }
}

impl Cell {
    pub(super) fn new(read: RangeRead, deadline: Option<Deadline>, now: Duration) -> Cell {
        Cell(Mutex::new(State {
            read: Some(read),
            found: VecDeque::new(),
            end: None,
            waker: None,
            is_wanted: false,
            deadline,
            used_at: now,
        }))
    }

    pub(super) fn end(&self, end: RangeEnd) {
        let (read, waker) = self.0.lock().end(end);
        drop(read);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The next that was found, or how it ended. `true`: there is nothing, and nobody was asked for more yet.
    pub(super) fn take(&self, waker: &Waker, now: Duration) -> (Poll<Taken>, bool) {
        let mut state = self.0.lock();
        state.used_at = now;
        if let Some(item) = state.found.pop_front() {
            return (Poll::Ready(Taken::Item(Box::new(item))), false);
        }
        if let Some(end) = &state.end {
            return (Poll::Ready(Taken::End(end.clone())), false);
        }
        state.waker = Some(waker.clone());
        let must_ask = !state.is_wanted && state.deadline.is_none();
        state.is_wanted |= must_ask;
        (Poll::Pending, must_ask)
    }

    /// What it waited for is on disk.
    pub(super) fn begin(&self) {
        self.0.lock().deadline = None;
    }

    /// Whether nothing is read any more, and nothing that was read is left to be taken of a read that is complete.
    pub(super) fn is_over(&self) -> bool {
        let state = self.0.lock();
        match state.end {
            None => false,
            Some(RangeEnd::Complete) => state.found.is_empty(),
            Some(RangeEnd::Failed(_) | RangeEnd::Cancelled) => true,
        }
    }

    /// It is in use, though nothing is taken.
    pub(super) fn keep(&self, now: Duration) {
        self.0.lock().used_at = now;
    }

    /// Ends it, whatever is left to be taken.
    pub(super) fn give_up(&self, error: ScanError) {
        {
            let mut state = self.0.lock();
            state.found.clear();
            if matches!(state.end, Some(RangeEnd::Complete)) {
                state.end = None;
            }
        }
        self.end(RangeEnd::Failed(error));
    }

    /// The read, for whoever does a page of it; none if it is over.
    pub(super) fn take_read(&self) -> Option<RangeRead> {
        self.0.lock().read.take()
    }

    /// A page was done; whether another one is wanted, because nothing was found.
    pub(super) fn put_back(&self, read: RangeRead, stepped: Stepped, now: Duration) -> Next {
        let mut state = self.0.lock();
        state.used_at = now;
        if state.end.is_some() {
            drop(state);
            drop(read);
            return Next::Still;
        }
        match stepped {
            Stepped::Later => {
                state.read = Some(read);
                Next::Later
            }
            Stepped::Page(found) if found.is_empty() => {
                state.read = Some(read);
                Next::Again
            }
            Stepped::Page(found) => {
                state.read = Some(read);
                state.is_wanted = false;
                state.found.extend(found);
                let waker = state.waker.take();
                drop(state);
                waker.into_iter().for_each(Waker::wake);
                Next::Still
            }
            Stepped::Ended(found, end) => {
                state.found.extend(found);
                let (_, waker) = state.end(end);
                drop(state);
                drop(read);
                waker.into_iter().for_each(Waker::wake);
                Next::Still
            }
        }
    }

    /// Why it must end now, or when it would have to.
    fn judge(
        &self,
        now: Duration,
        idle_max: Duration,
        is_recalled: bool,
    ) -> Result<Duration, ScanError> {
        let mut state = self.0.lock();
        let holds_it = |read: &RangeRead| is_recalled && read.is_recalled();
        if state.read.as_ref().is_some_and(holds_it) {
            return Err(ScanError::BrokenOff);
        }
        if let Some(Deadline { at, seqno }) = state.deadline
            && let Some(read) = &state.read
        {
            if now < at {
                return Ok(at);
            }
            let vbucket = read.core().id();
            if read.core().told_on_disk() < seqno {
                return Err(ScanError::NotOnDisk { vbucket, seqno });
            }
            // It is there, and whoever wanted it has not looked yet.
            state.deadline = None;
        }
        let until = state.used_at.saturating_add(idle_max);
        let is_read = state.is_wanted && state.end.is_none();
        let is_empty = state.end.is_some() && state.found.is_empty();
        if is_read || is_empty {
            Ok(now.saturating_add(idle_max))
        } else if until <= now {
            Err(ScanError::Idle)
        } else {
            Ok(until)
        }
    }
}

/// What was taken out of a cell.
#[derive(Debug)]
pub(super) enum Taken {
    Item(Box<Item>),
    End(RangeEnd),
}

/// Where a cell goes after a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Behind the others.
    Again,
    /// The same, but not at once.
    Later,
    /// Nowhere, until it is asked.
    Still,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Reads {
    wanted: VecDeque<Arc<Cell>>,
    later: Vec<(Duration, Arc<Cell>)>,
    open: Vec<Weak<Cell>>,
    /// When one of them may have to be ended.
    look_at: Option<Duration>,
    is_stopped: bool,
}

impl Reads {
    /// Takes one in; refused when too many are open.
    pub(super) fn open(&mut self, cell: &Arc<Cell>, look_at: Duration) -> Result<(), ScanError> {
        if self.is_stopped {
            return Err(OperationError::Closed.into());
        }
        if self.open.len() >= OPEN_MAX {
            self.open.retain(|cell| cell.strong_count() > 0);
        }
        if self.open.len() >= OPEN_MAX {
            let busy = messages::Busy::Queue;
            return Err(OperationError::TemporaryFailure(busy).into());
        }
        self.open.push(Arc::downgrade(cell));
        self.look_at = Some(self.look_at.map_or(look_at, |at| at.min(look_at)));
        Ok(())
    }

    /// Has a page read; given back when nothing is read any more.
    pub(super) fn want(&mut self, cell: Arc<Cell>) -> Result<(), Arc<Cell>> {
        if self.is_stopped {
            return Err(cell);
        }
        self.wanted.push_back(cell);
        Ok(())
    }

    pub(super) fn want_later(&mut self, cell: Arc<Cell>, at: Duration) {
        if !self.is_stopped {
            self.later.push((at, cell));
        }
    }

    /// Whose page is next.
    pub(super) fn next(&mut self, now: Duration) -> Option<Arc<Cell>> {
        let due = |(at, _): &mut (Duration, Arc<Cell>)| *at <= now;
        let due: Vec<_> = self.later.extract_if(.., due).collect();
        self.wanted.extend(due.into_iter().map(|(_, cell)| cell));
        self.wanted.pop_front()
    }

    /// Those that must be ended now, each with the reason; and those looked at are looked at again in time.
    #[must_use]
    pub(super) fn overdue(
        &mut self,
        now: Duration,
        idle_max: Duration,
        is_recalled: bool,
    ) -> Vec<(Arc<Cell>, ScanError)> {
        if !is_recalled && self.look_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut overdue = Vec::new();
        let mut look_at: Option<Duration> = None;
        self.open.retain(|cell| {
            let Some(cell) = cell.upgrade() else {
                return false;
            };
            match cell.judge(now, idle_max, is_recalled) {
                Ok(at) => {
                    look_at = Some(look_at.map_or(at, |look_at| look_at.min(at)));
                    true
                }
                Err(error) => {
                    overdue.push((cell, error));
                    false
                }
            }
        });
        self.look_at = look_at;
        overdue
    }

    /// When somebody must look, at the latest.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let later = self.later.iter().map(|(at, _)| *at);
        later.chain(self.look_at).min()
    }

    /// Nothing is read any more; those that are open.
    #[must_use]
    pub(super) fn stop(&mut self) -> Vec<Arc<Cell>> {
        self.is_stopped = true;
        self.wanted.clear();
        self.later.clear();
        let open = std::mem::take(&mut self.open);
        open.iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests;
