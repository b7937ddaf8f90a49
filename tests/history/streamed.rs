//! After any schedule of writes, deletes, collections that come and go, cursor drops, compactions, failed reads, panics,
//! rollbacks and ends of the process, changes with history are every version there was: what the bucket was when its history
//! began, and from there on version by version. The model is a list of all that was written, in the order of seqnos.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::ChildName;
use piggin::messages::compactor::{Compact, CompactOptions};
use piggin::messages::failure::ScanPurpose;
use piggin::messages::stream::{SnapshotFlags, SnapshotMarker, StreamEndReason, StreamEvent};
use piggin::storage::{
    CollectionId, DocumentKey, Item, KvStore, OpenOptions, Outcome, Retention, Seqno, SeqnoRange,
    SystemEvent, VbucketId, VbucketUuid,
};
use piggin::{
    Bucket, BucketConfig, Change, ChangesOptions, ChangesToken, Collection, Since, Until,
};
use supervisor::testing::{Clock, Fault, Random, SimulatedRandom, World};

use crate::rollback::roll_back;

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

/// A version that was written; no value for a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    key: DocumentKey,
    value: Option<Vec<u8>>,
    time: Duration,
}

/// Everything that was written. Between two documents lie the events of collections.
#[derive(Debug, Default)]
struct Journal {
    written: BTreeMap<VbucketId, BTreeMap<Seqno, Written>>,
    dropped: BTreeMap<CollectionId, Duration>,
}

/// What a run did, so that it is known whether anything was tried.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    prologues: u64,
    from_memory: u64,
    cursors_dropped: u64,
    rollbacks: u64,
    breaks: u64,
}

/// How far one vbucket was told, and what is not judged yet.
#[derive(Debug, Default)]
struct Told {
    /// Everything up to here was told, and found right.
    at: Seqno,
    last: Seqno,
    snapshot: Option<SnapshotMarker>,
    /// What there was when the history began, as far as it was told.
    before: Vec<(Seqno, Option<Item>)>,
    ended: BTreeSet<CollectionId>,
    /// Version by version from here on.
    is_dense: bool,
}

impl Told {
    fn has(&self, flag: SnapshotFlags) -> bool {
        self.snapshot.is_some_and(|marker| marker.flags.has(flag))
    }

    /// A stream begins behind what was told, whatever that was.
    fn begin(&mut self) {
        self.at = self.last;
        self.snapshot = None;
        self.before.clear();
        self.ended.clear();
        self.is_dense = false;
    }

    fn open(&mut self, marker: SnapshotMarker) {
        let is_history = marker.flags.has(SnapshotFlags::HISTORY);
        let is_disk = marker.flags.has(SnapshotFlags::DISK);
        let repeats = marker.flags.has(SnapshotFlags::MAY_CONTAIN_DUPLICATES);
        assert_eq!(repeats, is_history && is_disk, "{marker:?}");
        assert!(is_history || is_disk, "{marker:?}: memory has all of it");
        let is_second = self.snapshot.is_some_and(|before| {
            let is_same = (marker.start, marker.end) == (before.start, before.end);
            is_same && is_history && !before.flags.has(SnapshotFlags::HISTORY)
        });
        // Perhaps of a stream that was opened again, which nobody is told.
        if !is_second {
            self.begin();
        }
        // Where memory goes on nothing lies between.
        self.is_dense = !is_disk;
        self.snapshot = Some(marker);
    }
}

/// Follows a bucket and judges what it is told.
struct Reader {
    world: World,
    told: BTreeMap<VbucketId, Told>,
    token: Option<ChangesToken>,
    ends: BTreeMap<VbucketId, StreamEndReason>,
    tried: Tried,
}

impl Reader {
    fn options(&self, until: Until) -> ChangesOptions {
        ChangesOptions {
            since: self.token.clone().map_or(Since::Beginning, Since::Token),
            until,
            history: true,
            // Little, so that flow control has something to do.
            buffer_bytes: 1,
            ..ChangesOptions::default()
        }
    }

