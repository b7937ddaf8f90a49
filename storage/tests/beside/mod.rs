//! A vbucket with dropped collections that is compacted step by step while it is written to.
//!
//! Two collections, 8 and 9, were dropped, one, 10, lives; each has documents, a tombstone, and prepares that are
//! committed, aborted and neither. Invariant: what a compaction takes away is decided when it seals; what is written
//! later comes on top. So the store must be one model until the publish, and another from then on.
#![allow(dead_code, reason = "each test file uses only a part of these")]

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{
    CollectionId, CommitDurability, Compacted, CompactionFailure, CompactionJob, CompactionRequest,
    CompactionStage, DocumentKey, DroppedCollection, Item, Job, KvStore, LogStore, ManifestUid,
    OpenOptions, Outcome, ScopeId, Seqno, SystemEvent,
};

use crate::model::check;
use crate::model::compaction::comparable;
use crate::model::random::Random;
use crate::model::vbucket::ModelVbucket;
use crate::support::log_store::{create_on, open_on, small_options};
use crate::support::{Writer, abort_of, commit_of, deletion, item, mutation, new_state, prepare};

/// Steps a compaction takes before it has sealed what it will look at.
const STEPS_BEFORE_SEAL: u64 = 1;

pub(crate) const DROPPED: [u32; 2] = [8, 9];
pub(crate) const LIVES: u32 = 10;

/// The same item in another collection.
pub(crate) fn of(collection: u32, item: Arc<Item>) -> Arc<Item> {
    let mut item = Arc::unwrap_or_clone(item);
    let name = item.document.key.key().to_vec();
    item.document.key = DocumentKey::new(CollectionId(collection), &name).unwrap();
    Arc::new(item)
}

pub(crate) fn event(seqno: u64, event: &SystemEvent) -> Arc<Item> {
    let mut made = Item::clone(&item(seqno, event.operation(), "key", ""));
    made.document.key = event.key().unwrap();
    made.document.value = event.value();
    Arc::new(made)
}

pub(crate) fn begin_of(seqno: u64, collection: u32) -> Arc<Item> {
    let begin = SystemEvent::CollectionBegin {
        uid: ManifestUid(seqno),
        scope: ScopeId::DEFAULT,
        collection: CollectionId(collection),
        name: "name".into(),
        max_ttl_s: 0,
    };
    event(seqno, &begin)
}

pub(crate) fn end_of(seqno: u64, collection: u32, start: u64) -> Arc<Item> {
    let end = SystemEvent::CollectionEnd {
        uid: ManifestUid(seqno),
        scope: ScopeId::DEFAULT,
        collection: CollectionId(collection),
        start: Seqno(start),
    };
    event(seqno, &end)
}

/// A store, a model of its vbucket as it is now, and another as it will be once the compaction is published.
pub(crate) struct Beside {
    pub(crate) disk: SimulatedDisk,
    pub(crate) store: LogStore,
    pub(crate) writer: Writer,
    pub(crate) model: ModelVbucket,
    after: Option<(ModelVbucket, Compacted)>,
    random: Random,
    steps: u64,
}

impl Beside {
    /// Two collections dropped, everything sealed but the drops.
    pub(crate) fn filled() -> Beside {
        let mut beside = Beside::empty();
        for collection in [8, 9, LIVES] {
            beside.fill(collection);
        }
        for (number, collection) in [8, 9, LIVES].into_iter().enumerate() {
            let seqno = beside.next();
            beside.write(vec![of(collection, prepare(seqno, "waits", "prepared"))]);
            if number == 1 {
                beside.writer.seal(Seqno::ZERO);
            }
        }
        for (collection, start) in [(8, 1), (9, 11)] {
            beside.drop_collection(collection, start);
        }
        beside
    }

    pub(crate) fn empty() -> Beside {
        let disk = SimulatedDisk::new();
        let options = OpenOptions {
            is_stepped: true,
            ..small_options(1)
        };
        let (store, shared) = create_on(&disk, options);
        let writer = Writer::create(&shared, 0);
        let model = ModelVbucket::new(writer.vbucket, writer.incarnation, new_state());
        Beside {
            disk,
            store,
            writer,
            model,
            after: None,
            random: Random::new(7),
            steps: 0,
        }
    }

    pub(crate) fn next(&self) -> u64 {
        self.writer.watermarks.high_seqno.0 + 1
    }

