//! Scans that were opened by message, between two pages of theirs.
//!
//! Invariant: a scan is here, or with whoever reads a page of it; one that ended, however, is nowhere. Those that nobody reads
//! on in are ended by the readers, and forgotten when the next one is opened.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use crate::backfill::RangeScan;
use crate::sync::Mutex;
use messages::scan::{ScanError, ScanId, ScanPage};

/// Documents of one answer at most.
const PAGE_DOCUMENTS_MAX: usize = 1000;

/// The scans of one life of a vbucket's actor.
#[derive(Debug, Default)]
pub(super) struct Scans(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    open: BTreeMap<ScanId, RangeScan>,
    last: u64,
}

impl Scans {
    pub(super) fn open(&self, scan: RangeScan) -> ScanId {
        let mut table = self.0.lock();
        table.open.retain(|_, scan| !scan.is_over());
        table.last = table.last.saturating_add(1);
        let id = ScanId(table.last);
        table.open.insert(id, scan);
        id
    }

    /// The next page.
    pub(super) fn read(
        &self,
        id: ScanId,
    ) -> impl Future<Output = Result<ScanPage, ScanError>> + Send + use<> {
        let table = Arc::clone(&self.0);
        let scan = table.lock().open.remove(&id);
        async move {
            let mut scan = scan.ok_or(ScanError::NoScan)?;
            let page = scan.next_page(PAGE_DOCUMENTS_MAX).await?;
            if !page.is_complete {
                table.lock().open.insert(id, scan);
            }
            Ok(page)
        }
    }

    pub(super) fn close(&self, id: ScanId) {
        drop(self.0.lock().open.remove(&id));
    }
}
