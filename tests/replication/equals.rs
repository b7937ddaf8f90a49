//! After any schedule of writes, deletions, collections, cursor drops, compactions, flush failures, panics, stops, losses
//! of power and exchanges of roles on both sides, a replica holds what its source holds, in memory and on disk.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::ChildName;
use piggin::messages::compactor::{Compact, CompactOptions};
use piggin::storage::{VbucketId, VbucketState};
use piggin::{Bucket, Replication};
use supervisor::testing::{Fault, Random, SimulatedRandom, World};

use crate::common::{
    PATIENCE, assert_same, become_state, caught_up, created, key, opened, replicate, run, set,
};

const SEEDS: u64 = 120;
const KEYS: usize = 24;
const LIVES: usize = 4;
const STEPS: usize = 80;

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

    async fn step(&self) {
        let (source, target) = (&self.source, &self.target);
        let key = key(self.pick(KEYS));
        match self.pick(24) {
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
        assert_same(&self.source.bucket, &self.target.bucket);
    }

    /// What comes between two lives.
    async fn turn(&mut self) {
        let how = self.pick(3);
        if self.pick(4) == 0 {
            // The source fails, the replica takes over.
            become_state(&self.target.bucket, VbucketState::Active).await;
            self.source.end(how).await;
            std::mem::swap(&mut self.source, &mut self.target);
        } else {
            self.source.end(how).await;
        }
    }
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
    assert_same(&run.source.bucket, &run.target.bucket);
    run.rollbacks
}

#[test]
fn a_replica_has_what_its_source_has() {
    let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    if let Some(seed) = number("PIGGIN_SEED") {
        run(seed, scenario);
        return;
    }
    let seeds = number("PIGGIN_SEEDS").unwrap_or(SEEDS);
    let rollbacks: u64 = (0..seeds).map(|seed| run(seed, scenario)).sum();
    assert!(rollbacks > seeds, "hardly anything went back: {rollbacks}");
}
