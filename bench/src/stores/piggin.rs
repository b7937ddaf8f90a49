//! Our store, doing its background work on threads of the bench, as the peers do theirs on their own.
//!
//! The only file, with `maintenance` below it, that names the store's type and options. Building the items, with a key
//! and a value of their own each, is part of a write: whoever uses the store must do it too.

mod maintenance;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::yield_now;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use storage::disk::{Disk, FileSystemDisk};
use storage::log_store::{CreateOptions, LogStore, Maintained, OpenOptions};
use storage::{
    AbortReason, Batch as VbucketBatch, Cas, CollectionId, CommitDurability, CompactionJob,
    CompactionRequest, Datatype, Document, DocumentKey, Expiry, FailoverTable, Item, Job, KvStore,
    MemoryToken, Namespace, Operation, Outcome, Predecessor, RevSeqno, Seqno, SeqnoRange,
    SnapshotKind, SnapshotRange, Topology, VbucketId, VbucketIdentity, VbucketPosition,
    VbucketState, VbucketStateRecord, VbucketUuid, Watermarks,
};

use self::maintenance::Maintenance;
use super::{Background, Durability, Found, Store};
use crate::workload::{Batch, Mutation, Name};

/// Bytes a scan may read in one step.
const SCAN_STEP_BYTES: usize = 8 << 20;
/// Not yet in the group being built.
const NOWHERE: usize = usize::MAX;

/// How many of the last steps of a [`compaction_job`] publish its result.
pub(crate) const PUBLISH_STEPS: usize = 1;

/// The job that compacts one vbucket.
fn compaction_job(store: &LogStore, vbucket: VbucketId) -> CompactionJob {
    let request = CompactionRequest::default();
    store.compaction_job(vbucket, request).unwrap()
}

pub(crate) struct Piggin {
    store: LogStore,
    positions: Vec<VbucketPosition>,
    /// By vbucket: its place in the group being built.
    places: Mutex<Vec<usize>>,
    maintenance: Option<Maintenance>,
}

impl Piggin {
    pub(crate) fn open(directory: &Path, vbuckets: u16, background: Background) -> Piggin {
        let is_new = std::fs::read_dir(directory).unwrap().next().is_none();
        let disk: Arc<dyn Disk> = Arc::new(FileSystemDisk::create(directory).unwrap());
        let options = options(background);
        let store = if is_new {
            let creation = CreateOptions::of(vbuckets, 1);
            let store = LogStore::create(disk, creation, options).unwrap();
            for vbucket in 0..vbuckets {
                let id = VbucketId::new(vbucket).unwrap();
                store.create_vbucket(id, &active_vbucket()).unwrap();
            }
            store
        } else {
            LogStore::open(disk, options).unwrap()
        };
        let statuses = store.vbuckets().into_iter();
        let positions: Vec<_> = statuses.map(|status| status.position.unwrap()).collect();
        let maintenance = match background {
            Background::Running | Background::SealingOnly => Some(Maintenance::start(&store)),
            Background::Stopped => None,
        };
        Piggin {
            store,
            places: Mutex::new(vec![NOWHERE; positions.len()]),
            positions,
            maintenance,
        }
    }

    /// Compacts a vbucket, a step with every call; `false` after the last.
    pub(crate) fn compaction(&self, vbucket: u16) -> impl FnMut() -> bool + Send + use<> {
        let store = self.store.clone();
        let vbucket = VbucketId::new(vbucket).unwrap();
        let mut job = compaction_job(&store, vbucket);
        move || match job.step() {
            Outcome::Complete(_) => false,
            Outcome::Yielded => true,
            Outcome::Aborted(AbortReason::Superseded) => {
                // Background work is at it just now.
                yield_now();
                job = compaction_job(&store, vbucket);
                true
            }
            Outcome::Aborted(reason) => panic!("compacting: {reason}"),
            Outcome::Failed(error) => panic!("compacting: {error}"),
        }
    }

    fn seal(&self) {
        loop {
            match self.store.seal_all(Seqno::MAX) {
                Outcome::Complete(()) => break,
                Outcome::Yielded | Outcome::Aborted(_) => yield_now(),
                Outcome::Failed(error) => panic!("sealing: {error}"),
            }
        }
    }

    fn group(&self, batch: Batch<'_>) -> Vec<VbucketBatch> {
        let each = batch.mutations.len() / self.positions.len() + 1;
        let mut group: Vec<VbucketBatch> = Vec::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let commit_time_ms = u64::try_from(now.as_millis()).unwrap();
        let mut places = self.places.lock().unwrap();
        for mutation in batch.mutations {
            let place = &mut places[usize::from(mutation.vbucket)];
            if *place == NOWHERE {
                *place = group.len();
                let position = self.positions[usize::from(mutation.vbucket)];
                group.push(VbucketBatch {
                    vbucket: VbucketId::new(mutation.vbucket).unwrap(),
                    incarnation: position.incarnation,
                    epoch: position.epoch,
                    items: Vec::with_capacity(each),
                    watermarks: Watermarks::default(),
                    identity: None,
                });
            }
            let of_vbucket = &mut group[*place];
            let item = item(mutation, batch.value(mutation));
            of_vbucket.watermarks = watermarks(item.seqno, commit_time_ms);
            of_vbucket.items.push(Arc::new(item));
        }
        for of_vbucket in &group {
            places[of_vbucket.vbucket.index()] = NOWHERE;
        }
        group
    }
}

