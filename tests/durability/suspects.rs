//! A panic under a vbucket's lock, at any step, with durable writes under way, on any node: the vbucket is repaired, every write
//! is answered once, and what was committed is read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use piggin::Bucket;
use piggin::actors::vbucket::{ChangeStep, VbucketCore};
use piggin::messages::vbucket::{Set, Write, WriteOptions};
use piggin::messages::{Durability, OperationError, WriteDurably};
use piggin::storage::{Advice, CollectionId, DocumentKey};
use supervisor::testing::Random;

use crate::common::{LEVELS, PATIENCE, Three, caught_up, key, read, run, settled};

const CLIENTS: usize = 10;
const SEEDS: u64 = 40;
const PANICS: usize = 8;

/// Those of a durable write, and those around it.
const STEPS: [ChangeStep; 7] = [
    ChangeStep::OF_DURABLE[0],
    ChangeStep::OF_DURABLE[1],
    ChangeStep::OF_DURABLE[2],
    ChangeStep::OF_DURABLE[3],
    ChangeStep::OF_DURABLE[4],
    ChangeStep::OF_DURABLE[5],
    ChangeStep::Taken,
];

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    asked: u64,
    committed: u64,
}

#[derive(Debug, Default)]
struct Shared {
    known: RefCell<BTreeMap<usize, Known>>,
    is_over: RefCell<bool>,
}

/// Writes to its own key through the vbucket's actor: it is the actor that panics, not the caller.
async fn client(bucket: Bucket, number: usize, shared: Rc<Shared>) {
    let name = key(number);
    let vbucket = bucket.vbucket_of(name.as_bytes());
    let document = DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).expect("a key");
    let mut value = 0u64;
    while !*shared.is_over.borrow() {
        value += 1;
        let write = Write::Set(Set {
            key: document.clone(),
            value: value.to_string().into(),
            options: WriteOptions::default(),
        });
        shared.known.borrow_mut().entry(number).or_default().asked = value;
        let level = LEVELS[(number + usize::try_from(value).expect("few")) % LEVELS.len()];
        let durability = Durability::of(level);
        let address = bucket.vbucket(vbucket).expect("an address");
        let asked = address.send(WriteDurably { write, durability });
        match timeout(PATIENCE, asked)
            .await
            .expect("an answer")
            .expect("a mailbox")
        {
            Ok(_) => {
                let mut known = shared.known.borrow_mut();
                known.entry(number).or_default().committed = value;
            }
            Err(OperationError::Crashed { .. } | OperationError::ActorCrashed { .. }) => {}
            Err(error) => assert_eq!(error.advice(), Advice::RetryLater, "{error}"),
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Panics at one step after the other, each in some vbucket of some node; those that came.
async fn panics(three: &Three, random: &dyn Random, struck: &mut BTreeMap<String, u64>) {
    for _ in 0..PANICS {
        let draw = random.next_u64();
        let index = |of: usize, shift: u32| {
            let of = u64::try_from(of).expect("few");
            usize::try_from((draw >> shift) % of).expect("few")
        };
        let (node, step) = (index(3, 0), STEPS[index(STEPS.len(), 8)]);
        let bucket = &three.buckets[node];
        let vbuckets: Vec<_> = bucket.vbuckets().collect();
        let vbucket = vbuckets[index(vbuckets.len(), 16)];
        let core: Arc<VbucketCore> = bucket.vbucket_core(vbucket).expect("it");
        core.panic_at(step);
        sleep(Duration::from_millis(30)).await;
        let has_come = !core.disarm();
        let role = if node == 0 { "an active" } else { "a replica" };
        *struck.entry(format!("{step:?} of {role}")).or_default() += u64::from(has_come);
    }
}

fn in_world(seed: u64, struck: &mut BTreeMap<String, u64>) -> u64 {
    run(seed, async |worlds| {
        let three = Three::created(&worlds).await;
        let shared = Rc::<Shared>::default();
        let clients = (0..CLIENTS).map(|number| {
            let bucket = three.active().clone();
            actix::spawn(client(bucket, number, Rc::clone(&shared)))
        });
        let clients: Vec<_> = clients.collect();
        let random = worlds[0].random("panics");
        panics(&three, &*random, struck).await;
        *shared.is_over.borrow_mut() = true;
        for client in clients {
            let ended = timeout(PATIENCE, client).await;
            ended.expect("every write is answered").expect("no panic");
        }
        settled(three.active()).await;
        for follows in &three.follows {
            caught_up(follows).await;
        }
        for bucket in &three.buckets {
            settled(bucket).await;
        }
        let known = shared.known.borrow().clone();
        for (number, one) in &known {
            let value = read(three.active(), &key(*number)).await;
            let value: u64 = value.map_or(0, |value| value.parse().expect("a number"));
            assert!(
                one.committed <= value && value <= one.asked,
                "seed {seed}, client {number}: {value} is read, {one:?}"
            );
        }
        known.values().map(|one| one.committed).sum()
    })
}

#[test]
fn a_panic_under_the_lock_loses_no_durable_write() {
    let (mut struck, mut committed) = (BTreeMap::new(), 0);
    for seed in 0..SEEDS {
        committed += in_world(seed, &mut struck);
    }
    println!(
        "{SEEDS} worlds, {struck:?}, the last of each client's committed writes sum up to {committed}"
    );
    assert!(committed > 0);
    for step in STEPS {
        let active = format!("{step:?} of an active");
        assert!(
            struck.get(&active).is_some_and(|times| *times > 0),
            "{active}: {struck:?}"
        );
        // Nothing is taken from a client, nor decided, at a replica.
        if !matches!(step, ChangeStep::Locked) {
            let replica = format!("{step:?} of a replica");
            assert!(
                struck.get(&replica).is_some_and(|times| *times > 0),
                "{replica}: {struck:?}"
            );
        }
    }
}
