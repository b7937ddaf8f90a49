//! After any schedule of writes, deletes, collections that come and go, cursor drops, compactions, failed flushes and
//! reads, rollbacks, panics, power cuts and reconnects a consumer's documents are those of the bucket. Two kinds of consumers follow:
//! one of all changes, and one of each vbucket by messages, with windows that hold a fraction of what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::compactor::{Compact, CompactOptions};
use piggin::messages::failure::ScanPurpose;
use piggin::messages::stream::StreamEndReason;
use piggin::messages::vbucket::Found;
use piggin::messages::{ChildName, OperationError};
use piggin::storage::disk::{DiskErrorKind, Verb};
use piggin::storage::{CollectionId, Seqno, VbucketId};
use piggin::{Bucket, ChangesOptions, ChangesToken, Since};
use supervisor::testing::{DiskFault, Fault, Random, SimulatedRandom, World};

use crate::common::{Mirror, PATIENCE, all, assert_at_base, config, key, run_with};
use crate::follower::{Follower, Leaves};
use crate::rollback::roll_back;
use crate::support::evicting::Evictions;

const SEEDS: u64 = 40;
const SEEDS_VARIABLE: &str = "PIGGIN_SEEDS";
/// Seeds that once failed.
const REGRESSIONS: [u64; 0] = [];
const KEYS: usize = 40;
const COLLECTIONS: usize = 3;
const LIVES: usize = 3;
const STEPS: usize = 160;
/// Of one child; whoever panics more often may be given up.
const PANICS_MAX: u32 = 2;
const SCOPE: &str = "_default";
const EVERYTHING: usize = usize::MAX;

/// What left memory.
static LEFT: Evictions = Evictions::none();

/// What a run did, so that it is known whether anything was tried.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    bytes: u64,
    snapshots: u64,
    refusals: u64,
    rollbacks: u64,
    reads_failed: u64,
}

struct Run {
    world: World,
    random: std::sync::Arc<SimulatedRandom>,
    mirror: Mirror,
    token: Option<ChangesToken>,
    followers: Vec<Follower>,
    collections_made: usize,
    /// Of each child in this life of the bucket.
    panics: BTreeMap<&'static str, u32>,
    tried: Tried,
}

impl Run {
    fn new(world: &World) -> Run {
        let random = world.random("schedule");
        let windows = [1, 300, 4 << 10, 20 << 10];
        let ids = (0..4).filter_map(VbucketId::new);
        // Whichever of them has the smallest differs from seed to seed.
        let turn = usize::try_from(random.next_u64() % 4).expect("small");
        let windows = windows.into_iter().cycle().skip(turn);
        let followers = ids.zip(windows).map(|(id, size)| Follower::new(id, size));
        Run {
            world: world.clone(),
            followers: followers.collect(),
            random,
            mirror: Mirror::default(),
            token: None,
            collections_made: 0,
            panics: BTreeMap::new(),
            tried: Tried::default(),
        }
    }

    fn pick(&self, below: usize) -> usize {
        let below = u64::try_from(below).expect("small");
        usize::try_from(self.random.next_u64() % below).expect("small")
    }

    fn vbucket(&self) -> VbucketId {
        self.followers[self.pick(4)].vbucket
    }

    fn since(&self) -> ChangesOptions {
        ChangesOptions {
            since: self.token.clone().map_or(Since::Beginning, Since::Token),
            // Little, so that flow control has something to do.
            buffer_bytes: 1,
            ..ChangesOptions::default()
        }
    }

