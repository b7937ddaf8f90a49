//! Buckets of which documents leave memory while a test runs: which seeds have it so, what a test is to do that must have its
//! documents in memory, and what a vbucket holds wherever it is.
//!
//! Invariant: a suite of seeds that has documents leave says at its end that some did, and were read again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use piggin::storage::{
    Document, KvStore, MemoryMarks, Namespace, Outcome, Seqno, SeqnoRange, VbucketId,
};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::WorldSettings;

/// Every so many seeds one has everything leave memory that can.
const ONE_OF: u64 = 3;

/// The same bucket, and its documents stay in memory, whatever the run says: of a test that looks for them there, or wants
/// memory to be full.
pub(crate) fn resident(config: BucketConfig) -> BucketConfig {
    BucketConfig {
        memory_marks: MemoryMarks::default(),
        ..config
    }
}

/// What left memory in all the worlds of a suite, and what was read again.
#[derive(Debug, Default)]
pub(crate) struct Evictions {
    is_due: AtomicBool,
    evicted: AtomicU64,
    fetched: AtomicU64,
    fetched_at_once: AtomicU64,
}

impl Evictions {
    pub(crate) const fn none() -> Evictions {
        Evictions {
            is_due: AtomicBool::new(false),
            evicted: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            fetched_at_once: AtomicU64::new(0),
        }
    }

    /// Of a world of this seed: in every third whatever can leave memory does.
    pub(crate) fn settings_of(&self, seed: u64) -> WorldSettings {
        let evicts = seed % ONE_OF == 1;
        self.is_due.fetch_or(evicts, Ordering::Relaxed);
        WorldSettings {
            evicts,
            ..WorldSettings::default()
        }
    }

    /// To be asked of each bucket before it ends.
    pub(crate) fn note(&self, bucket: &Bucket) {
        let memory = bucket.memory();
        self.evicted.fetch_add(memory.evicted, Ordering::Relaxed);
        self.fetched.fetch_add(memory.fetched, Ordering::Relaxed);
        let at_once = memory.fetched_at_once;
        self.fetched_at_once.fetch_add(at_once, Ordering::Relaxed);
    }

    /// Something was tried, if there was a seed for it.
    pub(crate) fn assert_some(&self) {
        let evicted = self.evicted.load(Ordering::Relaxed);
        let fetched = self.fetched.load(Ordering::Relaxed);
        let at_once = self.fetched_at_once.load(Ordering::Relaxed);
        println!(
            "{evicted} documents left memory, {fetched} were read again, {at_once} of them at once"
        );
        let is_due = self.is_due.load(Ordering::Relaxed);
        assert!(!is_due || evicted > 0 && fetched > 0, "{self:?}");
    }
}

/// The newest version of every live document, by its encoded key.
pub(crate) type Contents = BTreeMap<Vec<u8>, (Seqno, Document)>;

/// What a vbucket holds, whatever its state is: in memory, and on disk where it lacks something there.
pub(crate) fn contents_of(bucket: &Bucket, vbucket: VbucketId) -> Contents {
    let core = bucket.vbucket_core(vbucket).expect("a vbucket");
    let mut contents = Contents::new();
    if core.lacks_documents() || core.figures().stubs > 0 {
        contents = stored(bucket, vbucket);
    }
    let slices = (0..).map_while(|number| core.slice(number));
    for item in slices.flatten() {
        let key = item.document.key.as_encoded().to_vec();
        if item.operation.is_tombstone() {
            contents.remove(&key);
        } else {
            contents.insert(key, (item.seqno, item.document.clone()));
        }
    }
    contents
}

/// What is on disk, of collections that are there still.
fn stored(bucket: &Bucket, vbucket: VbucketId) -> Contents {
    let handle = bucket.store_handle();
    let lease = handle.lease().expect("the store");
    let snapshot = lease.store().snapshot(vbucket).expect("a snapshot");
    let dropped = snapshot.dropped_collections();
    let core = bucket.vbucket_core(vbucket).expect("a vbucket");
    let manifest = core.collections_manifest();
    let mut contents = Contents::new();
    let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
    loop {
        let outcome = scan.step(1 << 20, &mut |view| {
            let is_live =
                view.namespace() == Namespace::Committed && !view.operation.is_tombstone();
            if is_live {
                let item = view
                    .to_item(Bytes::copy_from_slice(view.value))
                    .expect("a key");
                let collection = item.document.key.collection();
                let is_over = dropped
                    .iter()
                    .any(|life| life.holds(collection, item.seqno));
                if !is_over && manifest.collections.contains_key(&collection) {
                    let key = item.document.key.as_encoded().to_vec();
                    contents.insert(key, (item.seqno, item.document));
                }
            }
            ControlFlow::Continue(())
        });
        match outcome {
            Outcome::Yielded => {}
            Outcome::Complete(_) => return contents,
            other @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{other:?}"),
        }
    }
}
