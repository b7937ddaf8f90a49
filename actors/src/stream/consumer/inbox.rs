//! Where a source's producer puts what it sends to one stream of a replica vbucket.
//!
//! Invariant: it holds no more than the stream's window lets be under way; once it is closed nothing is put in, and the
//! producer sees that. Its consumer is told of a batch by its edge, never by a mailbox (rule R18).

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::stream::{Offer, StreamSink};
use crate::vbucket::DirtyVbuckets;
use messages::stream::StreamBatch;
use storage::VbucketId;

/// The consumer's end; dropped, it is closed.
#[derive(Debug)]
pub(super) struct Inbox(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    batches: VecDeque<StreamBatch>,
    bytes: u64,
    is_closed: bool,
}

impl Inbox {
    /// An inbox of this vbucket's stream, and the way into it.
    pub(super) fn new(vbucket: VbucketId, edge: Arc<DirtyVbuckets>) -> (Inbox, InboxSink) {
        let content = Arc::<Mutex<Content>>::default();
        let sink = InboxSink {
            content: Arc::clone(&content),
            vbucket,
            edge,
        };
        (Inbox(content), sink)
    }

    /// The next batch.
    pub(super) fn take(&self) -> Option<StreamBatch> {
        let mut content = self.0.lock();
        let batch = content.batches.pop_front()?;
        content.bytes = content.bytes.saturating_sub(batch.bytes);
        Some(batch)
    }

    /// Bytes that wait here.
    pub(super) fn bytes(&self) -> u64 {
        self.0.lock().bytes
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let left = {
            let mut content = self.0.lock();
            content.is_closed = true;
            std::mem::take(&mut content.batches)
        };
        drop(left);
    }
}

/// The producer's end.
#[derive(Debug)]
pub(super) struct InboxSink {
    content: Arc<Mutex<Content>>,
    vbucket: VbucketId,
    edge: Arc<DirtyVbuckets>,
}

impl StreamSink for InboxSink {
    fn offer(&mut self, batch: StreamBatch) -> Offer {
        {
            let mut content = self.content.lock();
            if content.is_closed {
                return Offer::Gone;
            }
            content.bytes = content.bytes.saturating_add(batch.bytes);
            content.batches.push_back(batch);
        }
        self.edge.mark(self.vbucket);
        Offer::Taken
    }

    fn is_gone(&self) -> bool {
        self.content.lock().is_closed
    }
}
