//! After any schedule of writes, deletions, collections that are made, dropped and made again, cursor drops, compactions,
//! flush failures, panics, stops, losses of power and exchanges of roles on both sides, a replica holds what its source
//! holds, in memory and on disk: documents and collections.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use piggin::messages::collections::Named;
use piggin::messages::compactor::{Compact, CompactOptions};
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{ChildName, OperationError};
use piggin::storage::{Advice, VbucketId, VbucketState};
use piggin::{Bucket, Replication};
use supervisor::testing::{Fault, Random, SimulatedRandom, World};

use crate::common::{
    PATIENCE, assert_same, caught_up, created, key, opened, replicate, run_with, set,
};
use crate::support::evicting::Evictions;

const SEEDS: u64 = 120;
const KEYS: usize = 24;
const LIVES: usize = 4;
const STEPS: usize = 80;

/// What left memory.
static LEFT: Evictions = Evictions::none();

/// One machine, and the bucket on it.
struct Side {
    world: World,
    bucket: Bucket,
}

impl Side {
    async fn new(world: World) -> Side {
        let bucket = created(&world).await;
        Side { world, bucket }
    }

    /// The bucket ends in one of the ways there are, and is opened again.
    async fn end(&mut self, how: usize) {
        self.world.clear_faults();
        match how {
            0 => self.world.kill(),
            1 => self.world.cut_power(),
            _ => drop(self.bucket.clone().shutdown().await.expect("an end")),
        }
        self.bucket = opened(&self.world).await;
    }

    fn panic_in(&self, children: &[&str], pick: usize) {
        let child = ChildName::new(children[pick % children.len()]);
        // Served well between two panics: it is no poisoned request.
        if self.world.faults_waiting() == 0 {
            self.world.inject(Fault::PanicIn { child, nth: 2 });
        }
    }
}

struct Run {
    source: Side,
    target: Side,
    random: Arc<SimulatedRandom>,
    rollbacks: u64,
}

impl Run {
    fn pick(&self, below: usize) -> usize {
        let below = u64::try_from(below).expect("small");
        usize::try_from(self.random.next_u64() % below).expect("small")
    }

    fn vbucket(&self) -> VbucketId {
        let number = u16::try_from(self.pick(4)).expect("small");
        VbucketId::new(number).expect("an id")
    }

    async fn compact(&self, side: &Side) {
        let compact = Compact {
            vbucket: self.vbucket(),
            options: CompactOptions {
                // Whoever was away for too long misses deletions, and must begin anew.
                drop_deletes: self.pick(2) == 0,
                ..CompactOptions::default()
            },
        };
        drop(timeout(PATIENCE, side.bucket.compactor().send(compact)).await);
    }

    /// A collection is made, dropped, or written to. What does not get to the disk in time is in force all the same.
    async fn step_in_collections(&self) {
        let bucket = &self.source.bucket;
        let scope = ["_default", "s"][self.pick(2)];
        let name = ["a", "b", "c"][self.pick(3)];
        let what = self.pick(12);
        let in_time = Duration::from_secs(1);
        match what {
            0 => drop(timeout(in_time, bucket.create_scope("s")).await),
            1 => drop(timeout(in_time, bucket.drop_scope("s")).await),
            2..4 => drop(timeout(in_time, bucket.create_collection(scope, name)).await),
            4 => drop(timeout(in_time, bucket.drop_collection(scope, name)).await),
            _ => {
                let Ok(collection) = bucket.collection(scope, name) else {
                    return;
                };
                let key = key(self.pick(KEYS));
                if what == 5 {
                    drop(collection.delete(key).await);
                } else {
                    let value = format!("{}", self.random.next_u64());
                    drop(collection.set(key, value).await);
                }
            }
        }
    }

    async fn step(&self) {
        let (source, target) = (&self.source, &self.target);
        let key = key(self.pick(KEYS));
        match self.pick(32) {
            24.. => self.step_in_collections().await,
            0..10 => {
                let value = format!("{}", self.random.next_u64());
                drop(source.bucket.set(key, value).await);
            }
            10..13 => drop(source.bucket.delete(key).await),
            13 => drop(source.bucket.flush().await),
            14 => drop(target.bucket.flush().await),
            15 => {
                let core = source.bucket.vbucket_core(self.vbucket()).expect("it");
                core.drop_stream_cursors();
            }
            16 => source.world.inject(Fault::FlushCommit(1)),
            17 => target.world.inject(Fault::FlushCommit(1)),
            18 => {
                let children = [
                    "producer-0",
                    "producer-1",
                    "reader-0",
                    "vbucket-1",
                    "writer-0",
                ];
                source.panic_in(&children, self.pick(5));
                source.world.sleep(Duration::from_millis(300)).await;
            }
            19 => {
                let children = [
                    "consumer-0",
                    "consumer-1",
                    "flusher-0",
                    "rollback",
                    "writer-0",
                ];
                target.panic_in(&children, self.pick(5));
                target.world.sleep(Duration::from_millis(300)).await;
            }
            20 => self.compact(source).await,
            21 => self.compact(target).await,
            _ => {
                let time = u64::try_from(self.pick(30)).expect("small");
                source.world.sleep(Duration::from_millis(time)).await;
            }
        }
    }