    async fn open(&mut self, bucket: &Bucket, until: Until) -> piggin::Changes {
        self.ends.clear();
        self.told.values_mut().for_each(Told::begin);
        let options = self.options(until);
        bucket.changes(options).await.expect("changes")
    }

    fn take(&mut self, journal: &Journal, change: Change) {
        let Change { vbucket, event } = change;
        let told = self.told.entry(vbucket).or_default();
        match event {
            StreamEvent::SnapshotMarker(marker) => {
                self.tried.from_memory += u64::from(!marker.flags.has(SnapshotFlags::DISK));
                told.open(*marker);
            }
            StreamEvent::Mutation(item)
            | StreamEvent::Deletion(item)
            | StreamEvent::Expiration(item) => {
                self.version(journal, vbucket, item.seqno, Some(&item));
            }
            StreamEvent::SystemEvent(event) => {
                if let SystemEvent::CollectionEnd { collection, .. } = event.event {
                    told.ended.insert(collection);
                }
                self.version(journal, vbucket, event.seqno, None);
            }
            StreamEvent::SeqnoAdvanced(seqno) => {
                told.last = seqno;
                self.judge(journal, vbucket, seqno);
            }
            StreamEvent::Prepare(_) | StreamEvent::Commit(_) | StreamEvent::Abort(_) => {
                panic!("{vbucket}: told to one who is no replica");
            }
            StreamEvent::StreamEnd(reason) => {
                self.ends.insert(vbucket, reason);
            }
        }
    }

    fn version(
        &mut self,
        journal: &Journal,
        id: VbucketId,
        seqno: Seqno,
        item: Option<&Arc<Item>>,
    ) {
        let told = self.told.entry(id).or_default();
        let marker = told.snapshot.expect("a marker before it");
        assert!(told.last < seqno && seqno <= marker.end, "{id}: {seqno}");
        told.last = seqno;
        if !told.has(SnapshotFlags::HISTORY) {
            let item = item.map(|item| Item::clone(item));
            told.before.push((seqno, item));
            if seqno == marker.end {
                self.judge(journal, id, seqno);
            }
            return;
        }
        self.judge(journal, id, Seqno(seqno.0 - 1));
        let told = self.told.entry(id).or_default();
        let of_it = journal.written.get(&id);
        let written = of_it.and_then(|all| all.get(&seqno));
        assert_same(id, seqno, item.map(|item| &**item), written);
        told.at = seqno;
    }

    /// Everything up to `to` was told: the newest of each key as of then, or, behind that, every version.
    fn judge(&mut self, journal: &Journal, id: VbucketId, to: Seqno) {
        let now = self.world.clock().since_epoch();
        let told = self.told.entry(id).or_default();
        if told.is_dense || told.at == to {
            assert_eq!(told.at, to, "{id}: a version is missing");
            assert!(told.before.is_empty(), "{id}: {:?}", told.before);
            told.is_dense = true;
            return;
        }
        let empty = BTreeMap::new();
        let all = journal.written.get(&id).unwrap_or(&empty);
        if let Some(newest) = all.get(&to) {
            let is_past = newest.time + WINDOW <= now;
            assert!(is_past, "{id}: {to} is no history, but of {newest:?}");
        }
        let mut expected = BTreeMap::new();
        for (seqno, written) in all.range(..=to) {
            expected.insert(&written.key, (*seqno, written));
        }
        expected.retain(|_, (seqno, _)| *seqno > told.at);
        self.tried.prologues += u64::from(!expected.is_empty());
        for (seqno, item) in &told.before {
            let Some(item) = item else { continue };
            let found = expected.remove(&item.document.key);
            assert_eq!(found.map(|(at, _)| at), Some(*seqno), "{id}: as of {to}");
            assert_same(id, *seqno, Some(item), found.map(|(_, written)| written));
        }
        for (key, (seqno, written)) in expected {
            let collection = key.collection();
            let is_dropped =
                |time: &Duration| *time + WINDOW <= now || told.ended.contains(&collection);
            let may_lack =
                written.value.is_none() || journal.dropped.get(&collection).is_some_and(is_dropped);
            assert!(
                may_lack,
                "{id}: {written:?} at {seqno} is missing as of {to}"
            );
        }
        told.before.clear();
        told.is_dense = true;
        told.at = to;
    }