fn options(background: Background) -> OpenOptions {
    let mut options = OpenOptions::new(entropy());
    if background == Background::SealingOnly {
        options.segments_max = usize::MAX;
        options.container_bytes_min = u64::MAX;
    }
    options
}

/// A number no earlier opening had.
fn entropy() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap()
}

impl Store for Piggin {
    fn write(&self, batch: Batch<'_>, durability: Durability) {
        let group = self.group(batch);
        let durability = match durability {
            Durability::Synced => CommitDurability::Synced,
            Durability::Buffered => CommitDurability::Buffered,
        };
        for answer in self.store.commit(&group, durability) {
            answer.unwrap();
        }
    }

    fn sync(&self) {
        self.store.sync().unwrap();
    }

    fn settle(&self) {
        self.seal();
        while maintain(&self.store) == Maintained::Worked {}
    }

    fn compact(&self) {
        self.seal();
        for vbucket in 0..self.positions.len() {
            let mut step = self.compaction(u16::try_from(vbucket).unwrap());
            while step() {}
        }
        // What a compaction replaced goes when its publish is durable.
        self.sync();
    }

    fn hold(&self) {
        if let Some(maintenance) = &self.maintenance {
            maintenance.hold();
        }
    }

    fn release(&self) {
        if let Some(maintenance) = &self.maintenance {
            maintenance.release();
        }
    }

    fn get(&self, names: &[Name], visit: &mut dyn FnMut(&[u8])) {
        for name in names {
            let vbucket = VbucketId::new(name.vbucket).unwrap();
            let key = DocumentKey::new(CollectionId::DEFAULT, &name.key).unwrap();
            let item = self.store.get(vbucket, Namespace::Committed, &key);
            let item = item.unwrap().expect("a document is missing");
            visit(&item.document.value);
        }
    }

    fn scan(&self, vbucket: u16, visit: &mut dyn FnMut(Found<'_>)) {
        let vbucket = VbucketId::new(vbucket).unwrap();
        let snapshot = self.store.snapshot(vbucket).unwrap();
        let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
        loop {
            let step = scan.step(SCAN_STEP_BYTES, &mut |item| {
                visit(Found {
                    seqno: item.seqno.0,
                    // Behind the collection's id, which is one byte.
                    key: &item.key[1..],
                    value: item.value,
                });
                std::ops::ControlFlow::Continue(())
            });
            match step {
                Outcome::Complete(_) => break,
                Outcome::Yielded => {}
                Outcome::Aborted(reason) => panic!("scanning: {reason}"),
                Outcome::Failed(error) => panic!("scanning: {error}"),
            }
        }
    }

    fn close(mut self: Box<Self>) {
        if let Some(maintenance) = self.maintenance.take() {
            maintenance.stop();
        }
        self.store.close().unwrap();
    }
}

fn maintain(store: &LogStore) -> Maintained {
    match store.maintain() {
        Outcome::Complete(maintained) => maintained,
        Outcome::Yielded => Maintained::Worked,
        Outcome::Aborted(_) => Maintained::Nothing,
        Outcome::Failed(error) => panic!("background work: {error}"),
    }
}

fn item(mutation: &Mutation, value: &[u8]) -> Item {
    Item {
        seqno: Seqno(mutation.seqno),
        operation: Operation::Mutation,
        predecessor: match mutation.replaces {
            0 => Predecessor::Absent,
            seqno => Predecessor::At(Seqno(seqno)),
        },
        document: Document {
            key: DocumentKey::new(CollectionId::DEFAULT, &mutation.key).unwrap(),
            value: Bytes::copy_from_slice(value),
            datatype: Datatype::RAW,
            flags: 7,
            expiry: Expiry(0),
            cas: Cas(mutation.seqno),
            rev_seqno: RevSeqno(1),
        },
        token: MemoryToken::default(),
    }
}

fn watermarks(high_seqno: Seqno, commit_time_ms: u64) -> Watermarks {
    Watermarks {
        high_seqno,
        max_visible_seqno: high_seqno,
        snapshot: SnapshotRange {
            start: high_seqno,
            end: high_seqno,
        },
        snapshot_kind: SnapshotKind::Memory,
        commit_time_ms,
        ..Watermarks::default()
    }
}

fn active_vbucket() -> VbucketStateRecord {
    VbucketStateRecord {
        identity: Arc::new(VbucketIdentity {
            state: VbucketState::Active,
            failover_table: FailoverTable::new(VbucketUuid(1)),
            topology: Topology::default(),
            manifest_uid: 0,
        }),
        watermarks: Watermarks::default(),
    }
}
