//! What becomes one group: in order, one batch per vbucket, up to the limits, and never past a barrier.

use std::sync::Arc;

use super::*;
use crate::flusher::answers::{FlusherEdge, Ticket};
use crate::flusher::{FlushTake, Flushable};
use crate::writer::WriterQueue;
use messages::{DownCause, Generation};
use storage::{Incarnation, RollbackEpoch, Seqno, VbucketId, Watermarks};

#[derive(Debug)]
struct Nobody;

impl Flushable for Nobody {
    fn take_for_flush(&self, _: usize, _: usize) -> Option<FlushTake> {
        None
    }
    fn note_persisted(&self, _: Seqno) {}
    fn resync(&self, _: Seqno) {}
    fn has_unflushed(&self) -> bool {
        false
    }
    fn high_seqno(&self) -> Seqno {
        Seqno::ZERO
    }
    fn persisted_seqno(&self) -> Seqno {
        Seqno::ZERO
    }
    fn settled_seqno(&self) -> Seqno {
        Seqno::ZERO
    }
    fn set_disk_full(&self, _: bool) {}
    fn down(&self) -> Option<DownCause> {
        None
    }
    fn take_down(&self, _: DownCause) {}
    fn bring_up(&self) {}
}

fn ticket(number: u64) -> Ticket {
    let generation = Generation(1);
    Ticket { generation, number }
}

fn commit(number: u64, vbucket: u16) -> Request {
    Request::Commit(Box::new(CommitRequest {
        ticket: ticket(number),
        batch: Batch {
            vbucket: VbucketId::new(vbucket).unwrap(),
            incarnation: Incarnation(1),
            epoch: RollbackEpoch(0),
            items: Vec::new(),
            watermarks: Watermarks::default(),
            identity: None,
        },
        vbucket: Arc::new(Nobody),
        reply: FlusherEdge::new(),
    }))
}

fn barrier(number: u64) -> Request {
    Request::Barrier(BarrierRequest {
        ticket: ticket(number),
        vbuckets: Vec::new(),
        reply: FlusherEdge::new(),
    })
}

/// The tickets of each group, or of the barrier alone.
fn groups(limits: GroupLimits, requests: Vec<Request>) -> Vec<Vec<u64>> {
    let queue = WriterQueue::new(20, 20);
    for request in requests {
        queue.sender.try_send(request).unwrap();
    }
    let mut intake = Intake::new(queue.receiver.clone());
    let mut found = Vec::new();
    loop {
        match intake.next(limits) {
            Next::Nothing => return found,
            Next::Barrier(barrier) => found.push(vec![barrier.ticket.number]),
            Next::Group(group) => {
                found.push(group.iter().map(|request| request.ticket.number).collect());
            }
        }
    }
}

#[test]
fn a_vbucket_comes_once_in_a_group() {
    let requests = vec![commit(1, 0), commit(2, 1), commit(3, 0), commit(4, 0)];
    let found = groups(GroupLimits::default(), requests);
    assert_eq!(found, [vec![1, 2], vec![3], vec![4]]);
}

#[test]
fn a_barrier_waits_for_what_came_before() {
    let requests = vec![barrier(1), commit(2, 0), barrier(3), commit(4, 1)];
    let found = groups(GroupLimits::default(), requests);
    assert_eq!(found, [[1], [2], [3], [4]]);
}

#[test]
fn limits_end_a_group() {
    let three = || vec![commit(1, 0), commit(2, 1), commit(3, 2)];
    let most = |bytes_max, batches_max| GroupLimits {
        bytes_max,
        batches_max,
    };
    assert_eq!(groups(most(1 << 20, 2), three()), [vec![1, 2], vec![3]]);
    // Each costs more than one byte: the one that reaches the limit is the last.
    assert_eq!(groups(most(1, 9), three()), [[1], [2], [3]]);
    assert_eq!(groups(most(0, 0), three()), [[1], [2], [3]]);
}
