//! Reading a past: one document, all of them, and which collections there were.
//!
//! Invariant: what is handed out is what a reader at that moment could have read: committed, not deleted, not expired by
//! then, of a collection that had not ended. An iterator that failed never looks complete: its last item is the error.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use actors::vbucket::{manifest_of, newest};
use messages::CollectionsManifest;
use storage::{
    CollectionId, Document, DocumentKey, Item, ItemView, KeyRange, ManifestUid, Namespace, Outcome,
    Scan, Seqno, Snapshot, StorageError, SystemEvent,
};

use super::{Past, PastError, PastVbucket};
use crate::vbucket_map;

/// Bytes read in a step of a scan.
const STEP_BYTES: usize = 256 << 10;

impl Past {
    /// The document of the default collection that had this key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Document>, PastError> {
        self.get_key(&DocumentKey::new(CollectionId::DEFAULT, key.as_ref())?)
    }

    /// The document that had this key, of whichever collection.
    pub fn get_key(&self, key: &DocumentKey) -> Result<Option<Document>, PastError> {
        self.check()?;
        let vbucket = vbucket_map::vbucket_of(key.key(), self.shape.vbuckets);
        let one = self.vbuckets.get(vbucket.index());
        let one = one.ok_or(StorageError::UnknownVbucket(vbucket))?;
        let newest = one.snapshot.get(Namespace::Committed, key);
        let newest = newest.map_err(|error| self.told(error))?;
        let seen = newest.filter(|item| one.shows(&ItemView::of(item)));
        Ok(seen.map(|item| item.document))
    }

    /// The number a collection had. A key of it is `DocumentKey::new(number, key)`.
    pub fn collection(&self, scope: &str, collection: &str) -> Result<CollectionId, PastError> {
        let found = self.manifest()?.collection(scope, collection);
        found.ok_or_else(|| PastError::UnknownCollection {
            scope: scope.to_owned(),
            collection: collection.to_owned(),
        })
    }

    /// Which scopes and collections there were.
    pub fn manifest(&self) -> Result<Arc<CollectionsManifest>, PastError> {
        self.check()?;
        let mut manifests = Vec::new();
        for one in &self.vbuckets {
            let events = events_of(&*one.snapshot);
            let (uid, events) = events.map_err(|error| self.told(error))?;
            manifests.push((true, manifest_of(uid, events)));
        }
        Ok(newest(&manifests).map_or_else(Arc::default, Arc::clone))
    }

    /// All documents of all collections: vbucket after vbucket, in each in the order they were written.
    #[must_use]
    pub fn documents(&self) -> PastDocuments<'_> {
        PastDocuments {
            past: self,
            next: 0,
            scan: None,
            read: VecDeque::new(),
        }
    }

    /// An error that came because the files are no longer those it was found in is no fault of theirs.
    pub(super) fn told(&self, error: impl Into<PastError>) -> PastError {
        self.check().err().unwrap_or_else(|| error.into())
    }

    /// The files are those it was found in.
    pub(super) fn check(&self) -> Result<(), PastError> {
        let store = &self.held.0.store;
        if store.generation() == self.generation && !store.is_closed() {
            Ok(())
        } else {
            Err(PastError::Outlived)
        }
    }
}

impl PastVbucket {
    /// Whether a reader saw this version, the newest of its key.
    pub(super) fn shows(&self, item: &ItemView<'_>) -> bool {
        let is_of_the_past = |collection| {
            let mut ended = self.dropped.iter();
            ended.any(|one| one.holds(collection, item.seqno))
        };
        item.namespace() == Namespace::Committed
            && !item.operation.is_tombstone()
            && (item.expiry.0 == 0 || item.expiry.0 > self.time_s)
            && item
                .collection()
                .is_some_and(|collection| !is_of_the_past(collection))
    }
}

/// What began and ended in a vbucket, and the manifest it had come to by it.
pub(super) fn events_of(
    snapshot: &dyn Snapshot,
) -> Result<(ManifestUid, Vec<(Seqno, SystemEvent)>), PastError> {
    let mut scan = snapshot.scan_by_key(KeyRange::all(Namespace::SystemEvent));
    let mut events = Vec::new();
    let mut visit = |item: ItemView<'_>| {
        let event = SystemEvent::read(item.operation, item.key, item.value);
        events.extend(event.ok().map(|event| (item.seqno, event)));
        ControlFlow::Continue(())
    };
    while step(&mut *scan, &mut visit)? {}
    events.sort_by_key(|(seqno, _)| *seqno);
    let uids = events.iter().map(|(_, event)| event.uid());
    let uid = uids.max().unwrap_or(ManifestUid(0));
    Ok((uid, events))
}

/// Steps a scan; `false` at its end.
pub(super) fn step(
    scan: &mut dyn Scan,
    visit: &mut dyn FnMut(ItemView<'_>) -> ControlFlow<()>,
) -> Result<bool, PastError> {
    match scan.step(STEP_BYTES, visit) {
        Outcome::Yielded => Ok(true),
        Outcome::Complete(_) => Ok(false),
        // Nobody breaks off.
        Outcome::Aborted(_) => Err(StorageError::Gone.into()),
        Outcome::Failed(error) => Err(error.into()),
    }
}

/// All documents of a past, one after the other.
#[derive(Debug)]
pub struct PastDocuments<'p> {
    past: &'p Past,
    /// The vbucket whose scan is begun next.
    next: usize,
    scan: Option<(&'p PastVbucket, Box<dyn Scan>)>,
    read: VecDeque<Document>,
}

impl PastDocuments<'_> {
    /// Reads on; `false` when there is nothing more.
    fn read_on(&mut self) -> Result<bool, PastError> {
        // Also behind an error, which comes once.
        if self.scan.is_none() && self.next >= self.past.vbuckets.len() {
            return Ok(false);
        }
        self.past.check()?;
        let (one, scan) = if let Some(begun) = &mut self.scan {
            begun
        } else {
            let Some(one) = self.past.vbuckets.get(self.next) else {
                return Ok(false);
            };
            self.next = self.next.saturating_add(1);
            let scan = one.snapshot.scan_by_seqno(storage::SeqnoRange::ALL);
            self.scan.insert((one, scan))
        };
        let read = &mut self.read;
        let mut broken = None;
        let mut visit = |item: ItemView<'_>| {
            if one.shows(&item) {
                match item.to_item(Bytes::copy_from_slice(item.value)) {
                    Ok(Item { document, .. }) => read.push_back(document),
                    Err(error) => broken = Some(error),
                }
            }
            ControlFlow::Continue(())
        };
        let more = step(&mut **scan, &mut visit);
        let more = more.map_err(|error| self.past.told(error))?;
        if let Some(error) = broken {
            return Err(self.past.told(error));
        }
        if !more {
            self.scan = None;
        }
        Ok(true)
    }
}

impl Iterator for PastDocuments<'_> {
    type Item = Result<Document, PastError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(document) = self.read.pop_front() {
                return Some(Ok(document));
            }
            match self.read_on() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.scan = None;
                    self.next = usize::MAX;
                    return Some(Err(error));
                }
            }
        }
    }
}
