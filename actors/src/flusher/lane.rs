//! One vbucket's way to the disk, as its flusher sees it.
//!
//! Invariant: at most one batch of a vbucket is under way; a batch that failed is kept as it was and sent again, unless
//! the vbucket's place must be learnt anew, in which case it is dropped and taken again from the vbucket's log.

use std::sync::Arc;
use std::time::Duration;

use crate::flusher::answers::Ticket;
use crate::flusher::batch::Place;
use crate::flusher::flushable::Flushable;
use messages::DownCause;
use storage::Batch;

/// A vbucket of a flusher.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) vbucket: Arc<dyn Flushable>,
    pub(super) log_shard: u16,
    pub(super) phase: Phase,
    pub(super) place: Option<Place>,
    /// Number of the newest take.
    pub(super) taken: u64,
    /// Batches in a row that the store will never take.
    pub(super) faults: u32,
    /// The vbucket was told so.
    pub(super) is_disk_full: bool,
    /// We took it out of service, and put it back if the store serves it again.
    pub(super) is_taken_down: bool,
    /// Where it stands must be learnt anew once what is under way is answered.
    pub(super) is_stale: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Where it stands in the store is not known.
    Unplaced,
    /// It was asked for.
    Asked(Ticket),
    /// Nothing is in hand.
    Ready,
    UnderWay(Ticket, Sent),
    /// In hand, to be sent at that time.
    Kept(Box<Batch>, Sent, Duration),
    /// Out of service.
    Down(DownCause),
}

/// What is to be known of a batch while the writer has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Number of the take it came from.
    pub(super) taken: u64,
    pub(super) has_more: bool,
}

impl Lane {
    pub(super) fn new(vbucket: Arc<dyn Flushable>, log_shard: u16) -> Lane {
        Lane {
            vbucket,
            log_shard,
            phase: Phase::Unplaced,
            place: None,
            taken: 0,
            faults: 0,
            // An earlier life of the flusher may have said so.
            is_disk_full: true,
            is_taken_down: false,
            is_stale: false,
        }
    }

    /// Everything it has is on disk.
    pub(super) fn is_quiet(&self) -> bool {
        let vbucket = &self.vbucket;
        matches!(self.phase, Phase::Ready)
            && !vbucket.has_unflushed()
            && vbucket.persisted_seqno() >= vbucket.high_seqno()
    }

    /// Why nothing of it is written, if nothing is.
    pub(super) fn down(&self) -> Option<DownCause> {
        match &self.phase {
            Phase::Down(cause) => Some(cause.clone()),
            Phase::Unplaced
            | Phase::Asked(_)
            | Phase::Ready
            | Phase::UnderWay(..)
            | Phase::Kept(..) => self.vbucket.down(),
        }
    }

    pub(super) fn set_disk_full(&mut self, is_full: bool) {
        if self.is_disk_full != is_full {
            self.is_disk_full = is_full;
            self.vbucket.set_disk_full(is_full);
        }
    }
}
