//! Whatever befalls a vbucket while it is compacted, at whichever step: whoever asked is told once, and told the truth; what
//! the vbucket holds is what a model says, its counts are those of a full scan, also after it was opened again; and a
//! snapshot that was taken before still reads what it read.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;

use piggin::messages::failure::CompactionStage as Stage;
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{CompactError, DownCause, FailureId, OperationError};
use piggin::storage::{
    AbortReason, Compacted, Item, KvStore, LogStore, Namespace, Outcome, RolledBack, Seqno,
    SeqnoRange, Snapshot, SystemEvent, VbucketState,
};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::{HoldPoint, World};

use crate::seeds::past::{self, PLAIN, VBUCKET};
use crate::support::evicting::Evictions;

const STAGES: [Stage; 6] = [
    Stage::Start,
    Stage::Collection,
    Stage::Prepare,
    Stage::SystemEvent,
    Stage::Merge,
    Stage::Publish,
];

/// What left memory.
static LEFT: Evictions = Evictions::none();

/// What befalls the vbucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    RolledBack,
    Deleted,
    ShutDown,
    /// A collection is dropped,
    Dropped,
    /// and another of its name made.
    Recreated,
    Replica,
    Dead,
}

/// Documents by collection and key.
type Model = BTreeMap<(&'static str, &'static str), &'static str>;

const DEFAULT: &str = "_default";
const LIVE: &str = "live";

/// A vbucket with a past, on which nothing was done yet.
struct Case {
    bucket: Bucket,
    /// What it holds.
    model: Model,
    /// What it held at that seqno.
    before: (Seqno, Model),
}

fn config(world: &World) -> BucketConfig {
    past::config(world)
}

async fn put(
    bucket: &Bucket,
    model: &mut Model,
    collection: &'static str,
    key: &'static str,
    value: &'static str,
) {
    let of = bucket.collection(DEFAULT, collection).expect("it is open");
    let written = of.set(key, value).persisted().await;
    written.expect("a write");
    model.insert((collection, key), value);
}

impl Case {
    async fn made(world: &World) -> Case {
        past::write(world);
        let bucket = world.open(config(world)).await.expect("a bucket");
        let created = bucket.create_collection(DEFAULT, LIVE).await;
        created.expect("a collection");
        let mut model: Model = ["a", "b", "d"]
            .into_iter()
            .map(|key| ((DEFAULT, key), key))
            .collect();
        model.insert((DEFAULT, "committed"), "prepared");
        for key in ["k", "l", "m"] {
            put(&bucket, &mut model, LIVE, key, "live").await;
        }
        let core = bucket.vbucket_core(VBUCKET).expect("it");
        let before = (core.high_seqno(), model.clone());
        put(&bucket, &mut model, DEFAULT, "later", "1").await;
        put(&bucket, &mut model, LIVE, "later", "2").await;
        Case {
            bucket,
            model,
            before,
        }
    }

    async fn become_it(&self, state: VbucketState) {
        let change = SetVbucketState {
            state,
            topology: None,
            is_takeover: false,
        };
        let actor = self.bucket.vbucket(VBUCKET).expect("it");
        let changed = actor.send(change).await.expect("it lives");
        changed.expect("a change");
    }

    async fn befall(&mut self, event: Event) {
        match event {
            Event::RolledBack => self.roll_back().await,
            Event::Deleted => {
                let lease = self.bucket.store_handle().lease().expect("the store");
                lease.store().delete_vbucket(VBUCKET).expect("a deletion");
                let cause = DownCause::Escalated("deleted".to_owned());
                let core = self.bucket.vbucket_core(VBUCKET).expect("it");
                core.take_down(cause);
                self.model.clear();
            }
            // Told to the bucket by whoever waits for the answer.
            Event::ShutDown => {}
            Event::Dropped => self.drop_live().await,
            Event::Recreated => {
                self.drop_live().await;
                let created = self.bucket.create_collection(DEFAULT, LIVE).await;
                created.expect("a collection");
                put(&self.bucket, &mut self.model, LIVE, "k", "second").await;
            }
            Event::Replica => self.become_it(VbucketState::Replica).await,
            Event::Dead => self.become_it(VbucketState::Dead).await,
        }
    }