    /// What a consumer does when a vbucket no longer has what it got: it begins anew with it.
    fn forget_rolled_back(&mut self) {
        for (vbucket, end) in &self.ends {
            if *end == StreamEndReason::Rollback {
                self.told.remove(vbucket);
                self.tried.rollbacks += 1;
                if let Some(token) = &mut self.token {
                    token.forget(*vbucket);
                }
            }
        }
        let broke = |end: &&StreamEndReason| !matches!(end, StreamEndReason::Ok);
        self.tried.breaks += self.ends.values().filter(broke).count() as u64;
    }

    /// Everything up to now.
    async fn catch_up(&mut self, bucket: &Bucket, journal: &Journal) {
        for attempt in 0.. {
            let mut changes = self.open(bucket, Until::Now).await;
            while let Some(change) = timeout(PATIENCE, changes.next()).await.expect("progress") {
                self.take(journal, change);
            }
            self.token = Some(changes.token());
            self.forget_rolled_back();
            if self.ends.values().all(|end| *end == StreamEndReason::Ok) {
                break;
            }
            assert!(attempt < 4, "{:?}", self.ends);
        }
        for (id, written) in &journal.written {
            let newest = written.keys().next_back().copied().unwrap_or_default();
            let at = self.told.get(id).map_or(Seqno::ZERO, |told| told.at);
            assert!(at >= newest, "{id}: told up to {at} of {newest}");
        }
    }
}

fn assert_same(id: VbucketId, seqno: Seqno, item: Option<&Item>, written: Option<&Written>) {
    let value = |item: &Item| {
        let is_there = !item.operation.is_tombstone();
        is_there.then(|| item.document.value.to_vec())
    };
    let told = item.map(|item| (item.document.key.clone(), value(item)));
    let written = written.map(|written| (written.key.clone(), written.value.clone()));
    let shown = |version: &Option<(DocumentKey, Option<Vec<u8>>)>| {
        let (key, value) = version.as_ref()?;
        let number = value
            .as_ref()
            .map(|value| value.split(|byte| *byte == b' ').next());
        Some(format!(
            "{key:?} {:?}",
            number.flatten().map(String::from_utf8_lossy)
        ))
    };
    let (told_as, written_as) = (shown(&told), shown(&written));
    assert!(
        told == written,
        "{id}: at {seqno} {told_as:?}, not {written_as:?}"
    );
}

struct Run {
    world: World,
    random: Arc<SimulatedRandom>,
    journal: Journal,
    branches: BTreeMap<VbucketId, VbucketUuid>,
    reader: Reader,
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
            reader: Reader {
                world: world.clone(),
                told: BTreeMap::new(),
                token: None,
                ends: BTreeMap::new(),
                tried: Tried::default(),
            },
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
        let mut other = Reader {
            world: self.world.clone(),
            told: BTreeMap::new(),
            token: None,
            ends: BTreeMap::new(),
            tried: Tried::default(),
        };
        other.catch_up(bucket, &self.journal).await;
        self.reader.tried.prologues += other.tried.prologues;
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
    run.reader.tried
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
        all.prologues += tried.prologues;
        all.from_memory += tried.from_memory;
        all.cursors_dropped += tried.cursors_dropped;
        all.rollbacks += tried.rollbacks;
        all.breaks += tried.breaks;
    }
    println!("{seeds} seeds: {all:?}");
    // What was never tried proves nothing.
    assert!(all.prologues > 0 && all.from_memory > 0 && all.cursors_dropped > 0);
    assert!(all.rollbacks > 0 && all.breaks > 0);
}
