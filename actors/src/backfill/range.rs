//! One read of a range of keys: opens a snapshot of a vbucket, and reads it a page at a time.
//!
//! | finds | comes to |
//! |---|---|
//! | the vbucket does not serve it any more, or the collection has ended | **failed** |
//! | the store is being opened anew, and nothing was read yet | later |
//! | the store has gaps | later, and **failed** when its patience is over |
//! | what must be seen is not part of the history any more | **failed** |
//! | the store is called back, its snapshot with it | **failed** |
//! | no snapshot, a step that fails, a record that cannot be read | **failed** |
//! | the scan is complete, with proof; or as many were found as are wanted | complete |
//! | the scan is complete, without proof | **failed** |
//!
//! Invariant: nothing but a proven completion comes to one (MB-47790).

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::environment::Environment;
use crate::hooks::FaultPoint;
use crate::store_handle::{StoreHandle, StoreLease};
use crate::vbucket::{VbucketCore, WholeFlushes};
use messages::FailureCause;
use messages::failure::ScanPurpose;
use messages::scan::{ScanError, ScanRange, behind_all_with};
use storage::{
    CollectionId, DocumentKey, DroppedCollection, Item, ItemView, KeyRange, KvStore, Namespace,
    Outcome, Scan, ScanEnd, Seqno, StorageError, VbucketUuid,
};

/// What is read.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) collection: CollectionId,
    pub(super) keys: KeyRange,
    pub(super) with_values: bool,
    pub(super) limit: Option<u64>,
    pub(super) page_bytes: usize,
    /// A change, and the branch of history it is of, that must be in what is read.
    pub(super) must_see: Option<(VbucketUuid, Seqno)>,
    /// How long it waits for a store that has a whole state.
    pub(super) patience: Duration,
}

/// How a read ended.
#[must_use = "a read that failed has not read everything"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeEnd {
    /// Everything was read, or as much as was wanted.
    Complete,
    /// It was not.
    Failed(ScanError),
    /// Nobody wanted it any more.
    Cancelled,
}

/// A read on its way.
#[derive(Debug)]
pub(super) struct RangeRead {
    core: Arc<VbucketCore>,
    wanted: Wanted,
    /// Where the life of the collection began that is read.
    start: Option<Seqno>,
    scanning: Option<Scanning>,
    gap: Option<Gap>,
    /// Found so far.
    found: u64,
}

/// The store holds a state that never was: what one batch brought, and not what comes with the next.
#[derive(Debug)]
struct Gap {
    /// Nor do later batches bring another one, while this is held.
    _whole: WholeFlushes,
    until: Duration,
}

#[derive(Debug)]
struct Scanning {
    // Dropped before the lease.
    scan: Box<dyn Scan>,
    lease: StoreLease,
    high: Seqno,
    dropped: Vec<DroppedCollection>,
    /// Items the scan gave us.
    items: u64,
}

/// What a step came to.
#[must_use]
#[derive(Debug)]
pub(super) enum Stepped {
    /// Some were found, or none yet.
    Page(Vec<Item>),
    /// Not now.
    Later,
    /// It is over, behind these.
    Ended(Vec<Item>, RangeEnd),
}

impl Wanted {
    /// The keys of a collection that lie in `range`, encoded.
    pub(super) fn keys(collection: CollectionId, range: &ScanRange) -> KeyRange {
        let prefix = DocumentKey::prefix(collection);
        let whole = |key: &[u8]| [&prefix, key].concat();
        // Nothing lies between a key and the same with a zero behind it.
        let behind = |key: &[u8]| [&prefix, key, &[0]].concat();
        KeyRange {
            namespace: Namespace::Committed,
            first: match &range.start {
                Bound::Included(key) => whole(key),
                Bound::Excluded(key) => behind(key),
                Bound::Unbounded => prefix.clone(),
            },
            end: match &range.end {
                Bound::Included(key) => Some(behind(key)),
                Bound::Excluded(key) => Some(whole(key)),
                Bound::Unbounded => behind_all_with(&prefix),
            },
        }
    }
}

impl RangeRead {
    pub(super) fn new(core: Arc<VbucketCore>, wanted: Wanted) -> RangeRead {
        RangeRead {
            core,
            wanted,
            start: None,
            scanning: None,
            gap: None,
            found: 0,
        }
    }

    /// Whether it holds a store that should be given back.
    pub(super) fn is_recalled(&self) -> bool {
        let scanning = self.scanning.as_ref();
        scanning.is_some_and(|scanning| scanning.lease.is_recalled())
    }

    pub(super) fn core(&self) -> &VbucketCore {
        &self.core
    }