    async fn drop_live(&mut self) {
        let dropped = self.bucket.drop_collection(DEFAULT, LIVE).await;
        dropped.expect("a drop");
        self.model.retain(|(collection, _), _| *collection != LIVE);
    }

    /// As a replica is rolled back whose source knows less.
    async fn roll_back(&mut self) {
        self.become_it(VbucketState::Replica).await;
        self.bucket.flush().await.expect("a flush");
        let (to, model) = self.before.clone();
        let lease = self.bucket.store_handle().lease().expect("the store");
        let store = lease.store();
        let rolled_back = store.rollback(VBUCKET, to);
        assert!(
            matches!(rolled_back, Outcome::Complete(RolledBack::To { seqno, .. }) if seqno == to),
            "{rolled_back:?}"
        );
        let core = self.bucket.vbucket_core(VBUCKET).expect("it");
        core.reset(&store.state(VBUCKET).expect("its state"));
        let (mut events, mut documents) = (Vec::new(), Vec::new());
        for (namespace, item) in read(&*store.snapshot(VBUCKET).expect("a snapshot")) {
            match namespace {
                Namespace::SystemEvent => {
                    let event = SystemEvent::of(&item).expect("an event");
                    events.push((item.seqno, event));
                }
                Namespace::Committed => documents.push(item),
                Namespace::Prepared => {}
            }
        }
        core.warm_collections(events);
        for item in documents {
            core.warm_insert(item.into());
        }
        core.warm_done();
        self.model = model;
    }
}

/// Everything a snapshot shows.
fn read(snapshot: &dyn Snapshot) -> Vec<(Namespace, Item)> {
    let mut items = Vec::new();
    let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
    let end = loop {
        let outcome = scan.step(1 << 20, &mut |view| {
            let item = view.to_item(Bytes::copy_from_slice(view.value));
            items.push((view.namespace(), item.expect("a key")));
            ControlFlow::Continue(())
        });
        if !matches!(outcome, Outcome::Yielded) {
            break outcome;
        }
    };
    assert!(matches!(end, Outcome::Complete(_)), "{end:?}");
    items
}

fn seen(store: &LogStore) -> (Box<dyn Snapshot>, Vec<(Namespace, Item)>) {
    let snapshot = store.snapshot(VBUCKET).expect("a snapshot");
    let items = read(&*snapshot);
    (snapshot, items)
}

/// What whoever asked is told.
fn expected(event: Event, (stage, behind): (Stage, usize)) -> Result<(), CompactError> {
    let aborted = |reason| Err(CompactError::Aborted(reason));
    match event {
        // Before it read anything there is nothing to abort for that.
        Event::RolledBack if (stage, behind) == (Stage::Start, 0) => Ok(()),
        Event::RolledBack => aborted(AbortReason::RolledBack),
        Event::Deleted => aborted(AbortReason::Deleted),
        Event::ShutDown => aborted(AbortReason::ShuttingDown),
        Event::Dropped | Event::Recreated | Event::Replica | Event::Dead => Ok(()),
    }
}

/// What is found of every key there ever was.
async fn check(bucket: &Bucket, model: &Model, context: &str) {
    let keys = ["a", "b", "c", "d", "committed", "k", "l", "m", "later"];
    for collection in [DEFAULT, LIVE] {
        for key in keys {
            let found = match bucket.collection(DEFAULT, collection) {
                Ok(of) => of.get(key).await.map(|found| found.value),
                Err(error) => Err(error),
            };
            let wanted = model.get(&(collection, key)).copied();
            match (found, wanted) {
                (Ok(value), Some(wanted)) => assert_eq!(value, wanted, "{context}: {key}"),
                (
                    Err(OperationError::KeyNotFound | OperationError::UnknownCollection { .. }),
                    None,
                ) => {}
                other => panic!("{context}: {collection} {key}: {other:?}"),
            }
        }
    }
    let documents = bucket.statistics().documents;
    assert_eq!(documents, model.len() as u64, "{context}: as counted");
}

/// The run came to one end, and nothing failed.
fn assert_told_once(bucket: &Bucket, answer: &Result<Compacted, CompactError>, context: &str) {
    let figures = bucket.statistics().compaction;
    let ended = (figures.completed, figures.aborted, figures.failed);
    let aborted = u64::from(answer.is_err());
    assert_eq!(ended, (1 - aborted, aborted, 0), "{context}");
    assert_eq!(bucket.compactions(), [], "{context}");
    let failures = bucket.failures(FailureId(0)).failures;
    assert_eq!(failures, [], "{context}");
}

