//! After any schedule of writes, deletes, cursor drops, compactions, flush failures, panics, power cuts and reconnects a
//! consumer's documents are those of the bucket.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::compactor::{Compact, CompactOptions};
use piggin::messages::stream::StreamEndReason;
use piggin::messages::{ChildName, OperationError};
use piggin::storage::VbucketId;
use piggin::{Bucket, ChangesOptions, ChangesToken, Since};
use supervisor::testing::{Fault, Random, SimulatedRandom, World};

use crate::common::{Mirror, PATIENCE, all, assert_at_base, config, key, run};

const SEEDS: u64 = 40;
const KEYS: usize = 24;
const LIVES: usize = 3;
const STEPS: usize = 120;

struct Run {
    world: World,
    random: std::sync::Arc<SimulatedRandom>,
    mirror: Mirror,
    token: Option<ChangesToken>,
}

impl Run {
    fn pick(&self, below: usize) -> usize {
        let below = u64::try_from(below).expect("small");
        usize::try_from(self.random.next_u64() % below).expect("small")
    }

    fn since(&self) -> ChangesOptions {
        ChangesOptions {
            since: self.token.clone().map_or(Since::Beginning, Since::Token),
            // Little, so that flow control has something to do.
            buffer_bytes: 1,
            ..ChangesOptions::default()
        }
    }

    /// Writes and breaks things while a consumer follows.
    async fn live(&mut self, bucket: &Bucket) {
        self.mirror.begin();
        let mut changes = bucket.changes(self.since()).await.expect("changes");
        for _ in 0..STEPS {
            self.step(bucket).await;
            if self.pick(3) == 0 {
                let some = self.pick(20);
                for _ in 0..some {
                    let next = timeout(Duration::from_millis(2), changes.next()).await;
                    match next {
                        Ok(Some(change)) => self.mirror.take(change),
                        Ok(None) | Err(_) => break,
                    }
                }
                self.token = Some(changes.token());
                self.forget_rolled_back();
            }
            if self.pick(25) == 0 {
                drop(changes);
                self.mirror.begin();
                changes = bucket.changes(self.since()).await.expect("changes");
            }
        }
    }

    async fn step(&self, bucket: &Bucket) {
        let key = key(self.pick(KEYS));
        match self.pick(20) {
            0..10 => {
                let value = format!("{}", self.random.next_u64());
                drop(bucket.set(key, value).await);
            }
            10..13 => drop(bucket.delete(key).await),
            13 => drop(bucket.flush().await),
            14 => {
                let id = VbucketId::new(u16::try_from(self.pick(4)).expect("small"));
                let core = bucket.vbucket_core(id.expect("an id")).expect("it");
                core.drop_stream_cursors();
            }
            15 => self.world.inject(Fault::FlushCommit(1)),
            16 => {
                let children = [
                    "producer-0",
                    "producer-1",
                    "reader-0",
                    "vbucket-1",
                    "writer-0",
                ];
                let child = ChildName::new(children[self.pick(children.len())]);
                self.world.inject(Fault::PanicIn { child, nth: 2 });
                self.world.sleep(Duration::from_millis(300)).await;
            }
            17 => {
                let vbucket = VbucketId::new(u16::try_from(self.pick(4)).expect("small"));
                let compact = Compact {
                    vbucket: vbucket.expect("an id"),
                    options: CompactOptions {
                        // Whoever was away for too long misses deletions, and must begin anew.
                        drop_deletes: self.pick(2) == 0,
                        ..CompactOptions::default()
                    },
                };
                drop(timeout(PATIENCE, bucket.compactor().send(compact)).await);
            }
            _ => {
                let time = u64::try_from(self.pick(30)).expect("small");
                self.world.sleep(Duration::from_millis(time)).await;
            }
        }
    }

    /// What a consumer does when a vbucket no longer has what it got: it begins anew with it.
    fn forget_rolled_back(&mut self) {
        let ends = self.mirror.ends.clone();
        for (vbucket, end) in ends {
            if end == StreamEndReason::Rollback {
                self.mirror.forget(vbucket);
                if let Some(token) = &mut self.token {
                    token.forget(vbucket);
                }
            }
        }
    }

    /// Catches up to the present and compares.
    async fn compare(&mut self, bucket: &Bucket) {
        self.world.clear_faults();
        bucket.flush().await.expect("a flush");
        for attempt in 0.. {
            let options = ChangesOptions {
                since: self.token.clone().map_or(Since::Beginning, Since::Token),
                ..all()
            };
            let token = self.mirror.take_all(bucket, options).await;
            self.token = Some(token);
            self.forget_rolled_back();
            if self
                .mirror
                .ends
                .values()
                .all(|end| *end == StreamEndReason::Ok)
            {
                break;
            }
            assert!(attempt < 3, "{:?}", self.mirror.ends);
        }
        let mut expected = BTreeMap::new();
        for number in 0..KEYS {
            match bucket.get(key(number)).await {
                Ok(found) => {
                    expected.insert(key(number).into_bytes(), found.value.to_vec());
                }
                Err(OperationError::KeyNotFound) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(self.mirror.all_documents(), expected);
        assert_at_base(&self.world, bucket).await;
    }
}

async fn scenario(world: World) {
    let mut run = Run {
        random: world.random("schedule"),
        world: world.clone(),
        mirror: Mirror::default(),
        token: None,
    };
    let made = world.create(config(&world)).await.expect("a bucket");
    made.shutdown().await.expect("an end");
    for _ in 0..LIVES {
        let bucket = opened(&world).await;
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
    run.compare(&bucket).await;
    bucket.shutdown().await.expect("an end");
}

async fn opened(world: &World) -> Bucket {
    let opened = timeout(PATIENCE, world.open(config(world))).await;
    opened.expect("it opens").expect("the bucket")
}

#[test]
fn a_consumer_has_what_the_bucket_has() {
    for seed in 0..SEEDS {
        run(seed, scenario);
    }
}
