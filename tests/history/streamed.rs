//! After any schedule of writes, deletes, collections that come and go, cursor drops, compactions, failed reads, panics,
//! rollbacks and ends of the process, changes with history are every version there was: what the bucket was when its history
//! began, and from there on version by version. The model is a list of all that was written, in the order of seqnos.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::ChildName;
use piggin::messages::compactor::{Compact, CompactOptions};
use piggin::messages::failure::ScanPurpose;
use piggin::storage::{
    CollectionId, KvStore, OpenOptions, Outcome, Retention, Seqno, SeqnoRange, VbucketId,
    VbucketUuid,
};
use piggin::{Bucket, BucketConfig, Collection, Until};
use supervisor::testing::{Clock, Fault, Random, SimulatedRandom, World};

use crate::rollback::roll_back;
use crate::telling::{Journal, Reader, Tried, Written};

const SEEDS: u64 = 20;
const SEEDS_VARIABLE: &str = "PIGGIN_SEEDS";
/// Seeds that once failed.
const REGRESSIONS: [u64; 0] = [];
const WINDOW: Duration = Duration::from_secs(30);
const KEYS: usize = 8;
const LIVES: usize = 4;
const STEPS: usize = 150;
const PATIENCE: Duration = Duration::from_secs(60);
/// Of one child; whoever panics more often may be given up.
const PANICS_MAX: u32 = 2;
const SCOPE: &str = "_default";
const FRUIT: &str = "fruit";

fn config(world: &World) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(2),
        actor_threads: Some(2),
        history: Some(Retention {
            window_s: 30,
            bytes: None,
        }),
        store: OpenOptions {
            log_file_bytes_min: 16 << 10,
            log_file_bytes_max: 32 << 10,
            unsealed_bytes: 4 << 10,
            segments_max: 2,
            container_bytes_min: 0,
            block_bytes: 1 << 10,
            index_cache_bytes: 0,
            is_stepped: true,
            ..OpenOptions::new(1)
        },
        ..world.config()
    }
}

struct Run {
    world: World,
    random: Arc<SimulatedRandom>,
    journal: Journal,
    branches: BTreeMap<VbucketId, VbucketUuid>,
    reader: Reader,
    /// It is told of the default collection, and nothing of another.
    other: Reader,
    /// Of each child in this life of the bucket.
    panics: BTreeMap<&'static str, u32>,
}

impl Run {
    fn new(world: &World) -> Run {
        Run {
            world: world.clone(),
            random: world.random("schedule"),
            journal: Journal::default(),
            branches: BTreeMap::new(),
            reader: Reader::new(world, WINDOW),
            other: Reader::new(world, WINDOW).only(CollectionId::DEFAULT),
            panics: BTreeMap::new(),
        }
    }

    fn pick(&self, below: usize) -> usize {
        let below = u64::try_from(below).expect("small");
        usize::try_from(self.random.next_u64() % below).expect("small")
    }

    fn vbucket(&self) -> VbucketId {
        VbucketId::new(u16::try_from(self.pick(2)).expect("small")).expect("an id")
    }

    async fn live(&mut self, bucket: &Bucket) {
        self.panics.clear();
        let mut changes = self.reader.open(bucket, Until::Forever).await;
        for _ in 0..STEPS {
            self.step(bucket).await;
            if self.pick(3) == 0 {
                for _ in 0..self.pick(30) {
                    match timeout(Duration::from_millis(2), changes.next()).await {
                        Ok(Some(change)) => self.reader.take(&self.journal, change),
                        Ok(None) | Err(_) => break,
                    }
                }
                self.reader.token = Some(changes.token());
            }
            if self.pick(25) == 0 {
                self.reader.forget_rolled_back();
                drop(changes);
                if self.pick(3) == 0 {
                    self.take_back(bucket).await;
                }
                changes = self.reader.open(bucket, Until::Forever).await;
            }
        }
        self.reader.forget_rolled_back();
    }