/// At the step behind so many of that stage; whether there is one.
async fn run_case(world: World, event: Event, step: (Stage, usize)) -> bool {
    let (stage, behind) = step;
    let context = format!("{event:?} at {stage:?}, behind {behind}");
    let mut case = Case::made(&world).await;
    let place = HoldPoint {
        vbucket: VBUCKET,
        stage,
    };
    let hold = world.hold_behind(place, behind);
    let asked = case.bucket.clone();
    let asked = actix::spawn(async move { asked.compact(VBUCKET, PLAIN).await });
    while !hold.is_reached() {
        if asked.is_finished() {
            case.bucket.shutdown().await.expect("an orderly end");
            return false;
        }
        world.sleep(Duration::from_micros(100)).await;
    }
    if event == Event::ShutDown {
        let other = case.bucket.clone();
        let ended = case.bucket.shutdown().await;
        ended.expect("an orderly end");
        let answer = asked.await.expect("no panic");
        hold.release();
        assert_eq!(answer.clone().map(drop), expected(event, step), "{context}");
        assert_told_once(&other, &answer, &context);
    } else {
        let lease = case.bucket.store_handle().lease().expect("the store");
        let (snapshot, then) = seen(lease.store());
        case.befall(event).await;
        assert!(!asked.is_finished(), "{context}: it is held");
        hold.release();
        let answer = asked.await.expect("no panic");
        assert_eq!(answer.clone().map(drop), expected(event, step), "{context}");
        assert_told_once(&case.bucket, &answer, &context);
        assert_eq!(read(&*snapshot), then, "{context}: the snapshot");
        drop(snapshot);
        drop(lease);
        if !matches!(event, Event::Deleted) {
            case.become_it(VbucketState::Active).await;
            check(&case.bucket, &case.model, &context).await;
        }
        LEFT.note(&case.bucket);
        case.bucket.shutdown().await.expect("an orderly end");
    }
    if event == Event::Deleted {
        let store = past::opened(&world);
        assert_eq!(store.verify().faults, [], "{context}");
        assert_eq!(store.vbuckets(), [], "{context}");
        return true;
    }
    // Counts are those of a scan, and the store is sound.
    past::held(&world);
    let bucket = world.open(config(&world)).await.expect("the bucket");
    check(&bucket, &case.model, &context).await;
    // And what is left to be done, the next one does.
    let compacted = bucket.compact(VBUCKET, PLAIN).await;
    compacted.expect("a compaction");
    check(&bucket, &case.model, &context).await;
    LEFT.note(&bucket);
    bucket.shutdown().await.expect("an orderly end");
    assert_eq!(past::held(&world).dropped, [], "{context}");
    true
}

fn at_every_step(event: Event) {
    let mut steps = 0u64;
    for stage in STAGES {
        for behind in 0.. {
            let ended = World::run_with(42, &LEFT.settings_of(steps), |world| {
                run_case(world, event, (stage, behind))
            });
            let is_there =
                ended.unwrap_or_else(|error| panic!("{event:?} at {stage:?}, {behind}: {error}"));
            if !is_there {
                assert!(behind > 0, "{stage:?} has steps");
                break;
            }
            steps += 1;
        }
    }
    assert!(steps > STAGES.len() as u64 + 5, "{steps} steps");
    LEFT.assert_some();
}

#[test]
fn mb_68561_a_rollback_at_every_step() {
    at_every_step(Event::RolledBack);
}

#[test]
fn a_deletion_at_every_step() {
    at_every_step(Event::Deleted);
}

#[test]
fn a_shutdown_at_every_step() {
    at_every_step(Event::ShutDown);
}

#[test]
fn mb_42652_a_drop_at_every_step() {
    at_every_step(Event::Dropped);
}

#[test]
fn mb_49472_a_second_life_of_a_collection_at_every_step() {
    at_every_step(Event::Recreated);
}

#[test]
fn a_change_of_state_at_every_step() {
    at_every_step(Event::Replica);
    at_every_step(Event::Dead);
}
