//! Where the streams of all vbuckets meet: each producer puts its batches in, one consumer takes them out.
//!
//! Invariant: what lies in here is bounded by what the streams may send unacknowledged; once the consumer is gone
//! nothing more is put in, and every producer sees it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::Mutex;

use actors::stream::{Offer, StreamSink};
use messages::stream::StreamBatch;

/// Which opening of a vbucket's stream a batch came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt(pub(super) u64);

/// The inbox. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    batches: VecDeque<(Attempt, StreamBatch)>,
    waker: Option<Waker>,
    is_closed: bool,
}

impl Inbox {
    /// The next batch; if there is none, the task is woken when there is.
    pub(super) fn take(&self, task: &Context<'_>) -> Option<(Attempt, StreamBatch)> {
        let mut content = self.0.lock();
        let next = content.batches.pop_front();
        if next.is_none() {
            content.waker = Some(task.waker().clone());
        }
        next
    }

    /// Puts back what cannot be looked at yet.
    pub(super) fn put_back(&self, attempt: Attempt, batch: StreamBatch) {
        self.0.lock().batches.push_front((attempt, batch));
    }

    /// Nobody takes anything any more.
    pub(super) fn close(&self) {
        let mut content = self.0.lock();
        content.is_closed = true;
        content.waker = None;
        let left = std::mem::take(&mut content.batches);
        drop(content);
        drop(left);
    }

    /// A way in for one stream.
    pub(super) fn sink(&self, attempt: Attempt) -> InboxSink {
        InboxSink {
            inbox: self.clone(),
            attempt,
        }
    }
}

/// A stream's way into the inbox.
#[derive(Debug)]
pub(super) struct InboxSink {
    inbox: Inbox,
    attempt: Attempt,
}

impl StreamSink for InboxSink {
    fn offer(&mut self, batch: StreamBatch) -> Offer {
        let mut content = self.inbox.0.lock();
        if content.is_closed {
            return Offer::Gone;
        }
        content.batches.push_back((self.attempt, batch));
        let waker = content.waker.take();
        drop(content);
        if let Some(waker) = waker {
            waker.wake();
        }
        Offer::Taken
    }

    fn is_gone(&self) -> bool {
        self.inbox.0.lock().is_closed
    }
}