    async fn step(&mut self, bucket: &Bucket) {
        match self.pick(30) {
            0..13 => self.write(bucket).await,
            13..15 => self.delete(bucket).await,
            15 => drop(bucket.flush().await),
            16 => {
                let core = bucket.vbucket_core(self.vbucket()).expect("it");
                core.drop_stream_cursors();
                self.reader.tried.cursors_dropped += 1;
            }
            17 => {
                let core = bucket.vbucket_core(self.vbucket()).expect("it");
                core.shrink_log();
            }
            18 => self.world.inject(Fault::FlushCommit(1)),
            19 => self.panic().await,
            20 | 21 => self.compact(bucket).await,
            22 => {
                let nth = u64::try_from(self.pick(3)).expect("small") + 1;
                self.world
                    .inject(Fault::ScanFor(ScanPurpose::Backfill, nth));
            }
            23 => self.change_collections(bucket).await,
            24 => {
                let time = u64::try_from(self.pick(20)).expect("small");
                self.world.sleep(Duration::from_secs(time)).await;
            }
            _ => {
                let time = u64::try_from(self.pick(500)).expect("small");
                self.world.sleep(Duration::from_millis(time)).await;
            }
        }
    }

    fn somewhere(&self, bucket: &Bucket) -> Collection {
        let fruit = bucket.collection(SCOPE, FRUIT);
        let default = bucket.collection(SCOPE, SCOPE).expect("it");
        fruit.ok().filter(|_| self.pick(3) == 0).unwrap_or(default)
    }

    async fn write(&mut self, bucket: &Bucket) {
        let collection = self.somewhere(bucket);
        let mut value = format!("{} ", self.random.next_u64()).into_bytes();
        value.resize(value.len() + self.pick(600), b'.');
        let key = format!("key {}", self.pick(KEYS));
        let set = collection.set(&key, value.clone()).await.expect("a write");
        self.note(
            &collection,
            &key,
            set.token.vbucket,
            set.token.seqno,
            Some(value),
        );
    }

    async fn delete(&mut self, bucket: &Bucket) {
        let collection = self.somewhere(bucket);
        let key = format!("key {}", self.pick(KEYS));
        if let Ok(deleted) = collection.delete(&key).await {
            self.note(
                &collection,
                &key,
                deleted.token.vbucket,
                deleted.token.seqno,
                None,
            );
        }
    }

    fn note(
        &mut self,
        collection: &Collection,
        key: &str,
        vbucket: VbucketId,
        seqno: Seqno,
        value: Option<Vec<u8>>,
    ) {
        let written = Written {
            key: collection.key(key).expect("a key"),
            value,
            time: self.world.clock().since_epoch(),
        };
        let all = self.journal.written.entry(vbucket).or_default();
        assert_eq!(all.insert(seqno, written), None);
    }

    async fn panic(&mut self) {
        let children = ["producer-0", "producer-1", "reader-0", "writer-0"];
        let child = children[self.pick(children.len())];
        let panics = self.panics.entry(child).or_insert(0);
        *panics += 1;
        if *panics <= PANICS_MAX {
            let child = ChildName::new(child);
            self.world.inject(Fault::PanicIn { child, nth: 2 });
        }
        self.world.sleep(Duration::from_millis(300)).await;
    }

    async fn compact(&self, bucket: &Bucket) {
        let compact = Compact {
            vbucket: self.vbucket(),
            options: CompactOptions {
                drop_deletes: self.pick(2) == 0,
                ..CompactOptions::default()
            },
        };
        drop(timeout(PATIENCE, bucket.compactor().send(compact)).await);
    }

    async fn change_collections(&mut self, bucket: &Bucket) {
        if let Ok(fruit) = bucket.collection(SCOPE, FRUIT) {
            let time = self.world.clock().since_epoch();
            self.journal.dropped.insert(fruit.id(), time);
            drop(timeout(PATIENCE, bucket.drop_collection(SCOPE, FRUIT)).await);
        } else {
            drop(timeout(PATIENCE, bucket.create_collection(SCOPE, FRUIT)).await);
        }
    }

    async fn take_back(&mut self, bucket: &Bucket) {
        // What is read on the way must be read.
        self.world.clear_faults();
        let id = self.vbucket();
        let high = bucket.vbucket_core(id).expect("it").high_seqno();
        let by = u64::try_from(self.pick(12)).expect("small");
        let to = Seqno(high.0.saturating_sub(by));
        roll_back(&self.world, bucket, id, to).await;
        self.lose(bucket).await;
    }

