//! Whatever leaves memory and comes back, a bucket answers what a plain map would, also after crashes and openings: seed after
//! seed, in worlds where whatever can leave memory does.
//!
//! Invariant: of what was not on disk when the machine stopped each document is found as it was at some moment since it was on
//! disk last, and the map goes on from there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use piggin::messages::compactor::CompactOptions;
use piggin::messages::stream::StreamEvent;
use piggin::messages::vbucket::{Found, Mutated};
use piggin::messages::{OperationError, ScanRange};
use piggin::storage::{Cas, CollectionId, Eviction, Expiry, MemoryMarks, OpenOptions};
use piggin::{Bucket, BucketConfig, ChangesOptions, Collection, Until};
use supervisor::testing::{Latencies, SimulatedRandom, World, WorldSettings};

use crate::common::LEAVING;
use crate::old_values::seeds;

const COLLECTIONS: [&str; 2] = ["_default", "c"];
const KEYS: u64 = 8;
const LIVES: u64 = 4;
const STEPS: u64 = 120;
/// Far away: relative seconds.
const FAR: u32 = 1_000_000;

fn config(world: &World, eviction: Eviction) -> BucketConfig {
    BucketConfig {
        eviction: Some(eviction),
        vbuckets: Some(2),
        actor_threads: Some(2),
        reader_threads: 2,
        memory_marks: MemoryMarks::ALL_LEAVES,
        memory_quota_bytes: 1 << 20,
        store: OpenOptions {
            log_file_bytes_min: 64 << 10,
            log_file_bytes_max: 128 << 10,
            unsealed_bytes: 4 << 10,
            block_bytes: 4 << 10,
            is_stepped: true,
            ..OpenOptions::new(1)
        },
        ..world.config()
    }
}

/// A document as the map has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Document {
    value: String,
    flags: u32,
    expiry: Expiry,
    cas: Cas,
}

impl Document {
    fn of(found: &Found) -> Document {
        Document {
            value: String::from_utf8(found.value.to_vec()).expect("text"),
            flags: found.meta.flags,
            expiry: found.meta.expiry,
            cas: found.meta.cas,
        }
    }
}

/// A key of it: what is there, and what was since it was on disk.
#[derive(Clone, Debug)]
struct Slot {
    now: Option<Document>,
    since: Vec<Option<Document>>,
}

impl Default for Slot {
    /// Nothing was ever there.
    fn default() -> Slot {
        Slot {
            now: None,
            since: vec![None],
        }
    }
}

impl Slot {
    fn put(&mut self, now: Option<Document>) {
        self.now.clone_from(&now);
        self.since.push(now);
    }

    /// What is there is on disk.
    fn settle(&mut self) {
        self.since = vec![self.now.clone()];
    }
}

type Place = (usize, u64);

struct Run {
    world: World,
    random: Arc<SimulatedRandom>,
    bucket: Bucket,
    slots: BTreeMap<Place, Slot>,
    written: u64,
}

fn key((_, number): Place) -> String {
    format!("key {number}")
}

impl Run {
    fn pick(&self, below: u64) -> u64 {
        self.random.below(below)
    }

    fn collection(&self, (collection, _): Place) -> Collection {
        let name = COLLECTIONS[collection];
        self.bucket.collection("_default", name).expect("it")
    }

    fn now(&self, place: Place) -> Option<Document> {
        self.slots.get(&place).and_then(|slot| slot.now.clone())
    }

    fn put(&mut self, place: Place, now: Option<Document>) {
        self.slots.entry(place).or_default().put(now);
    }

    fn settle(&mut self) {
        self.slots.values_mut().for_each(Slot::settle);
    }

    fn text(&mut self) -> String {
        self.written += 1;
        // Those that are numbers can be counted.
        match self.pick(3) {
            0 => self.written.to_string(),
            _ => format!("value {} ", self.written).repeat(1 + usize::from(self.pick(4) == 0) * 20),
        }
    }

