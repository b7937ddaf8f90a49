//! Any operations in any order, of a few documents that leave memory all the time, answer as a map does: seed after seed, over
//! restarts, losses of power, compactions and sweeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use piggin::messages::OperationError;
use piggin::messages::compactor::CompactOptions;
use piggin::messages::vbucket::Mutated;
use piggin::storage::{Cas, OpenOptions};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::{Random, SimulatedRandom, World, WorldSettings};

use crate::old_values;
use crate::support::evicting::Evictions;

const KEYS: u64 = 12;
const LIVES: u64 = 4;
const STEPS: u64 = 120;

/// What left memory.
static LEFT: Evictions = Evictions::none();

/// A document as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    value: String,
    cas: Cas,
    /// When it expires, in virtual seconds since the run began.
    expires: Option<u64>,
}

struct Run {
    world: World,
    random: Arc<SimulatedRandom>,
    model: BTreeMap<String, Known>,
    begun: Duration,
}

type Answer = Result<Mutated, OperationError>;

impl Run {
    fn new(world: &World) -> Run {
        Run {
            world: world.clone(),
            random: world.random("operations"),
            model: BTreeMap::new(),
            begun: world.environment().clock.since_epoch(),
        }
    }

    fn config(&self) -> BucketConfig {
        BucketConfig {
            vbuckets: Some(2),
            expiry_sweep_every: Duration::from_secs(40),
            store: OpenOptions {
                log_file_bytes_min: 64 << 10,
                log_file_bytes_max: 128 << 10,
                unsealed_bytes: 8 << 10,
                block_bytes: 4 << 10,
                segments_max: 2,
                index_cache_bytes: 0,
                is_stepped: true,
                ..OpenOptions::new(1)
            },
            ..self.world.config()
        }
    }

