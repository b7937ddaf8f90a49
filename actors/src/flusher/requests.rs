//! Who waits for a flusher: pausing, stopping, and "flush what there is now".
//!
//! Invariant: everybody is answered once. What was in a vbucket's log when [`FlushNow`] came is on disk when the
//! vbucket is quiet, or when a batch taken since reaches past it, or took all there was.
//!
//! [`FlushNow`]: messages::flusher::FlushNow

use std::collections::BTreeMap;
use std::time::Duration;

use crate::flusher::lane::Sent;
use messages::OperationError;
use messages::flusher::FlushReport;
use storage::{Seqno, VbucketId};

/// Names somebody who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// What he is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is done, or why not.
    Done(Result<(), OperationError>),
    /// The flusher has stopped.
    Stopped(FlushReport),
}

/// Until when a vbucket is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    /// The newest take when it was asked.
    pub(super) taken: u64,
    /// The highest seqno then.
    pub(super) high: Seqno,
}

impl Want {
    /// Whether the persisted batch shows that all is on disk, where everything up to `settled` is.
    pub(super) fn is_met_by(&self, sent: &Sent, settled: Seqno) -> bool {
        // A state without items lies behind the items: it is there when something behind it is, or all is.
        let is_behind = settled > self.high || (settled == self.high && !sent.has_more);
        sent.taken > self.taken && is_behind
    }
}

/// Somebody who waits for vbuckets to be on disk.
#[derive(Debug)]
pub(super) struct FlushWaiter {
    pub(super) id: WaiterId,
    pub(super) wants: BTreeMap<VbucketId, Want>,
}

/// Everybody who waits.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    pub(super) flush: Vec<FlushWaiter>,
    pub(super) pause: Vec<WaiterId>,
    pub(super) stop: Vec<WaiterId>,
    pub(super) stop_until: Option<Duration>,
}