    /// Writes and breaks things while the replica follows.
    async fn live(&mut self) {
        let mut replication = replicate(&self.source.bucket, &self.target.bucket);
        for _ in 0..STEPS {
            self.step().await;
            if self.pick(25) == 0 {
                drop(replication);
                if self.pick(2) == 0 {
                    let how = self.pick(3);
                    self.target.end(how).await;
                }
                replication = replicate(&self.source.bucket, &self.target.bucket);
            }
        }
        if self.pick(2) == 0 {
            self.compare(&replication).await;
        }
        self.note(&replication);
    }

    fn note(&mut self, replication: &Replication) {
        let rollbacks = replication
            .status()
            .iter()
            .map(|one| one.rollbacks)
            .sum::<u64>();
        self.rollbacks += rollbacks;
    }

    async fn compare(&self, replication: &Replication) {
        self.source.world.clear_faults();
        self.target.world.clear_faults();
        // Something at the end of each history: what lies there may be nothing that is told.
        for number in 0..KEYS {
            let key = format!("last {number}");
            set(&self.source.bucket, key, "there").await;
        }
        caught_up(replication).await;
        self.assert_same().await;
    }

    async fn assert_same(&self) {
        let (source, target) = (&self.source.bucket, &self.target.bucket);
        erased(source).await;
        erased(target).await;
        assert_same(source, target);
        for bucket in [source, target] {
            LEFT.note(bucket);
        }
        for vbucket in source.vbuckets() {
            let manifest = |bucket: &Bucket| {
                let core = bucket.vbucket_core(vbucket).expect("it");
                let manifest = core.collections_manifest();
                (manifest.scopes.clone(), manifest.collections.clone())
            };
            assert_eq!(manifest(source), manifest(target), "vbucket {vbucket}");
        }
    }

    /// What comes between two lives.
    async fn turn(&mut self) {
        let how = self.pick(3);
        if self.pick(4) == 0 {
            // The source fails, the replica takes over.
            take_over(&self.target.bucket).await;
            self.source.end(how).await;
            std::mem::swap(&mut self.source, &mut self.target);
        } else {
            self.source.end(how).await;
        }
    }
}

/// Until memory is rid of what collections that ended had in it.
async fn erased(bucket: &Bucket) {
    let erased = async {
        for vbucket in bucket.vbuckets() {
            let core = bucket.vbucket_core(vbucket).expect("it");
            while core.has_ended() {
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    timeout(PATIENCE, erased).await.expect("an end of it");
}

/// The replica's vbuckets become active. Where one brings a number that is another thing in one that is active already,
/// that is dropped.
async fn take_over(bucket: &Bucket) {
    let active = SetVbucketState {
        state: VbucketState::Active,
        topology: None,
        is_takeover: false,
    };
    let taken = async {
        for vbucket in bucket.vbuckets() {
            let core = bucket.vbucket_core(vbucket).expect("it");
            while let Err(error) = core.set_state(active.clone()) {
                if let OperationError::ManifestClash { clash, .. } = error {
                    drop_it(bucket, clash.in_bucket).await;
                } else {
                    assert_eq!(error.advice(), Advice::RetryLater, "{error}");
                    sleep(Duration::from_millis(10)).await;
                }
            }
        }
    };
    timeout(PATIENCE, taken).await.expect("another role");
}

async fn drop_it(bucket: &Bucket, what: Named) {
    let dropped = match what {
        Named::Scope(scope) => bucket.drop_scope(&scope).await,
        Named::Collection {
            scope, collection, ..
        } => bucket.drop_collection(&scope, &collection).await,
    };
    dropped.expect("it goes");
}

async fn scenario(here: World, there: World) -> u64 {
    let mut run = Run {
        random: here.random("schedule"),
        source: Side::new(here).await,
        target: Side::new(there).await,
        rollbacks: 0,
    };
    for _ in 0..LIVES {
        run.live().await;
        run.turn().await;
    }
    let replication = replicate(&run.source.bucket, &run.target.bucket);
    run.compare(&replication).await;
    run.note(&replication);
    drop(replication);
    run.target.bucket.flush().await.expect("a flush");
    let how = run.pick(3);
    run.target.end(how).await;
    run.assert_same().await;
    run.rollbacks
}

#[test]
fn a_replica_has_what_its_source_has() {
    let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    if let Some(seed) = number("PIGGIN_SEED") {
        run_with(seed, &LEFT.settings_of(seed), scenario);
        return;
    }
    let seeds = number("PIGGIN_SEEDS").unwrap_or(SEEDS);
    let rollbacks: u64 = (0..seeds)
        .map(|seed| run_with(seed, &LEFT.settings_of(seed), scenario))
        .sum();
    assert!(
        rollbacks > seeds / 2,
        "hardly anything went back: {rollbacks}"
    );
    LEFT.assert_some();
}
