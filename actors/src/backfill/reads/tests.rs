//! What is open is ended in time, and nothing that is wanted.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::{Cell, Deadline, OPEN_MAX, Reads, Taken};
use crate::backfill::range::{RangeEnd, RangeRead, Wanted};
use crate::vbucket::VbucketCore;
use crate::vbucket::tests::support::{active, id};
use messages::scan::{ScanError, ScanRange};
use messages::{Busy, OperationError};
use storage::{CollectionId, Seqno};

const IDLE: Duration = Duration::from_secs(720);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn read_of(core: Arc<VbucketCore>) -> RangeRead {
    let wanted = Wanted {
        collection: CollectionId::DEFAULT,
        keys: Wanted::keys(CollectionId::DEFAULT, &ScanRange::all()),
        with_values: true,
        limit: None,
        page_bytes: 1,
        must_see: None,
        patience: Duration::ZERO,
    };
    RangeRead::new(core, wanted)
}

fn cell(deadline: Option<Deadline>) -> Arc<Cell> {
    Arc::new(Cell::new(read_of(active().core), deadline, at(0)))
}

fn end_of(cell: &Cell, now: Duration) -> Option<RangeEnd> {
    match cell.take(Waker::noop(), now) {
        (Poll::Ready(Taken::End(end)), _) => Some(end),
        (Poll::Ready(Taken::Item(item)), _) => panic!("{item:?}"),
        (Poll::Pending, _) => None,
    }
}

/// Ends what is overdue, as a reader does.
fn look(reads: &mut Reads, now: Duration) {
    for (cell, error) in reads.overdue(now, IDLE, false) {
        cell.end(RangeEnd::Failed(error));
    }
}

#[test]
fn what_nobody_asks_anything_of_ends_in_time() {
    let (mut reads, still) = (Reads::default(), cell(None));
    reads.open(&still, IDLE).unwrap();
    assert_eq!(reads.wake_at(), Some(IDLE));
    look(&mut reads, at(719));
    assert!(!still.is_over());
    look(&mut reads, IDLE);
    let idle = Some(RangeEnd::Failed(ScanError::Idle));
    assert_eq!(end_of(&still, IDLE), idle);
    assert!(still.take_read().is_none(), "its snapshot is given back");
    assert_eq!(reads.wake_at(), None);
}

#[test]
fn what_is_wanted_is_not_idle() {
    let (mut reads, wanted) = (Reads::default(), cell(None));
    reads.open(&wanted, IDLE).unwrap();
    let (_, must_ask) = wanted.take(Waker::noop(), at(0));
    assert!(must_ask);
    let (_, asked_already) = wanted.take(Waker::noop(), at(0));
    assert!(!asked_already);
    reads.want(Arc::clone(&wanted)).unwrap();
    look(&mut reads, IDLE * 3);
    assert!(!wanted.is_over());
    assert!(Arc::ptr_eq(&reads.next(IDLE * 3).unwrap(), &wanted));
}

#[test]
fn what_waits_too_long_is_told_so() {
    let deadline = Deadline {
        at: at(5),
        seqno: Seqno(1),
    };
    let (waits, begun) = (cell(Some(deadline)), cell(Some(deadline)));
    let late = ScanError::NotOnDisk {
        vbucket: id(),
        seqno: Seqno(1),
    };
    let mut reads = Reads::default();
    for cell in [&waits, &begun] {
        reads.open(cell, at(5)).unwrap();
        let (_, must_ask) = cell.take(Waker::noop(), at(0));
        assert!(!must_ask, "nothing is read before");
    }
    begun.begin();
    look(&mut reads, at(5));
    assert_eq!(end_of(&waits, at(5)), Some(RangeEnd::Failed(late)));
    assert!(!begun.is_over());
}

#[test]
fn so_many_are_open_and_a_stop_ends_them() {
    let mut reads = Reads::default();
    let core = active().core;
    let of_one = |_| Arc::new(Cell::new(read_of(Arc::clone(&core)), None, at(0)));
    let open: Vec<_> = (0..OPEN_MAX).map(of_one).collect();
    for cell in &open {
        reads.open(cell, IDLE).unwrap();
    }
    let busy = OperationError::TemporaryFailure(Busy::Queue);
    assert_eq!(reads.open(&cell(None), IDLE), Err(busy.into()));
    drop(open);
    let last = cell(None);
    reads.open(&last, IDLE).unwrap();
    let left = reads.stop();
    assert_eq!(left.len(), 1);
    assert_eq!(
        reads.open(&cell(None), IDLE),
        Err(OperationError::Closed.into())
    );
    assert!(reads.want(last).is_err());
}