    /// Reads a page.
    pub(super) fn step(&mut self, store: &StoreHandle, environment: &Environment) -> Stepped {
        let start = match self.core.admit_scan(self.wanted.collection, self.start) {
            Ok(start) => *self.start.insert(start),
            Err(error) => return failed(error.into()),
        };
        if self.is_recalled() {
            return failed(ScanError::BrokenOff);
        }
        let Some(scanning) = &mut self.scanning else {
            return self.open(store, environment);
        };
        let purpose = ScanPurpose::Client;
        // A test's fault strikes where the store's own would.
        if let Err(cause) = environment.hooks.fault(FaultPoint::Scan { purpose }) {
            return self.unread(cause);
        }
        let left = self.wanted.limit.unwrap_or(u64::MAX);
        let left = left.saturating_sub(self.found);
        if left == 0 {
            return Stepped::Ended(Vec::new(), RangeEnd::Complete);
        }
        let now = environment.clock.since_epoch().as_secs();
        let mut page = Page {
            wanted: &self.wanted,
            dropped: &scanning.dropped,
            start,
            now,
            left,
            seen: 0,
            found: Vec::new(),
            bad: None,
        };
        let outcome = scanning
            .scan
            .step(self.wanted.page_bytes, &mut |view| page.visit(view));
        let Page {
            seen, found, bad, ..
        } = page;
        scanning.items = scanning.items.saturating_add(seen);
        let (high, items) = (scanning.high, scanning.items);
        self.found = self.found.saturating_add(found.len() as u64);
        if let Some(cause) = bad {
            return self.unread(cause);
        }
        if self.wanted.limit.is_some_and(|limit| self.found >= limit) {
            return Stepped::Ended(found, RangeEnd::Complete);
        }
        match outcome {
            Outcome::Yielded => Stepped::Page(found),
            Outcome::Complete(end)
                if end
                    == (ScanEnd {
                        items,
                        high_seqno: high,
                    }) =>
            {
                Stepped::Ended(found, RangeEnd::Complete)
            }
            Outcome::Complete(end) => {
                tracing::error!(
                    ?end,
                    high = high.0,
                    items,
                    "a scan is complete without proof"
                );
                self.unread(StorageError::Gone)
            }
            // Nobody broke it off but the limit, which was looked at.
            Outcome::Aborted(_) => failed(ScanError::BrokenOff),
            Outcome::Failed(cause) => self.unread(cause),
        }
    }

    fn open(&mut self, store: &StoreHandle, environment: &Environment) -> Stepped {
        // The role may have changed since it was asked for.
        let Wanted {
            collection, keys, ..
        } = &self.wanted;
        if let Err(error) = self.core.admit_scan_of(*collection, keys) {
            return failed(error.into());
        }
        let opened = store.lease().and_then(|lease| {
            let snapshot = lease.store().snapshot(self.core.id())?;
            Ok((lease, snapshot))
        });
        let (lease, snapshot) = match opened {
            Ok(opened) => opened,
            // Woken when the store is back.
            Err(_) if store.wants_reopening() => return Stepped::Later,
            Err(cause) => return self.unread(cause),
        };
        let watermarks = snapshot.state().watermarks;
        if let Some((branch, seqno)) = self.wanted.must_see
            && (watermarks.high_seqno < seqno || !self.core.has_change(branch, seqno))
        {
            let vbucket = self.core.id();
            return failed(ScanError::OtherHistory { vbucket });
        }
        let has_gaps = watermarks.snapshot.end > watermarks.high_seqno
            && self.core.high_seqno() > watermarks.high_seqno;
        if has_gaps {
            return self.wait(watermarks.snapshot.end, environment.clock.monotonic());
        }
        self.gap = None;
        self.scanning = Some(Scanning {
            scan: snapshot.scan_by_key(self.wanted.keys.clone()),
            lease,
            high: snapshot.high_seqno(),
            dropped: snapshot.dropped_collections(),
            items: 0,
        });
        Stepped::Page(Vec::new())
    }

    /// Until what the store lacks up to `seqno` is there.
    fn wait(&mut self, seqno: Seqno, now: Duration) -> Stepped {
        let gap = self.gap.get_or_insert_with(|| Gap {
            _whole: self.core.want_whole_flushes(),
            until: now.saturating_add(self.wanted.patience),
        });
        if gap.until <= now {
            let vbucket = self.core.id();
            return failed(ScanError::NotOnDisk { vbucket, seqno });
        }
        Stepped::Later
    }

    fn unread(&self, cause: impl Into<FailureCause>) -> Stepped {
        let (vbucket, cause) = (self.core.id(), cause.into());
        failed(ScanError::Unread { vbucket, cause })
    }
}

const fn failed(error: ScanError) -> Stepped {
    Stepped::Ended(Vec::new(), RangeEnd::Failed(error))
}

/// What is read in one step.
struct Page<'r> {
    wanted: &'r Wanted,
    dropped: &'r [DroppedCollection],
    start: Seqno,
    /// Seconds since the Unix epoch.
    now: u64,
    left: u64,
    seen: u64,
    found: Vec<Item>,
    bad: Option<StorageError>,
}

impl Page<'_> {
    fn visit(&mut self, view: ItemView<'_>) -> ControlFlow<()> {
        self.seen = self.seen.saturating_add(1);
        let expiry = u64::from(view.expiry.0);
        let is_over = view.operation.is_tombstone() || (expiry != 0 && expiry <= self.now);
        if is_over || !self.is_of_this_life(view.seqno) {
            return ControlFlow::Continue(());
        }
        let value = if self.wanted.with_values {
            Bytes::copy_from_slice(view.value)
        } else {
            Bytes::new()
        };
        match view.to_item(value) {
            Ok(item) => self.found.push(item),
            Err(cause) => {
                self.bad = Some(StorageError::Key(cause));
                return ControlFlow::Break(());
            }
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// What is left of an earlier life of the collection is nobody's any more.
    fn is_of_this_life(&self, seqno: Seqno) -> bool {
        let mut dropped = self.dropped.iter();
        let was_dropped = |one: &DroppedCollection| {
            one.collection == self.wanted.collection && one.start <= seqno && seqno < one.end
        };
        seqno >= self.start && !dropped.any(was_dropped)
    }
}