    /// Ten items of a collection: an event, three documents, a tombstone, two prepares that were completed.
    fn fill(&mut self, collection: u32) {
        let first = self.next();
        let at = |offset: u64| first + offset;
        let items = vec![
            begin_of(at(0), collection),
            of(collection, mutation(at(1), "a", "document")),
            of(collection, mutation(at(2), "b", "document")),
            of(collection, mutation(at(3), "deleted", "document")),
            of(collection, deletion(at(4), "deleted")),
            of(collection, prepare(at(5), "committed", "prepared")),
            of(collection, commit_of(at(5), at(6), "committed", "prepared")),
            of(collection, prepare(at(7), "aborted", "prepared")),
            of(collection, abort_of(at(7), at(8), "aborted")),
            of(collection, mutation(at(9), "a", "again")),
        ];
        let (some, others) = items.split_at(5);
        self.write(some.to_vec());
        self.writer.seal(Seqno::ZERO);
        self.write(others.to_vec());
        self.writer.seal(Seqno::ZERO);
    }

    /// Ends a collection that began at `start`.
    pub(crate) fn drop_collection(&mut self, collection: u32, start: u64) {
        let seqno = self.next();
        self.write(vec![end_of(seqno, collection, start)]);
    }

    /// Commits without waiting for anything: whoever holds the log would make it yield for ever.
    pub(crate) fn write(&mut self, items: Vec<Arc<Item>>) {
        assert!(self.try_write(items), "a commit waits");
    }

    /// Whether a commit goes through at once.
    pub(crate) fn try_write(&mut self, items: Vec<Arc<Item>>) -> bool {
        let batch = self.writer.batch(items);
        let group = std::slice::from_ref(&batch);
        let mut job = self
            .store
            .commit_job(0, group, CommitDurability::Synced)
            .unwrap();
        for _ in 0..3 {
            match job.step() {
                Outcome::Yielded => {}
                Outcome::Complete(results) => {
                    assert_eq!(results, [Ok(())]);
                    self.writer.watermarks = batch.watermarks;
                    self.model.commit(&batch);
                    if let Some((after, _)) = &mut self.after {
                        after.commit(&batch);
                    }
                    return true;
                }
                ended @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{ended:?}"),
            }
        }
        false
    }

    /// Seals beside a compaction whose last step was at `stage`, once that one has sealed for itself: what it looks at
    /// would be more than what was there then.
    pub(crate) fn seal_at(&mut self, stage: CompactionStage) {
        if stage == CompactionStage::Start {
            return;
        }
        let vbucket = self.writer.vbucket;
        let mut job = self.store.seal_job(vbucket, Seqno::ZERO).unwrap();
        assert_eq!(job.run(), Outcome::Complete(()));
    }

    /// One step; from the one on that seals, what goes is decided.
    pub(crate) fn step(
        &mut self,
        job: &mut CompactionJob,
        request: &CompactionRequest,
    ) -> Outcome<Compacted, CompactionFailure> {
        if self.steps == STEPS_BEFORE_SEAL {
            let mut after = self.model.clone();
            let erased = after.erasable(request);
            let told = after.compact(request, &erased);
            self.after = Some((after, told));
        }
        self.steps += 1;
        job.step()
    }

    /// The compaction is published.
    pub(crate) fn published(&mut self, told: Compacted) {
        let (after, expected) = self.after.take().unwrap();
        self.model = after;
        self.steps = 0;
        assert_eq!(comparable(told), comparable(expected));
    }

    /// The compaction is over, and nothing of it is to be seen.
    pub(crate) fn given_up(&mut self) {
        self.after = None;
        self.steps = 0;
    }

    /// Runs a compaction whose steps `between` follows, to its end; the stages its steps were at.
    pub(crate) fn compact_with(
        &mut self,
        request: &CompactionRequest,
        mut between: impl FnMut(&mut Beside, CompactionStage),
    ) -> Vec<CompactionStage> {
        let vbucket = self.writer.vbucket;
        let mut job = self.store.compaction_job(vbucket, request.clone()).unwrap();
        let mut stages = Vec::new();
        loop {
            let stage = job.progress().stage;
            stages.push(stage);
            match self.step(&mut job, request) {
                Outcome::Yielded => {
                    self.check();
                    between(self, stage);
                    self.check();
                }
                Outcome::Complete(told) => {
                    self.published(told);
                    self.check();
                    return stages;
                }
                ended @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{ended:?}"),
            }
        }
    }

    /// The store is what the model says, by every way of reading, and counts what a scan finds.
    pub(crate) fn check(&mut self) {
        let snapshot = self.store.snapshot(self.writer.vbucket).unwrap();
        check::whole(&mut self.random, snapshot.as_ref(), &self.model.expected());
    }

    /// Also what is on the disk: after a power cut, and when it is verified.
    pub(crate) fn check_disk(&mut self) {
        assert_eq!(self.store.verify().faults, []);
        let left = self.disk.crash_losing_everything_unsynced();
        let store = open_on(&left, 1000 + self.steps);
        assert_eq!(store.verify().faults, []);
        let snapshot = store.snapshot(self.writer.vbucket).unwrap();
        check::whole(&mut self.random, snapshot.as_ref(), &self.model.expected());
    }

    pub(crate) fn dropped(&self) -> Vec<DroppedCollection> {
        self.writer.snapshot().dropped_collections()
    }
}
