//! Children panic in the middle of their work, or stall for a while, and a commit, or a stage of a compaction,
//! fails before the store sees it.
//!
//! Invariant: never so much of it that somebody goes out of service; no two of a life are the same, so that each can
//! be told by its text.

use std::time::Duration;

use piggin::messages::ChildName;
use piggin::messages::failure::CompactionStage;
use supervisor::testing::{Fault, SimulatedRandom, World};

/// One of each kind; what a name belongs to decides whether messages or steps are counted.
const CHILDREN: [&str; 10] = [
    "vbucket-0",
    "vbucket-1",
    "vbucket-2",
    "flusher-0",
    "flusher-1",
    "writer-0",
    "writer-1",
    "maintenance",
    "compaction-0",
    "compaction-1",
];

/// Of those that load the bucket; before it is opened.
pub(crate) fn plan_for_warmup(world: &World) {
    let random = world.random("child faults");
    if random.chance(300) {
        world.inject(Fault::PanicIn {
            child: ChildName::new("warmup-0"),
            nth: random.between(1..=12),
        });
    }
}

/// Of those that serve.
pub(crate) fn plan(world: &World) {
    let random = world.random("child faults");
    let panicking = child(&random);
    world.inject(Fault::PanicIn {
        child: panicking.clone(),
        nth: random.between(1..=30),
    });
    if random.chance(500) {
        let child = child(&random);
        if child != panicking {
            let time = Duration::from_millis(random.between(1..=8000));
            world.inject(Fault::Stall { child, time });
        }
    }
    if random.chance(300) {
        const STAGES: [CompactionStage; 5] = [
            CompactionStage::Start,
            CompactionStage::Prepare,
            CompactionStage::SystemEvent,
            CompactionStage::Merge,
            CompactionStage::Publish,
        ];
        let which = usize::try_from(random.below(5)).unwrap_or(0);
        world.inject(Fault::CompactionPass(STAGES[which]));
    }
    if random.chance(300) {
        world.inject(Fault::FlushCommit(random.between(1..=30)));
    }
}

fn child(random: &SimulatedRandom) -> ChildName {
    let which = usize::try_from(random.below(10)).unwrap_or(0);
    ChildName::new(CHILDREN[which])
}
