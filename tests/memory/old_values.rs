//! An old value never comes back, whoever writes, reads, and has documents leave memory at the same time: seed after seed, in
//! worlds where whatever can leave memory does.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_local};

use piggin::messages::OperationError;
use piggin::storage::{Eviction, MemoryMarks, OpenOptions};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::{Latencies, World, WorldSettings};

use crate::common::LEAVING;

/// So many worlds, or as many as the variable says.
const SEEDS: u64 = 60;
const SEEDS_VARIABLE: &str = "PIGGIN_SEEDS";
const KEYS: usize = 4;
const WRITES: u64 = 40;
const READERS: u64 = 3;
const COUNTERS: u64 = 3;
const COUNTS: u64 = 15;

fn config(world: &World, eviction: Eviction) -> BucketConfig {
    BucketConfig {
        eviction: Some(eviction),
        vbuckets: Some(2),
        actor_threads: Some(2),
        reader_threads: 2,
        memory_marks: MemoryMarks::ALL_LEAVES,
        // So that even a few bytes count.
        memory_quota_bytes: 1 << 20,
        store: OpenOptions {
            log_file_bytes_min: 64 << 10,
            log_file_bytes_max: 128 << 10,
            unsealed_bytes: 16 << 10,
            block_bytes: 4 << 10,
            is_stepped: true,
            ..OpenOptions::new(1)
        },
        ..world.config()
    }
}

/// A document that one client writes: each value is higher than the one before, and zero is none.
#[derive(Clone, Debug, Default)]
struct Register(Rc<RefCell<Known>>);

#[derive(Debug, Default)]
struct Known {
    acknowledged: u64,
    asked: u64,
}

/// Writes it again and again, deletes it now and then: a deletion is an odd value.
async fn write(world: World, bucket: Bucket, number: usize, register: Register) {
    let random = world.random(&format!("writer {number}"));
    let key = format!("key {number}");
    for value in 1..=WRITES {
        let value = 2 * value + u64::from(random.chance(150));
        register.0.borrow_mut().asked = value;
        let answer = if value.is_multiple_of(2) {
            bucket.set(&key, value.to_string()).await.map(drop)
        } else {
            match bucket.delete(&key).await {
                Err(OperationError::KeyNotFound) => Ok(()),
                answer => answer.map(drop),
            }
        };
        answer.expect("a write");
        register.0.borrow_mut().acknowledged = value;
        world.sleep(Duration::from_millis(random.below(100))).await;
    }
}

/// Reads them all the time: never what is older than what was acknowledged, or seen, before.
async fn read(world: World, bucket: Bucket, number: u64, registers: Vec<Register>) {
    let random = world.random(&format!("reader {number}"));
    let mut seen = vec![0; registers.len()];
    for _ in 0..2 * WRITES {
        let place = usize::try_from(random.below(registers.len() as u64)).expect("few");
        let least = registers[place].0.borrow().acknowledged.max(seen[place]);
        let mut getting = pin!(bucket.get(format!("key {place}")));
        let first = poll_fn(|context| Poll::Ready(getting.as_mut().poll(context))).await;
        let answer = match first {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                // One who is slow to take what was read for him.
                if random.chance(500) {
                    world.sleep(Duration::from_millis(random.below(800))).await;
                }
                getting.await
            }
        };
        let found = match answer {
            Ok(found) => {
                let text = String::from_utf8_lossy(&found.value);
                text.parse().expect("a number")
            }
            // Deleted, or not written yet: as new as an odd value, or the first there is.
            Err(OperationError::KeyNotFound) => {
                let asked = registers[place].0.borrow().asked;
                let is_even = least > 0 && least.is_multiple_of(2);
                assert!(!is_even || asked > least, "{least} of key {place} is gone");
                least
            }
            Err(error) => panic!("{error}"),
        };
        assert!(found >= least, "{found} behind {least} of key {place}");
        seen[place] = found;
        world.sleep(Duration::from_millis(random.below(40))).await;
    }
}

/// Several count one number.
async fn count(world: World, bucket: Bucket, number: u64) {
    let random = world.random(&format!("counter {number}"));
    for _ in 0..COUNTS {
        bucket
            .increment("counter", 1)
            .initial(1)
            .await
            .expect("a number");
        world.sleep(Duration::from_millis(random.below(150))).await;
    }
}

async fn check(world: World, eviction: Eviction) -> u64 {
    let bucket = world
        .create(config(&world, eviction))
        .await
        .expect("a bucket");
    let registers: Vec<Register> = (0..KEYS).map(|_| Register::default()).collect();
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    for (number, register) in registers.iter().enumerate() {
        let client = write(world.clone(), bucket.clone(), number, register.clone());
        clients.push(spawn_local(client));
    }
    for number in 0..READERS {
        let client = read(world.clone(), bucket.clone(), number, registers.clone());
        clients.push(spawn_local(client));
    }
    for number in 0..COUNTERS {
        clients.push(spawn_local(count(world.clone(), bucket.clone(), number)));
    }
    for client in clients {
        client.await.expect("a client that ends");
    }
    let counted = bucket.get("counter").await.expect("a counter").value;
    assert_eq!(counted, (COUNTERS * COUNTS).to_string());
    let memory = bucket.memory();
    bucket.shutdown().await.expect("an end");
    memory.evicted.min(memory.fetched)
}

pub(crate) fn seeds() -> u64 {
    let seeds = std::env::var(SEEDS_VARIABLE).ok();
    seeds.map_or(SEEDS, |seeds| seeds.parse().expect("a number"))
}

pub(crate) fn run(seed: u64, eviction: Eviction, plant: fn()) -> u64 {
    let settings = WorldSettings {
        latencies: Latencies::all(0..=3),
        ..WorldSettings::default()
    };
    World::run_with(seed, &settings, |world| async move {
        plant();
        check(world, eviction).await
    })
    .expect("a run that ends")
}

#[test]
fn no_old_value_comes_back() {
    for eviction in LEAVING {
        let evicted: u64 = (0..seeds()).map(|seed| run(seed, eviction, || {})).sum();
        assert!(
            evicted > 100 * seeds() / SEEDS,
            "{evicted} left and were read"
        );
    }
}
