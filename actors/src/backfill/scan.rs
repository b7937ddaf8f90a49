//! A range of keys as whoever asked for it reads it.
//!
//! Invariant: [`RangeScan::next`] says that there is no more only behind everything; what is dropped gives its snapshot back.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use super::manager::{Backfills, Shared};
use super::range::{RangeEnd, RangeRead, Wanted};
use super::reads::{Cell, Deadline, Taken};
use crate::vbucket::{Persisted, VbucketCore};
use messages::scan::{ScanConsistency, ScanError, ScanPage, ScanRequest, Scanned};
use messages::vbucket::Meta;
use storage::{Item, Seqno, VbucketUuid};

/// A scan of one vbucket under way.
#[derive(Debug)]
#[must_use = "what is not read to its end may lack anything"]
pub struct RangeScan {
    cell: Arc<Cell>,
    shared: Arc<Shared>,
    /// What must be on disk before it begins.
    waits: Option<Persisted>,
    with_values: bool,
    /// A page is complete with about so many.
    page_bytes: usize,
}

impl Backfills {
    /// Opens a scan of a vbucket. Nothing is read before it is asked for.
    pub fn scan(
        &self,
        core: &Arc<VbucketCore>,
        request: &ScanRequest,
    ) -> Result<RangeScan, ScanError> {
        let keys = Wanted::keys(request.collection, &request.range);
        core.admit_scan_of(request.collection, &keys)?;
        let vbucket = core.id();
        let branch = newest_branch(core);
        let seqno = match request.consistency {
            ScanConsistency::OnDisk => Seqno::ZERO,
            ScanConsistency::Answered => core.high_seqno(),
            ScanConsistency::AtLeast(token) => {
                if token.vbucket != vbucket || branch != Some(token.vbucket_uuid) {
                    return Err(ScanError::OtherHistory { vbucket });
                }
                token.seqno
            }
        };
        let waits = if seqno > core.told_on_disk() {
            Some(core.wait_persisted(seqno)?)
        } else {
            None
        };
        let wanted = Wanted {
            collection: request.collection,
            keys,
            with_values: request.with_values,
            limit: request.limit,
            page_bytes: request.page_bytes.clamp(1, ScanRequest::PAGE_BYTES),
            // Of what is on disk nothing in particular is asked.
            must_see: branch
                .filter(|_| seqno > Seqno::ZERO)
                .map(|branch| (branch, seqno)),
            patience: request.patience,
        };
        let at = self.shared().now().saturating_add(request.patience);
        let deadline = waits.is_some().then_some(Deadline { at, seqno });
        self.open(core, wanted, waits, deadline)
    }

    fn open(
        &self,
        core: &Arc<VbucketCore>,
        wanted: Wanted,
        waits: Option<Persisted>,
        deadline: Option<Deadline>,
    ) -> Result<RangeScan, ScanError> {
        let shared = self.shared();
        let now = shared.now();
        let (with_values, page_bytes) = (wanted.with_values, wanted.page_bytes);
        let idle = now.saturating_add(shared.limits.idle_max);
        let look_at = deadline.as_ref().map_or(idle, |deadline| deadline.at);
        let read = RangeRead::new(Arc::clone(core), wanted);
        let cell = Arc::new(Cell::new(read, deadline, now));
        shared.reads.lock().open(&cell, look_at)?;
        if waits.is_some() {
            // Somebody must look when its time is up.
            shared.wake();
        }
        Ok(RangeScan {
            cell,
            shared: Arc::clone(shared),
            waits,
            with_values,
            page_bytes,
        })
    }
}

impl RangeScan {
    /// The next document; `None` behind the last. After an error there is no more.
    pub async fn next(&mut self) -> Result<Option<Scanned>, ScanError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The same, for whoever polls.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Scanned>, ScanError>> {
        Poll::Ready(match ready!(self.poll_taken(context))? {
            Taken::Item(item) => Ok(Some(self.scanned(*item))),
            Taken::End(RangeEnd::Complete) => Ok(None),
            Taken::End(RangeEnd::Failed(error)) => Err(error),
            Taken::End(RangeEnd::Cancelled) => Err(ScanError::BrokenOff),
        })
    }

    /// The next documents: so many, or about so many bytes of them as are read at once; one at least, but behind the last.
    pub async fn next_page(&mut self, most: usize) -> Result<ScanPage, ScanError> {
        let mut page = ScanPage::default();
        let mut bytes: usize = 0;
        while page.documents.len() < most && bytes < self.page_bytes {
            let Some(scanned) = self.next().await? else {
                page.is_complete = true;
                break;
            };
            let value = scanned.value.as_ref().map_or(0, Bytes::len);
            let length = scanned.key.as_encoded().len().saturating_add(value);
            bytes = bytes.saturating_add(length);
            page.documents.push(scanned);
        }
        Ok(page)
    }

    /// It is in use, though nothing is asked of it: to be said again behind the time that is answered, by
    /// [`RangeScan::now`].
    #[must_use]
    pub fn keep(&self) -> Duration {
        let now = self.shared.now();
        self.cell.keep(now);
        now.saturating_add(self.shared.limits.idle_max / 4)
    }

    /// The time its idleness is measured by.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Whether there is nothing to be had of it any more but an error or the end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.cell.is_over()
    }

    fn poll_taken(&mut self, context: &mut Context<'_>) -> Poll<Result<Taken, ScanError>> {
        if let Some(waits) = &mut self.waits {
            match Pin::new(waits).poll(context) {
                Poll::Ready(Ok(())) => {
                    self.waits = None;
                    self.cell.begin();
                }
                Poll::Ready(Err(error)) => {
                    self.cell.end(RangeEnd::Cancelled);
                    return Poll::Ready(Err(error.into()));
                }
                Poll::Pending => {}
            }
        }
        let now = self.shared.now();
        let (taken, must_ask) = self.cell.take(context.waker(), now);
        if must_ask {
            let refused = self.shared.reads.lock().want(Arc::clone(&self.cell));
            match refused {
                Ok(()) => self.shared.wake(),
                Err(cell) => cell.end(RangeEnd::Cancelled),
            }
        }
        taken.map(Ok)
    }

    fn scanned(&self, item: Item) -> Scanned {
        let meta = Meta::of(&item);
        let document = item.document;
        Scanned {
            key: document.key,
            meta,
            value: self.with_values.then_some(document.value),
        }
    }
}

fn newest_branch(core: &VbucketCore) -> Option<VbucketUuid> {
    let identity = core.identity();
    identity
        .failover_table
        .entries()
        .first()
        .map(|entry| entry.uuid)
}

impl Drop for RangeScan {
    fn drop(&mut self) {
        self.cell.end(RangeEnd::Cancelled);
    }
}