    /// Writes and breaks things while consumers follow.
    async fn live(&mut self, bucket: &Bucket) {
        self.mirror.begin();
        self.panics.clear();
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
            self.follow(bucket).await;
        }
    }

    /// A consumer of one vbucket has its turn.
    async fn follow(&mut self, bucket: &Bucket) {
        let (which, batches, leaves) = (self.pick(4), self.pick(6), self.pick(60));
        let follower = &mut self.followers[which];
        follower.take(bucket, batches).await;
        match leaves {
            0 => follower.reconnect(bucket, Leaves::Closing).await,
            1 => follower.reconnect(bucket, Leaves::Dying).await,
            _ => {}
        }
    }

    async fn step(&mut self, bucket: &Bucket) {
        match self.pick(26) {
            0..11 => self.write(bucket).await,
            11..13 => drop(bucket.delete(key(self.pick(KEYS))).await),
            13 => drop(bucket.flush().await),
            14 => {
                let core = bucket.vbucket_core(self.vbucket()).expect("it");
                core.drop_stream_cursors();
            }
            15 => {
                let core = bucket.vbucket_core(self.vbucket()).expect("it");
                core.shrink_log();
            }
            16 => self.world.inject(Fault::FlushCommit(1)),
            17 => {
                let children = [
                    "producer-0",
                    "producer-1",
                    "reader-0",
                    "vbucket-1",
                    "writer-0",
                ];
                let child = children[self.pick(children.len())];
                let panics = self.panics.entry(child).or_insert(0);
                *panics += 1;
                if *panics <= PANICS_MAX {
                    let child = ChildName::new(child);
                    self.world.inject(Fault::PanicIn { child, nth: 2 });
                }
                self.world.sleep(Duration::from_millis(300)).await;
            }
            18 => self.compact(bucket).await,
            19 => {
                let nth = u64::try_from(self.pick(3)).expect("small") + 1;
                let purpose = ScanPurpose::Backfill;
                self.world.inject(Fault::ScanFor(purpose, nth));
            }
            20 => {
                let nth = u64::try_from(self.pick(10)).expect("small") + 1;
                let broken = DiskErrorKind::Other("broken".to_owned());
                let fault = DiskFault::fail(Verb::Read, "", nth, broken);
                self.world.inject(Fault::Disk(fault));
            }
            21 => self.change_collections(bucket).await,
            22 => self.take_back(bucket).await,
            _ => {
                let time = u64::try_from(self.pick(30)).expect("small");
                self.world.sleep(Duration::from_millis(time)).await;
            }
        }
    }

    /// Some values are a good part of a window, or several.
    async fn write(&mut self, bucket: &Bucket) {
        let length = if self.pick(3) == 0 {
            self.pick(100)
        } else {
            2048 + self.pick(16_000)
        };
        let mut value = format!("{} ", self.random.next_u64()).into_bytes();
        value.resize(value.len() + length, b'.');
        self.tried.bytes += u64::try_from(value.len()).expect("small");
        let (key, other) = (key(self.pick(KEYS)), self.pick(4) == 0);
        let collections = others(bucket);
        if let (true, Some((name, _))) = (other, collections.first()) {
            if let Ok(collection) = bucket.collection(SCOPE, name) {
                drop(collection.set(key, value).await);
            }
            return;
        }
        drop(bucket.set(key, value).await);
    }

    async fn compact(&self, bucket: &Bucket) {
        let compact = Compact {
            vbucket: self.vbucket(),
            options: CompactOptions {
                // Whoever was away for too long misses deletions, and must begin anew.
                drop_deletes: self.pick(2) == 0,
                ..CompactOptions::default()
            },
        };
        drop(timeout(PATIENCE, bucket.compactor().send(compact)).await);
    }

    async fn change_collections(&mut self, bucket: &Bucket) {
        let collections = others(bucket);
        let is_drop = collections.len() == COLLECTIONS || self.pick(2) == 0;
        if let (true, Some((name, _))) = (is_drop, collections.first()) {
            drop(timeout(PATIENCE, bucket.drop_collection(SCOPE, name)).await);
        } else {
            self.collections_made += 1;
            let name = format!("made-{}", self.collections_made);
            drop(timeout(PATIENCE, bucket.create_collection(SCOPE, name)).await);
        }
    }

    async fn take_back(&mut self, bucket: &Bucket) {
        // What is read on the way must be read.
        self.world.clear_faults();
        let id = self.vbucket();
        let high = bucket.vbucket_core(id).expect("it").high_seqno();
        let by = u64::try_from(self.pick(12)).expect("small");
        let to = Seqno(high.0.saturating_sub(by));
        if roll_back(&self.world, bucket, id, to).await {
            self.tried.rollbacks += 1;
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
        let struck = self.world.faults_struck();
        let is_read = |fault: &&Fault| matches!(fault, Fault::ScanFor(..));
        let reads_failed = struck.iter().filter(is_read).count();
        self.tried.reads_failed += u64::try_from(reads_failed).expect("small");
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
        for follower in &mut self.followers {
            catch_up(&self.world, bucket, follower).await;
        }
        self.compare_documents(bucket).await;
        LEFT.note(bucket);
        for follower in &mut self.followers {
            follower.reconnect(bucket, Leaves::Closing).await;
        }
        assert_at_base(&self.world, bucket).await;
        // What it costs to read everything once more is given back.
        let before = bucket.statistics().memory.bytes;
        Mirror::default().take_all(bucket, all()).await;
        assert_at_base(&self.world, bucket).await;
        let after = bucket.statistics().memory.bytes;
        assert!(after <= before, "{before} bytes before, {after} after");
    }

    async fn compare_documents(&self, bucket: &Bucket) {
        let mut expected: BTreeMap<VbucketId, Documents> = BTreeMap::new();
        for number in 0..KEYS {
            let key = key(number);
            if let Some(value) = value_of(bucket.get(&key).await) {
                let vbucket = bucket.vbucket_of(key.as_bytes());
                let documents = expected.entry(vbucket).or_default();
                documents.insert(key.into_bytes(), value);
            }
        }
        let everywhere = expected.values().flatten();
        let everywhere = everywhere.map(|(key, value)| (key.clone(), value.clone()));
        let everywhere: Documents = everywhere.collect();
        assert_same("all changes", &self.mirror.all_documents(), &everywhere);
        for follower in &self.followers {
            let expected = expected.remove(&follower.vbucket).unwrap_or_default();
            let has = follower.mirror.all_documents();
            assert_same(&format!("vbucket {}", follower.vbucket), &has, &expected);
        }
        for (name, id) in others(bucket) {
            let collection = bucket.collection(SCOPE, &name).expect("it");
            let mut expected = Documents::new();
            for number in 0..KEYS {
                if let Some(value) = value_of(collection.get(key(number)).await) {
                    expected.insert(key(number).into_bytes(), value);
                }
            }
            let what = format!("all changes of {name}");
            assert_same(&what, &self.mirror.documents_of(id), &expected);
            let mut followed = Documents::new();
            for follower in &self.followers {
                followed.extend(follower.mirror.documents_of(id));
            }
            assert_same(&name, &followed, &expected);
        }
    }
}

