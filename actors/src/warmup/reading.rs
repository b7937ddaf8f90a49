//! Reading one vbucket's documents at opening, step by step.
//!
//! Invariant: complete is only what was read to the end of what the store said it holds, every item of it (MB-47933); a
//! scan that says so without having proven it has failed.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::warmup::Warmable;
use storage::{ItemView, Namespace, Outcome, Scan, ScanEnd, Seqno, StorageError};

/// A vbucket's documents, being read.
#[derive(Debug)]
pub(super) struct Reading {
    scan: Box<dyn Scan>,
    /// Up to here at least it must be read.
    high: Seqno,
    /// Items the scan gave us.
    items: u64,
}

/// What one step read.
#[must_use = "a scan that failed leaves the vbucket incomplete"]
#[derive(Debug)]
pub(super) struct Stepped {
    pub(super) items: u64,
    /// Of keys and values.
    pub(super) bytes: u64,
    pub(super) outcome: Outcome<()>,
}

impl Reading {
    pub(super) fn new(scan: Box<dyn Scan>, high: Seqno) -> Reading {
        Reading {
            scan,
            high,
            items: 0,
        }
    }

    /// Reads about so many bytes into the vbucket.
    pub(super) fn step(&mut self, into: &dyn Warmable, bytes_max: usize) -> Stepped {
        let (mut items, mut bytes) = (0u64, 0u64);
        let mut bad = None;
        let mut visit = |view: ItemView<'_>| {
            items = items.saturating_add(1);
            let length = view.key.len().saturating_add(view.value.len());
            bytes = bytes.saturating_add(length as u64);
            if view.namespace() != Namespace::Committed {
                return ControlFlow::Continue(());
            }
            match view.to_item(Bytes::copy_from_slice(view.value)) {
                Ok(item) => {
                    into.warm_insert(item);
                    ControlFlow::Continue(())
                }
                Err(cause) => {
                    bad = Some(StorageError::Key(cause));
                    ControlFlow::Break(())
                }
            }
        };
        let outcome = self.scan.step(bytes_max, &mut visit);
        self.items = self.items.saturating_add(items);
        let outcome = match (bad, outcome) {
            (Some(cause), _) | (None, Outcome::Failed(cause)) => Outcome::Failed(cause),
            (None, Outcome::Complete(end)) => self.proven(end),
            (None, Outcome::Yielded) => Outcome::Yielded,
            (None, Outcome::Aborted(reason)) => Outcome::Aborted(reason),
        };
        Stepped {
            items,
            bytes,
            outcome,
        }
    }

    fn proven(&self, end: ScanEnd) -> Outcome<()> {
        // More may have been written since the state was read.
        if end.high_seqno >= self.high && end.items == self.items {
            return Outcome::Complete(());
        }
        tracing::error!(
            ?end,
            high = self.high.0,
            items = self.items,
            "a scan is complete without proof"
        );
        Outcome::Failed(StorageError::Gone)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storage::{Cas, CollectionId, Document, DocumentKey, Item};

    use super::*;
    use crate::vbucket::VbucketCore;
    use crate::vbucket::tests::support::Setup;

    /// Gives so many items, and says so.
    #[derive(Debug)]
    struct Told {
        gives: u64,
        says: ScanEnd,
    }

    impl Scan for Told {
        fn step(
            &mut self,
            _: usize,
            visit: &mut dyn FnMut(ItemView<'_>) -> ControlFlow<()>,
        ) -> Outcome<ScanEnd> {
            for seqno in 1..=self.gives {
                let key = format!("key-{seqno}");
                let key = DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).expect("a key");
                let item = Item::mutation(Seqno(seqno), Document::new(key, "v", Cas(1)));
                assert!(visit(ItemView::of(&item)).is_continue());
            }
            Outcome::Complete(self.says)
        }
    }

    #[test]
    fn a_scan_that_does_not_prove_that_it_is_complete_has_failed() {
        let rows = [
            (5, 5, 9, true),
            (5, 5, 10, true),
            (5, 5, 8, false),
            (4, 5, 9, false),
            (5, 4, 9, false),
        ];
        for (gives, items, high, is_complete) in rows {
            let core: Arc<VbucketCore> = Setup::default().warming().core;
            let high_seqno = Seqno(high);
            let says = ScanEnd { items, high_seqno };
            let mut reading = Reading::new(Box::new(Told { gives, says }), Seqno(9));
            let Stepped { items, outcome, .. } = reading.step(&*core, 1024);
            assert_eq!(items, gives);
            let complete = matches!(outcome, Outcome::Complete(()));
            assert_eq!(complete, is_complete, "{outcome:?}");
        }
    }
}