    /// A write of a whole document came to this, which it may only if `is_done`.
    fn wrote(
        &mut self,
        place: Place,
        answer: Result<Mutated, OperationError>,
        document: Option<Document>,
        refused: Option<OperationError>,
    ) {
        match (answer, refused) {
            (Ok(mutated), None) => {
                let cas = mutated.cas;
                let document = document.map(|document| Document { cas, ..document });
                self.put(place, document);
            }
            (Err(error), Some(refused)) => assert_eq!(error, refused, "{place:?}"),
            (answer, refused) => panic!("{place:?}: {answer:?} and not {refused:?}"),
        }
    }

    async fn step(&mut self) {
        let place = (usize::try_from(self.pick(2)).expect("few"), self.pick(KEYS));
        let (of, key, now) = (self.collection(place), key(place), self.now(place));
        let absent = now.is_none().then_some(OperationError::KeyNotFound);
        match self.pick(20) {
            0..=2 => {
                let new = self.new_document();
                let set = of.set(&key, new.value.clone()).flags(new.flags);
                self.wrote(place, set.await, Some(new), None);
            }
            3 => {
                let new = self.new_document();
                let add = of.add(&key, new.value.clone()).flags(new.flags);
                let there = now.is_some().then_some(OperationError::KeyExists);
                self.wrote(place, add.await, Some(new), there);
            }
            4 => {
                let new = self.new_document();
                let replace = of.replace(&key, new.value.clone()).flags(new.flags);
                self.wrote(place, replace.await, Some(new), absent);
            }
            5 | 6 => self.wrote(place, of.delete(&key).await, None, absent),
            7 => {
                let new = self.new_document();
                let right = now.as_ref().map(|now| now.cas);
                let cas = right.filter(|_| self.pick(3) > 0).unwrap_or(Cas(1));
                let refused = absent.or_else(|| {
                    let current = right.filter(|right| *right != cas)?;
                    Some(OperationError::CasMismatch { current })
                });
                let set = of.set(&key, new.value.clone()).flags(new.flags).cas(cas);
                self.wrote(place, set.await, Some(new), refused);
            }
            8 | 9 => {
                let is_behind = self.pick(2) == 0;
                let new = now.map(|now| Document {
                    value: if is_behind {
                        now.value.clone() + "0"
                    } else {
                        "1".to_owned() + &now.value
                    },
                    ..now
                });
                let extend = if is_behind {
                    of.append(&key, "0")
                } else {
                    of.prepend(&key, "1")
                };
                self.wrote(place, extend.await, new, absent);
            }
            10 => self.count(place, &of).await,
            11 => {
                let new = now.map(|now| Document {
                    expiry: Expiry(0),
                    ..now
                });
                self.wrote(place, of.touch(&key, 0).await, new, absent);
            }
            12 => match of.get_and_touch(&key, FAR).await {
                Ok(found) => {
                    let now = now.expect("nothing was there");
                    assert_eq!(found.value, now.value);
                    self.put(place, Some(Document::of(&found)));
                }
                Err(error) => assert_eq!(Some(error), absent),
            },
            13 => self.lock(place, &of).await,
            14 => {
                let keys: Vec<_> = (0..KEYS).map(|number| (place.0, number)).collect();
                let many = of
                    .get_many(keys.iter().map(|place| self::key(*place)))
                    .await;
                for (place, found) in keys.into_iter().zip(many) {
                    self.assert_found(place, found);
                }
            }
            15 => {
                let meta = of.get_meta(&key).await;
                let live = meta.ok().filter(|meta| !meta.is_deleted);
                assert_eq!(live.map(|meta| meta.cas), now.map(|now| now.cas));
            }
            16 => assert_eq!(of.exists(&key).await, Ok(now.is_some())),
            17 => self.pick_any(place.0, &of).await,
            _ => self.assert_found(place, of.get(&key).await),
        }
    }

    fn new_document(&mut self) -> Document {
        Document {
            value: self.text(),
            flags: u32::try_from(self.pick(100)).expect("few"),
            expiry: Expiry(0),
            cas: Cas(0),
        }
    }