type Documents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Says no more than which documents are not the same: their values are long.
fn assert_same(what: &str, has: &Documents, expected: &Documents) {
    let keys: BTreeSet<_> = has.keys().chain(expected.keys()).collect();
    let differs = |key: &&Vec<u8>| has.get(*key) != expected.get(*key);
    let shown = |documents: &Documents, key: &Vec<u8>| {
        let value = documents.get(key)?.iter();
        let number = value.take_while(|byte| **byte != b' ').copied();
        String::from_utf8(number.collect()).ok()
    };
    let differ = keys.into_iter().filter(differs).map(|key| {
        let name = String::from_utf8_lossy(key);
        format!(
            "{name}: {:?}, not {:?}",
            shown(has, key),
            shown(expected, key)
        )
    });
    assert_eq!(differ.collect::<Vec<_>>(), [""; 0], "{what}");
}

fn value_of(found: Result<Found, OperationError>) -> Option<Vec<u8>> {
    match found {
        Ok(found) => Some(found.value.to_vec()),
        Err(OperationError::KeyNotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

/// The collections beside the default one.
fn others(bucket: &Bucket) -> Vec<(String, CollectionId)> {
    let manifest = bucket.manifest();
    let all = manifest.collections.iter();
    let others = all.filter(|(id, _)| **id != CollectionId::DEFAULT);
    others.map(|(id, one)| (one.name.clone(), *id)).collect()
}

/// Takes everything there is; no virtual minute passes without progress.
async fn catch_up(world: &World, bucket: &Bucket, follower: &mut Follower) {
    let number = follower.vbucket.index();
    let (mut last, mut waited) = (None, 0);
    // What it has may be of a history that is gone: only a stream that says nothing more shows that it is not.
    loop {
        follower.take(bucket, EVERYTHING).await;
        world.sleep(Duration::from_millis(10)).await;
        let now = Some((follower.seqno(), follower.rollbacks, follower.has_stream()));
        waited = if now == last { waited + 1 } else { 0 };
        last = now;
        let high = bucket.statistics().vbuckets[number].high_seqno;
        let is_there = follower.seqno() == high && follower.mirror.is_whole();
        if is_there && follower.has_stream() && waited > 10 {
            return;
        }
        assert!(waited < 6000, "{number}: no progress behind {last:?}");
    }
}

async fn scenario(world: World) -> Tried {
    let mut run = Run::new(&world);
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
        run.followers.iter_mut().for_each(Follower::lose);
    }
    let bucket = opened(&world).await;
    run.compare(&bucket).await;
    bucket.shutdown().await.expect("an end");
    let followers = run.followers.iter();
    Tried {
        snapshots: followers.clone().map(|one| one.snapshots).sum(),
        refusals: followers.map(|one| one.rollbacks).sum(),
        ..run.tried
    }
}

async fn opened(world: &World) -> Bucket {
    let opened = timeout(PATIENCE, world.open(config(world))).await;
    opened.expect("it opens").expect("the bucket")
}

#[test]
fn a_consumer_has_what_the_bucket_has() {
    let seeds = std::env::var(SEEDS_VARIABLE).ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let mut all = Tried::default();
    for seed in REGRESSIONS.into_iter().chain(0..seeds) {
        let Tried {
            bytes,
            snapshots,
            refusals,
            rollbacks,
            reads_failed,
        } = run_with(seed, &LEFT.settings_of(seed), scenario);
        all.bytes += bytes;
        all.snapshots += snapshots;
        all.refusals += refusals;
        all.rollbacks += rollbacks;
        all.reads_failed += reads_failed;
    }
    println!("{seeds} seeds: {all:?}");
    LEFT.assert_some();
    // What was never tried proves nothing.
    assert!(all.refusals > 0 && all.rollbacks > 0 && all.reads_failed > 0);
    // Several windows of each vbucket's changes, whoever follows, in each life.
    let lives = u64::try_from(LIVES).expect("small") * seeds;
    assert!(all.bytes / lives / 4 > 64 << 10, "{all:?}");
}
