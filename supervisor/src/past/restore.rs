//! A past, written down as a bucket of its own.
//!
//! Invariant: the place is empty before, and holds a bucket only when all of it is there and durable: cut off, it is
//! refused as a place that holds other files. The new bucket has the documents, their seqnos, CAS and revisions, and the
//! collections; of the shape and with the history of the old one. Its vbuckets are active and begin a branch of their own,
//! so that nobody takes what they write for what the old ones wrote. Prepares stay behind: nobody could read them.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use actors::environment::Random;
use storage::{
    AbortReason, Batch, CommitDurability, FailoverTable, Item, ItemView, KvStore, LogStore,
    Namespace, Outcome, RollbackEpoch, SeqnoRange, Snapshot, StorageError, Topology,
    VbucketIdentity, VbucketState, VbucketStateRecord, VbucketUuid, Watermarks,
};

use super::read::{events_of, step};
use super::{Past, PastError, PastVbucket};
use crate::bucket_config::Location;
use crate::opening::{self, Opening};

/// Bytes of keys and values of a batch.
const BATCH_BYTES: u64 = 1 << 20;

/// What was written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Documents.
    pub documents: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl Restored {
    fn note(&mut self, item: &ItemView<'_>) {
        let bytes = item.key.len().saturating_add(item.value.len());
        self.documents = self.documents.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }
}

impl Past {
    /// Makes a bucket of it in a place that holds nothing: a directory that is empty or missing, as a rule. Blocks until
    /// it is durable. Whatever fails leaves no bucket there.
    pub fn restore_into(&self, place: &Location) -> Result<Restored, PastError> {
        self.check()?;
        let disk = opening::disk(place, Opening::Create)?;
        let table = &self.held.0.table;
        let random = table.random();
        let options = opening::drawn(&storage::OpenOptions::new(0), random);
        let store = LogStore::create_hidden(disk, self.shape, Some(self.retention), options)?;
        let mut restored = Restored::default();
        for one in &self.vbuckets {
            self.check()?;
            let written = one.write_to(&store, random, &mut restored);
            written.map_err(|error| self.told(error))?;
        }
        // No moment before this one was ever one of the new bucket.
        store.seal_as_beginning()?;
        store.reveal()?;
        Ok(restored)
    }
}

/// Items of one vbucket on their way to the new store.
struct Writing<'s> {
    store: &'s LogStore,
    batch: Batch,
    bytes: u64,
    failed: Option<PastError>,
}

impl PastVbucket {
    fn write_to(
        &self,
        store: &LogStore,
        random: &dyn Random,
        restored: &mut Restored,
    ) -> Result<(), PastError> {
        let then = self.snapshot.state();
        // Before that moment nothing is known of the new one.
        let known_from = Watermarks {
            commit_time_ms: then.watermarks.commit_time_ms,
            ..Watermarks::default()
        };
        let mut whole = identity(&*self.snapshot)?;
        let branch = VbucketUuid(random.next_u64().max(1));
        let begun = VbucketIdentity {
            failover_table: FailoverTable::new(branch),
            ..whole.clone()
        };
        let state = VbucketStateRecord {
            identity: Arc::new(begun),
            watermarks: known_from,
        };
        let incarnation = store.create_vbucket(self.id, &state)?;
        let mut writing = Writing {
            store,
            batch: Batch {
                vbucket: self.id,
                incarnation,
                epoch: RollbackEpoch::default(),
                items: Vec::new(),
                watermarks: known_from,
                identity: None,
            },
            bytes: 0,
            failed: None,
        };
        let mut scan = self.snapshot.scan_by_seqno(SeqnoRange::ALL);
        loop {
            let more = step(&mut *scan, &mut |item| {
                if self.goes_with(&item) {
                    if self.shows(&item) {
                        restored.note(&item);
                    }
                    writing.take(&item, &then.watermarks);
                }
                writing.goes_on()
            });
            if let Some(error) = writing.failed {
                return Err(error);
            }
            maintain(store)?;
            if !more? {
                break;
            }
        }
        writing.commit(&then.watermarks);
        let high = writing.batch.watermarks.high_seqno;
        // Where tombstones were purged above the last item, nobody who knows a branch before may go on.
        if then.watermarks.purge_seqno <= high {
            whole.failover_table.create_entry(branch, high);
            writing.batch.identity = Some(Arc::new(whole));
            writing.commit_batch();
        }
        writing.failed.map_or(Ok(()), Err)
    }

    /// Documents, tombstones and what says which collections there are; nothing of a life that had ended.
    fn goes_with(&self, item: &ItemView<'_>) -> bool {
        let has_ended = |collection| {
            let mut ended = self.dropped.iter();
            ended.any(|one| one.holds(collection, item.seqno))
        };
        match item.namespace() {
            Namespace::Prepared => false,
            Namespace::SystemEvent => true,
            Namespace::Committed => item.collection().is_some_and(|id| !has_ended(id)),
        }
    }
}

/// What the restored vbucket is, but for the branch of its own.
fn identity(snapshot: &dyn Snapshot) -> Result<VbucketIdentity, PastError> {
    let then = snapshot.state();
    let (manifest_uid, _) = events_of(snapshot)?;
    Ok(VbucketIdentity {
        state: VbucketState::Active,
        failover_table: then.identity.failover_table.clone(),
        topology: Topology::default(),
        manifest_uid: manifest_uid.0,
    })
}

/// Whatever is due in the new store, so that neither memory nor its log holds all of it.
fn maintain(store: &LogStore) -> Result<(), PastError> {
    match store.maintain() {
        Outcome::Complete(_) | Outcome::Yielded | Outcome::Aborted(AbortReason::Superseded) => {
            Ok(())
        }
        Outcome::Aborted(_) => Err(StorageError::Gone.into()),
        Outcome::Failed(error) => Err(error.into()),
    }
}

impl Writing<'_> {
    /// Not a step further after the first failure.
    fn goes_on(&self) -> ControlFlow<()> {
        match self.failed {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        }
    }

    fn take(&mut self, item: &ItemView<'_>, then: &Watermarks) {
        match item.to_item(Bytes::copy_from_slice(item.value)) {
            Ok(item) => self.push(item, then),
            Err(error) => self.failed = Some(error.into()),
        }
    }

    fn push(&mut self, item: Item, then: &Watermarks) {
        self.bytes = self.bytes.saturating_add(item.user_bytes());
        self.batch.items.push(Arc::new(item));
        if self.bytes >= BATCH_BYTES {
            self.commit(then);
        }
    }

    fn commit(&mut self, then: &Watermarks) {
        let Some(last) = self.batch.items.last() else {
            return;
        };
        let high = last.seqno;
        self.batch.watermarks = Watermarks {
            purge_seqno: then.purge_seqno.min(high),
            ..Watermarks::at(high, then.commit_time_ms)
        };
        self.commit_batch();
        self.batch.items.clear();
        self.bytes = 0;
    }

    fn commit_batch(&mut self) {
        let group = std::slice::from_ref(&self.batch);
        let answers = self.store.commit(group, CommitDurability::Buffered);
        for answer in answers {
            if let Err(error) = answer {
                self.fail(error);
            }
        }
    }

    fn fail(&mut self, error: StorageError) {
        self.failed.get_or_insert(error.into());
    }
}
