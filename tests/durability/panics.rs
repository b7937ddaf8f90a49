//! A crash of whoever drives durable writes, or carries them, costs no answer and no write.

use std::time::Duration;

use piggin::messages::{ChildName, FailureId, FailureKind, OperationError};
use piggin::storage::DurabilityLevel;
use supervisor::testing::{Fault, World};

use crate::common::{
    LEVELS, SOON, Three, answer, begin, caught_up, chain, created, key, read, run, settled,
};

/// Writes a hundred documents at once, and waits for every answer.
async fn written(three: &Three, value: &str) {
    let asked: Vec<_> = (0..100)
        .map(|number| {
            let level = LEVELS[number % LEVELS.len()];
            begin(three.active(), &key(number), value, level)
        })
        .collect();
    for (number, asked) in asked.into_iter().enumerate() {
        let answered = tokio::time::timeout(SOON, asked).await;
        let answered = answered.unwrap_or_else(|_| panic!("{value} {number} is not answered"));
        answered
            .expect("no panic")
            .unwrap_or_else(|error| panic!("{value} {number}: {error}"));
    }
}

#[test]
fn a_driver_that_panics_loses_nothing() {
    for nth in 1..20 {
        run(nth, async |worlds| {
            let three = Three::created(&worlds).await;
            written(&three, "first").await;
            for number in 0..2 {
                let child = ChildName::new(format!("durability-{number}"));
                worlds[0].inject(Fault::PanicIn { child, nth });
            }
            for round in 0..10 {
                written(&three, &format!("round {round}")).await;
            }
            assert_eq!(worlds[0].faults_waiting(), 0, "it struck");
            settled(three.active()).await;
            for number in 0..100 {
                let value = read(three.active(), &key(number)).await;
                assert_eq!(value.as_deref(), Some("round 9"));
            }
            let failures = three.active().failures(FailureId(0)).failures;
            let kinds: Vec<_> = failures.iter().map(|failure| failure.kind).collect();
            assert_eq!(kinds, [FailureKind::ChildPanicked; 2], "{failures:?}");
        });
    }
}

#[test]
fn children_of_any_node_may_panic() {
    let children = [
        "producer-0",
        "producer-1",
        "consumer-0",
        "consumer-1",
        "durability-1",
        "flusher-0",
        "writer-0",
        "reader-0",
        "maintenance",
    ];
    for seed in 0..10u64 {
        run(seed, async |worlds| {
            let three = Three::created(&worlds).await;
            for (number, child) in children.iter().enumerate() {
                for world in &worlds {
                    let child = ChildName::new(*child);
                    let nth = seed + 1;
                    world.inject(Fault::PanicIn { child, nth });
                }
                written(&three, &format!("round {number}")).await;
            }
            let struck = worlds.iter().flat_map(World::faults_struck).count();
            assert!(struck > 0, "seed {seed}: no child panicked");
            for world in &worlds {
                world.clear_faults();
            }
            settled(three.active()).await;
            for follows in &three.follows {
                caught_up(follows).await;
            }
            for bucket in &three.buckets {
                settled(bucket).await;
            }
        });
    }
}

/// A deadline that passes while nobody drives is noticed by the next life.
#[test]
fn a_deadline_outlives_its_driver() {
    run(1, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a", "b"]);
        let asked = {
            let active = active.clone();
            actix::spawn(async move {
                let write = active.set("k", "v").durability(DurabilityLevel::Majority);
                write.durability_timeout(Duration::from_secs(5)).await
            })
        };
        worlds[0].sleep(Duration::from_secs(1)).await;
        for number in 0..2 {
            let child = ChildName::new(format!("durability-{number}"));
            active.restart(&child).expect("a restart");
        }
        let answered = tokio::time::timeout(SOON, asked).await.expect("an answer");
        let ambiguous = OperationError::SyncWriteAmbiguous;
        assert_eq!(answered.expect("no panic"), Err(ambiguous));
        settled(&active).await;
    });
}

/// Where nobody decides, nobody is left to wait.
#[test]
fn a_driver_that_is_given_up_answers_whoever_waits() {
    run(2, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a", "b"]);
        let asked: Vec<_> = (0..20)
            .map(|number| begin(&active, &key(number), "v", DurabilityLevel::Majority))
            .collect();
        worlds[0].sleep(Duration::from_millis(1)).await;
        let drivers = [0, 1].map(|number| ChildName::new(format!("durability-{number}")));
        for child in &drivers {
            for _ in 0..3 {
                let child = child.clone();
                worlds[0].inject(Fault::PanicIn { child, nth: 1 });
            }
        }
        // Each is due before all others, which its driver is told.
        let sooner: Vec<_> = (0..8)
            .map(|number| {
                let active = active.clone();
                let timeout = Duration::from_secs(20 - number);
                actix::spawn(async move {
                    let write = active.set(format!("sooner {number}"), "v");
                    let write = write.durability(DurabilityLevel::Majority);
                    write.durability_timeout(timeout).await
                })
            })
            .collect();
        worlds[0].sleep(Duration::from_secs(5)).await;
        assert_eq!(worlds[0].faults_waiting(), 0, "all of them struck");
        let asked = asked.into_iter().chain(sooner);
        for asked in asked {
            let ambiguous = Err(OperationError::SyncWriteAmbiguous);
            assert_eq!(answer(asked).await, ambiguous);
        }
        let refused = active
            .set("other", "v")
            .durability(DurabilityLevel::Majority)
            .await;
        assert!(
            matches!(refused, Err(OperationError::ActorDown { .. })),
            "{refused:?}"
        );
        active.set("other", "v").await.expect("a plain write");
        worlds[0].clear_faults();
        for child in &drivers {
            active.restart(child).expect("a restart");
        }
        chain(&active, ["a"]);
        settled(&active).await;
        for number in 0..20 {
            assert_eq!(read(&active, &key(number)).await.as_deref(), Some("v"));
        }
        let counts = active.statistics().durability.counts;
        assert_eq!(
            (counts.accepted, counts.committed, counts.aborted),
            (28, 28, 0)
        );
    });
}