    /// A new branch begins where a batch ended: of what was written above that, what the store has is there, and the rest never
    /// was, for its seqnos may be those of other items by now.
    async fn lose(&mut self, bucket: &Bucket) {
        bucket.flush().await.expect("a flush");
        for id in bucket.vbuckets() {
            let core = bucket.vbucket_core(id).expect("it");
            let (view, _) = core.stream_view().expect("a vbucket that serves");
            let newest = view.failover_table.entries()[0];
            if self.branches.insert(id, newest.uuid) == Some(newest.uuid) {
                continue;
            }
            let Some(written) = self.journal.written.get_mut(&id) else {
                continue;
            };
            let stored = stored(bucket, id, newest.seqno.next());
            let is_there = |seqno: &Seqno, written: &Written| {
                let key = stored.get(seqno);
                key.is_some_and(|key| key == written.key.as_encoded())
            };
            written.retain(|seqno, one| *seqno <= newest.seqno || is_there(seqno, one));
        }
    }

    async fn compare(&mut self, bucket: &Bucket) {
        self.world.clear_faults();
        bucket.flush().await.expect("a flush");
        self.reader.catch_up(bucket, &self.journal).await;
        // And to who begins now.
        let mut other = Reader::new(&self.world, WINDOW);
        other.catch_up(bucket, &self.journal).await;
        self.reader.tried.prologues += other.tried.prologues;
        // And to who wants one collection: from where it was, and from the beginning.
        self.other.catch_up(bucket, &self.journal).await;
        let mut other = Reader::new(&self.world, WINDOW).only(CollectionId::DEFAULT);
        other.catch_up(bucket, &self.journal).await;
    }
}

/// The keys of what a store has from `first` on.
fn stored(bucket: &Bucket, id: VbucketId, first: Seqno) -> BTreeMap<Seqno, Vec<u8>> {
    let lease = bucket.store_handle().lease().expect("the store");
    let snapshot = lease.store().snapshot(id).expect("a vbucket");
    let last = Seqno::MAX;
    let mut scan = snapshot.scan_history(SeqnoRange { first, last });
    let mut stored = BTreeMap::new();
    loop {
        let step = scan.step(1 << 20, &mut |view| {
            stored.insert(view.seqno, view.key.to_vec());
            ControlFlow::Continue(())
        });
        match step {
            Outcome::Yielded => {}
            Outcome::Complete(_) => return stored,
            broken @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{broken:?}"),
        }
    }
}

async fn scenario(world: World) -> Tried {
    let mut run = Run::new(&world);
    let made = world.create(config(&world)).await.expect("a bucket");
    made.shutdown().await.expect("an end");
    for _ in 0..LIVES {
        let bucket = opened(&world).await;
        run.lose(&bucket).await;
        run.live(&bucket).await;
        if run.pick(2) == 0 {
            run.compare(&bucket).await;
        }
        world.clear_faults();
        match run.pick(3) {
            0 => world.kill(),
            1 => world.cut_power(),
            _ => drop(bucket.shutdown().await.expect("an end")),
        }
    }
    let bucket = opened(&world).await;
    run.lose(&bucket).await;
    run.compare(&bucket).await;
    bucket.shutdown().await.expect("an end");
    let mut tried = run.reader.tried;
    tried.add(&run.other.tried);
    tried
}

async fn opened(world: &World) -> Bucket {
    let opened = timeout(PATIENCE, world.open(config(world))).await;
    opened.expect("it opens").expect("the bucket")
}

#[test]
fn every_version_of_the_history_is_told_once() {
    let seeds = std::env::var(SEEDS_VARIABLE).ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let mut all = Tried::default();
    for seed in REGRESSIONS.into_iter().chain(0..seeds) {
        let tried = World::run(seed, scenario).expect("a run that ends");
        all.add(&tried);
    }
    println!("{seeds} seeds: {all:?}");
    // What was never tried proves nothing.
    assert!(all.prologues > 0 && all.from_memory > 0 && all.cursors_dropped > 0);
    assert!(all.rollbacks > 0 && all.breaks > 0 && all.tombstones > 0);
}