    async fn count(&mut self, place: Place, of: &Collection) {
        let now = self.now(place);
        let number = now.as_ref().map(|now| now.value.parse::<u64>());
        let refused = match number {
            None => Some(OperationError::KeyNotFound),
            Some(Err(_)) => Some(OperationError::DeltaBadValue),
            Some(Ok(_)) => None,
        };
        let new = now.zip(number.and_then(Result::ok)).map(|(now, number)| {
            let value = number.wrapping_add(7).to_string();
            Document { value, ..now }
        });
        let counted = of.increment(key(place), 7).await;
        self.wrote(place, counted, new, refused);
    }

    async fn lock(&mut self, place: Place, of: &Collection) {
        let (key, now) = (key(place), self.now(place));
        match of.get_and_lock(&key, 20).await {
            Ok(found) => {
                let now = now.expect("nothing was there");
                assert_eq!(found.value, now.value);
                self.world
                    .sleep(Duration::from_millis(self.pick(300)))
                    .await;
                assert_eq!(of.set(&key, "x").await, Err(OperationError::Locked));
                assert_eq!(of.get(&key).await.expect("it").meta.cas, Cas::LOCKED);
                of.unlock(&key, found.meta.cas).await.expect("its key");
            }
            Err(error) => {
                assert_eq!((error, now), (OperationError::KeyNotFound, None));
            }
        }
    }

    async fn pick_any(&self, collection: usize, of: &Collection) {
        let of_it = self.slots.iter().filter(|((one, _), _)| *one == collection);
        let mut live = of_it.filter_map(|(place, slot)| Some((key(*place), slot.now.clone()?)));
        match of.get_random().await {
            Ok(picked) => {
                let key = String::from_utf8(picked.key.key().to_vec()).expect("text");
                let expected = live.find(|(one, _)| *one == key);
                assert_eq!(expected, Some((key, Document::of(&picked.found))));
            }
            Err(error) => {
                assert_eq!((error, live.next()), (OperationError::KeyNotFound, None));
            }
        }
    }

    fn assert_found(&self, place: Place, found: Result<Found, OperationError>) {
        match (found, self.now(place)) {
            (Ok(found), Some(now)) => assert_eq!(Document::of(&found), now, "{place:?}"),
            (Err(OperationError::KeyNotFound), None) => {}
            (found, now) => panic!("{place:?}: {found:?} and not {now:?}"),
        }
    }

    /// All of it at once: counted, scanned, streamed.
    async fn compare(&mut self) {
        self.bucket.flush().await.expect("a flush");
        self.settle();
        let live = |collection: usize| {
            let slots = self.slots.iter();
            let of_it = slots.filter(move |((one, _), _)| *one == collection);
            let live = of_it.filter_map(|(place, slot)| {
                Some((key(*place).into_bytes(), slot.now.as_ref()?.value.clone()))
            });
            live.collect::<BTreeMap<_, _>>()
        };
        let counted = self.bucket.statistics().documents;
        let expected = live(0).len() + live(1).len();
        assert_eq!(usize::try_from(counted), Ok(expected));
        for collection in 0..COLLECTIONS.len() {
            let of = self.collection((collection, 0));
            let mut scan = of.scan(ScanRange::all()).open().expect("a scan");
            let mut scanned = BTreeMap::new();
            while let Some(one) = scan.next().await.expect("a document") {
                let value = one.value.expect("a value").to_vec();
                let value = String::from_utf8(value).expect("text");
                scanned.insert(one.key.key().to_vec(), value);
            }
            assert_eq!(scanned, live(collection));
        }
        assert_eq!(self.streamed().await, live(0));
    }

