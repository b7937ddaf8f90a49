//! What is dead goes from the disk: what a compaction replaced, also where nobody commits any more, and what was
//! overwritten, before it is as much again as what lives.
#![cfg(test)]

mod support;
#[expect(dead_code, reason = "only its random numbers are used")]
mod model;

use std::sync::Arc;

use model::random::Random;
use piggin_storage::disk::SimulatedDisk;
use piggin_storage::log_store::Maintained;
use piggin_storage::{
    CompactionRequest, CreateOptions, Item, KvStore, LogStore, OpenOptions, Outcome, Seqno,
};
use support::{Writer, deletion, mutation, vbucket};

const VBUCKETS: u16 = 16;
/// Of each vbucket.
const DOCUMENTS: u64 = 128;
const VALUE_BYTES: usize = 1000;

fn options() -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 128 << 10,
        log_file_bytes_max: 256 << 10,
        // A quarter of what lives.
        unsealed_bytes: u64::from(VBUCKETS) * DOCUMENTS * VALUE_BYTES as u64 / 4,
        container_bytes_min: 64 << 10,
        history_floor: Seqno::MAX,
        ..OpenOptions::new(1)
    }
}

struct Filled {
    disk: SimulatedDisk,
    store: LogStore,
    writers: Vec<Writer>,
}

impl Filled {
    fn new(options: OpenOptions) -> Filled {
        let disk = SimulatedDisk::new();
        let shape = CreateOptions::of(VBUCKETS, 1);
        let store = LogStore::create(Arc::new(disk.clone()), shape, options).unwrap();
        let shared: Arc<dyn KvStore> = Arc::new(store.clone());
        let writers = (0..VBUCKETS).map(|number| Writer::create(&shared, number));
        let writers = writers.collect();
        let mut filled = Filled {
            disk,
            store,
            writers,
        };
        for number in 0..u64::from(VBUCKETS) * DOCUMENTS {
            filled.overwrite(number);
        }
        filled.settle();
        filled
    }

    fn overwrite(&mut self, document: u64) {
        let value = "v".repeat(VALUE_BYTES);
        self.write(document, |seqno, name| mutation(seqno, name, &value));
    }

    fn write(&mut self, document: u64, item: impl FnOnce(u64, &str) -> Arc<Item>) {
        let writer = &mut self.writers[usize::try_from(document).unwrap() % usize::from(VBUCKETS)];
        let seqno = writer.watermarks.high_seqno.0 + 1;
        writer.write(vec![item(seqno, &format!("document {document}"))]);
    }

    /// Does all background work there is.
    fn maintain(&self) {
        for _ in 0..10_000 {
            match self.store.maintain() {
                Outcome::Complete(Maintained::Worked) => {}
                Outcome::Complete(Maintained::Nothing) => return,
                ended @ (Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                    panic!("{ended:?}")
                }
            }
        }
        panic!("maintenance does not come to an end");
    }

    fn settle(&self) {
        assert_eq!(self.store.seal_all(Seqno::MAX), Outcome::Complete(()));
        self.maintain();
    }

    /// Of segments, in a thousand of what those take that live.
    fn segments_permille(&self, live: u64) -> u64 {
        let statistics = self.store.statistics();
        let segments = self.disk.space_used().saturating_sub(statistics.log_bytes);
        segments * 1000 / live
    }

    /// Bytes of segments without anything dead.
    fn live(&self) -> u64 {
        for number in 0..VBUCKETS {
            let compacted = self
                .store
                .compact(vbucket(number), &CompactionRequest::default());
            assert!(matches!(compacted, Outcome::Complete(_)), "{compacted:?}");
        }
        self.store.statistics().live_extent_bytes
    }
}

/// The frame that says so is durable only with the next sync, which used to be somebody else's.
#[test]
fn what_a_compaction_replaced_without_another_commit() {
    let filled = Filled::new(options());
    let live = filled.live();
    filled.maintain();
    // A file removed is gone with the next sync of the directory, on this disk.
    filled.store.checkpoint().unwrap();
    let left = filled.segments_permille(live);
    assert!(left < 1200, "{left} of a thousand");
}

/// Random overwrites, with all background work done at once.
#[test]
fn what_is_overwritten_before_it_is_as_much_again() {
    let mut filled = Filled::new(options());
    let live = filled.live();
    filled.maintain();
    let mut random = Random::new(5);
    let documents = u64::from(VBUCKETS) * DOCUMENTS;
    let mut most = 0;
    for _ in 0..4 * documents {
        filled.overwrite(random.below(documents));
        filled.maintain();
        most = most.max(filled.segments_permille(live));
    }
    // Most of a vbucket's part that may be dead, a seal, and a vbucket being rewritten.
    assert!(most < 2300, "{most} of a thousand");
    assert!(most > 1200, "{most} of a thousand: too good to be true");
}

/// Little of the shard is dead, and what was sealed since is much less than the oldest segment, which is all dead.
#[test]
fn a_vbucket_of_many_whose_documents_were_all_deleted() {
    let mut filled = Filled::new(options());
    for document in (0..u64::from(VBUCKETS) * DOCUMENTS).step_by(usize::from(VBUCKETS)) {
        filled.write(document, deletion);
    }
    filled.settle();
    let left = filled.store.file_statistics(vbucket(0)).unwrap();
    assert_eq!(left.segments, 1);
    assert!(
        left.total_bytes < DOCUMENTS * VALUE_BYTES as u64 / 4,
        "{left:?}"
    );
    let others = filled.store.file_statistics(vbucket(1)).unwrap();
    assert!(others.total_bytes > DOCUMENTS * VALUE_BYTES as u64);
}
