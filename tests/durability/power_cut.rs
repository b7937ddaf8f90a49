//! All machines lose their power at once: what was acknowledged as on the disks of a majority is on one that is left; what was
//! acknowledged as in the memory of a majority need not be.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use piggin::Bucket;
use piggin::messages::OperationError;
use piggin::storage::{Advice, DurabilityLevel};
use supervisor::testing::{Random, World};

use crate::common::{PATIENCE, Three, chain, key, opened, read, replicate, run, settled};
use crate::failover::fail_over;

const CLIENTS: usize = 10;

type Acknowledged = Rc<RefCell<BTreeMap<usize, u64>>>;

async fn client(bucket: Bucket, number: usize, level: DurabilityLevel, known: Acknowledged) {
    for value in 1u64.. {
        match bucket
            .set(key(number), value.to_string())
            .durability(level)
            .await
        {
            Ok(_) => drop(known.borrow_mut().insert(number, value)),
            Err(OperationError::Closed) => return,
            Err(error) => assert_eq!(error.advice(), Advice::RetryLater, "{error}"),
        }
        sleep(Duration::from_micros(500)).await;
    }
}

/// Those who read what is now in the place of what they were told is there, and how much was acknowledged.
fn lost(seed: u64, level: DurabilityLevel) -> (usize, u64) {
    run(seed, async |worlds| {
        let Three { buckets, follows } = Three::created(&worlds).await;
        let known = Acknowledged::default();
        let clients = (0..CLIENTS).map(|number| {
            let (bucket, known) = (buckets[0].clone(), Rc::clone(&known));
            actix::spawn(client(bucket, number, level, known))
        });
        let clients: Vec<_> = clients.collect();
        let draw = worlds[0].random("the cut").next_u64();
        sleep(Duration::from_micros(20_000 + draw % 40_000)).await;
        worlds.iter().for_each(World::cut_power);
        for client in clients {
            let ended = timeout(PATIENCE, client).await;
            ended.expect("every write is answered").expect("no panic");
        }
        drop((buckets, follows));
        let (b, c) = (opened(&worlds[1], "b").await, opened(&worlds[2], "c").await);
        let left = [b, c];
        // The active one comes back as well, or not.
        let (mut first, mut follows) = (None, Vec::new());
        let mut leaders = BTreeMap::new();
        if seed.is_multiple_of(2) {
            let a = opened(&worlds[0], "a").await;
            chain(&a, ["a", "b", "c"]);
            follows.extend(left.iter().map(|next| replicate(&a, next)));
            first = Some(a);
        } else {
            leaders = fail_over(&left).await;
            for (vbucket, leader) in &leaders {
                let (next, other) = (&left[*leader], &left[1 - leader]);
                follows.push(next.replicate([*vbucket], other).expect("it follows"));
            }
        }
        let known = known.borrow().clone();
        let mut lost = 0;
        for (number, acknowledged) in &known {
            let name = key(*number);
            let leads = || &left[leaders[&left[0].vbucket_of(name.as_bytes())]];
            let leader = first.as_ref().unwrap_or_else(leads);
            let value = read(leader, &name).await;
            let value: u64 = value.map_or(0, |value| value.parse().expect("a number"));
            lost += usize::from(value < *acknowledged);
        }
        for bucket in left.iter().chain(&first) {
            settled(bucket).await;
        }
        drop(follows);
        (lost, known.values().sum())
    })
}

#[test]
fn what_is_on_the_disks_of_a_majority_outlives_the_loss_of_all_power() {
    let mut sum = 0;
    for seed in 0..40 {
        let (lost, acknowledged) = lost(seed, DurabilityLevel::PersistToMajority);
        assert_eq!(lost, 0, "seed {seed}");
        sum += acknowledged;
    }
    assert!(sum > 0);
}

/// So the test above can fail.
#[test]
fn what_is_in_memory_only_need_not() {
    let lost = (0..10).map(|seed| lost(seed, DurabilityLevel::Majority).0);
    assert!(lost.sum::<usize>() > 0);
}