    /// What a stream of the default collection comes to.
    async fn streamed(&self) -> BTreeMap<Vec<u8>, String> {
        let options = ChangesOptions {
            until: Until::Now,
            ..ChangesOptions::default()
        };
        let mut changes = self.bucket.changes(options).await.expect("changes");
        let mut told = BTreeMap::new();
        while let Some(change) = changes.next().await {
            let (StreamEvent::Mutation(item) | StreamEvent::Deletion(item)) = change.event else {
                continue;
            };
            let document = &item.document;
            if document.key.collection() != CollectionId::DEFAULT {
                continue;
            }
            let key = document.key.key().to_vec();
            if item.operation.is_tombstone() {
                told.remove(&key);
            } else {
                let value = String::from_utf8(document.value.to_vec());
                told.insert(key, value.expect("text"));
            }
        }
        told
    }

    /// The collection ends, with all that is in it, and begins anew.
    async fn begin_anew(&mut self) {
        let bucket = self.bucket.clone();
        bucket
            .drop_collection("_default", "c")
            .await
            .expect("an end");
        bucket.create_collection("_default", "c").await.expect("it");
        self.slots.retain(|(collection, _), _| *collection == 0);
    }

    async fn live(&mut self) {
        for _ in 0..STEPS {
            self.step().await;
            if self.random.chance(300) {
                let time = Duration::from_millis(self.pick(400));
                self.world.sleep(time).await;
            }
            if self.random.chance(15) {
                self.compare().await;
            }
            if self.random.chance(10) {
                self.begin_anew().await;
            }
            if self.random.chance(10) {
                for vbucket in self.bucket.vbuckets() {
                    let compacted = self.bucket.compact(vbucket, CompactOptions::default());
                    compacted.await.expect("a compaction");
                }
            }
        }
    }

    /// It ends in one way or the other, and is opened again.
    async fn die(&mut self, eviction: Eviction) -> u64 {
        if self.random.chance(500) {
            self.bucket.flush().await.expect("a flush");
            self.settle();
        }
        let memory = self.bucket.memory();
        match self.pick(3) {
            0 => self.world.kill(),
            1 => self.world.cut_power(),
            _ => {
                self.bucket.clone().shutdown().await.expect("an end");
                self.settle();
            }
        }
        let opened = self.world.open(config(&self.world, eviction)).await;
        self.bucket = opened.expect("the bucket");
        for place in self.slots.keys().copied().collect::<Vec<_>>() {
            let of = self.collection(place);
            let found = match of.get(key(place)).await {
                Ok(found) => Some(Document::of(&found)),
                Err(error) => {
                    assert_eq!(error, OperationError::KeyNotFound);
                    None
                }
            };
            let slot = self.slots.entry(place).or_default();
            let was_there = slot.since.contains(&found);
            assert!(was_there, "{place:?}: {found:?} of {slot:?}");
            slot.now = found;
            slot.settle();
        }
        memory.evicted.min(memory.fetched)
    }
}

async fn scenario(world: World, eviction: Eviction) -> u64 {
    let bucket = world.create(config(&world, eviction)).await;
    let bucket = bucket.expect("a bucket");
    let created = bucket.create_collection("_default", "c").await;
    created.expect("a collection");
    let mut run = Run {
        random: world.random("client"),
        world,
        bucket,
        slots: BTreeMap::new(),
        written: 0,
    };
    let mut came_back = 0;
    for _ in 0..LIVES {
        run.live().await;
        came_back += run.die(eviction).await;
    }
    run.compare().await;
    run.bucket.shutdown().await.expect("an end");
    came_back
}

pub(crate) fn run(seed: u64, eviction: Eviction, plant: fn()) -> u64 {
    let settings = WorldSettings {
        latencies: Latencies::all(0..=3),
        ..WorldSettings::default()
    };
    let came_back = World::run_with(seed, &settings, |world| async move {
        plant();
        scenario(world, eviction).await
    });
    came_back.expect("a run that ends")
}

#[test]
fn it_answers_what_a_map_would() {
    for eviction in LEAVING {
        let came_back: u64 = (0..seeds()).map(|seed| run(seed, eviction, || {})).sum();
        println!("{eviction}: {came_back} left and came back");
        assert!(came_back > 20 * seeds(), "{came_back} came back");
    }
}