    fn pick(&self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    fn now(&self) -> u64 {
        let now = self.world.environment().clock.since_epoch();
        now.as_secs() - self.begun.as_secs()
    }

    /// Those whose time is up are no documents.
    fn forget_expired(&mut self) {
        let now = self.now();
        self.model
            .retain(|_, known| known.expires.is_none_or(|at| now < at));
    }

    fn wrote(&mut self, key: &str, value: String, answer: &Answer, expires: Option<u64>) {
        let cas = answer.as_ref().expect("it is written").cas;
        let known = Known {
            value,
            cas,
            expires,
        };
        self.model.insert(key.to_owned(), known);
    }

    async fn step(&mut self, bucket: &Bucket) {
        let key = format!("key {}", self.pick(KEYS));
        let value = format!("{}", self.pick(1000));
        self.forget_expired();
        let known = self.model.get(&key).cloned();
        let missing = Err(OperationError::KeyNotFound);
        match self.pick(16) {
            0 | 1 => {
                let answer = bucket.set(&key, value.clone()).await;
                self.wrote(&key, value, &answer, None);
            }
            2 => {
                let lives = 20 + self.pick(200);
                let seconds = u32::try_from(lives).expect("few");
                let answer = bucket.set(&key, value.clone()).expiry(seconds).await;
                let expiry = bucket.get_meta(&key).await.expect("it").expiry;
                let expires = u64::from(expiry.0) - self.begun.as_secs();
                self.wrote(&key, value, &answer, Some(expires));
            }
            3 => {
                let answer = bucket.add(&key, value.clone()).await;
                match known {
                    None => self.wrote(&key, value, &answer, None),
                    Some(_) => assert_eq!(answer, Err(OperationError::KeyExists)),
                }
            }
            4 => {
                let answer = bucket.replace(&key, value.clone()).await;
                match known {
                    Some(_) => self.wrote(&key, value, &answer, None),
                    None => assert_eq!(answer.map(drop), missing),
                }
            }
            5 | 6 => {
                let answer = bucket.delete(&key).await.map(drop);
                assert_eq!(answer, known.map_or(missing, |_| Ok(())));
                self.model.remove(&key);
            }
            7 => {
                let answer = bucket.append(&key, value.clone()).await;
                match known {
                    Some(known) => {
                        let value = known.value + &value;
                        self.wrote(&key, value, &answer, known.expires);
                    }
                    None => assert_eq!(answer.map(drop), missing),
                }
            }
            8 => self.with_cas(bucket, &key, value, known).await,
            9 => {
                let answer = bucket.touch(&key, 0).await;
                match known {
                    Some(known) => self.wrote(&key, known.value, &answer, None),
                    None => assert_eq!(answer.map(drop), missing),
                }
            }
            10 => {
                let found = bucket.exists(&key).await;
                assert_eq!(found, Ok(known.is_some()));
            }
            11 => {
                let vbucket = bucket.vbucket_of(key.as_bytes());
                let compacted = bucket.compact(vbucket, CompactOptions::default());
                compacted.await.expect("a compaction");
            }
            12 => bucket.flush().await.expect("a flush"),
            13 => {
                let seconds = self.pick(30);
                self.world.sleep(Duration::from_secs(seconds)).await;
            }
            _ => self.check(bucket, &key).await,
        }
        let rest = self.pick(20);
        self.world.sleep(Duration::from_millis(rest)).await;
    }

    async fn with_cas(&mut self, bucket: &Bucket, key: &str, value: String, known: Option<Known>) {
        let is_right = self.pick(2) == 0;
        let cas = known.as_ref().map_or(Cas(7), |known| known.cas);
        let given = if is_right { cas } else { Cas(cas.0 + 1) };
        let answer = bucket.set(key, value.clone()).cas(given).await;
        match known {
            None => assert_eq!(answer.map(drop), Err(OperationError::KeyNotFound)),
            Some(_) if is_right => self.wrote(key, value, &answer, None),
            Some(known) => {
                let current = known.cas;
                let refused = Err(OperationError::CasMismatch { current });
                assert_eq!(answer.map(drop), refused);
            }
        }
    }

    async fn check(&mut self, bucket: &Bucket, key: &str) {
        let found = bucket.get(key).await;
        self.forget_expired();
        let found = found.map(|found| (found.value.to_vec(), found.meta.cas));
        let known = self.model.get(key);
        let known = known.map(|known| (known.value.clone().into_bytes(), known.cas));
        assert_eq!(found, known.ok_or(OperationError::KeyNotFound), "{key}");
    }

    async fn check_all(&mut self, bucket: &Bucket) {
        for number in 0..KEYS {
            self.check(bucket, &format!("key {number}")).await;
        }
        // Nothing is left that is expired, once somebody looked; but what does so meanwhile.
        self.forget_expired();
        let at_most = self.model.len() as u64;
        // A compaction takes what expired before the second it is in.
        self.world.sleep(Duration::from_secs(1)).await;
        for vbucket in bucket.vbuckets() {
            let compacted = bucket.compact(vbucket, CompactOptions::default());
            compacted.await.expect("a compaction");
        }
        bucket.flush().await.expect("a flush");
        self.forget_expired();
        let counted = bucket.statistics().documents;
        let right = self.model.len() as u64..=at_most;
        assert!(right.contains(&counted), "{counted}: {:?}", self.model);
        let picked = bucket.get_random().await;
        assert_eq!(picked.is_ok(), !self.model.is_empty(), "{picked:?}");
    }
}

async fn scenario(world: World) {
    let mut run = Run::new(&world);
    let config = run.config();
    let mut bucket = world.create(config.clone()).await.expect("a bucket");
    for _ in 0..LIVES {
        for _ in 0..STEPS {
            run.step(&bucket).await;
        }
        run.check_all(&bucket).await;
        LEFT.note(&bucket);
        match run.pick(3) {
            0 => world.kill(),
            1 => world.cut_power(),
            _ => drop(bucket.shutdown().await.expect("an end")),
        }
        bucket = world.open(config.clone()).await.expect("the bucket");
        run.check_all(&bucket).await;
    }
    bucket.shutdown().await.expect("an end");
}

#[test]
fn operations_answer_as_a_map_does() {
    for seed in 0..old_values::seeds() {
        // The first of each three is run without, to be sure of the map.
        let settings = WorldSettings {
            evicts: seed % 3 != 0,
            ..LEFT.settings_of(seed)
        };
        World::run_with(seed, &settings, scenario).expect("a run that ends");
    }
    LEFT.assert_some();
}
