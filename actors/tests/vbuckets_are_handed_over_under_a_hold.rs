//! A vbucket that is handed over: what its disk is known to have, who ends a hold, and who may become active by it.
#![cfg(test)]

mod support;

use std::time::Duration;

use messages::OperationError;
use messages::vbucket::Write;
use piggin_actors::environment::Clock;
use piggin_actors::vbucket::VbucketCore;
use storage::{Seqno, VbucketState};
use support::durable::{
    acknowledge, answer, chain, follower, from_memory, leader, mutation, prepare,
};
use support::{active, become_state, set};

const LONG: Duration = Duration::from_secs(15);

fn taken(core: &VbucketCore) -> Option<Seqno> {
    let take = core.take_for_flush(9, usize::MAX)?;
    Some(take.watermarks.high_seqno)
}

#[test]
fn only_the_answer_to_a_batch_without_items_says_that_it_is_there() {
    let bench = active();
    let core = &bench.core;
    core.write(Write::Set(set("k", "v"))).unwrap();
    let high = taken(core).unwrap();
    core.note_persisted(high);
    become_state(core, VbucketState::Dead);
    assert_eq!(taken(core), Some(high));
    // Where the store stands is the same with and without it.
    core.resync(high);
    assert_eq!(core.is_stored_as(VbucketState::Dead), Ok(false));
    assert_eq!(taken(core), Some(high), "it is written anew");
    core.note_persisted(high);
    assert_eq!(core.is_stored_as(VbucketState::Dead), Ok(true));
    let other = core.is_stored_as(VbucketState::Active);
    assert!(matches!(other, Err(OperationError::NotMyVbucket { .. })));
}

#[test]
fn nobody_holds_writes_where_nobody_would_end_that() {
    let bench = active();
    let core = &bench.core;
    let hold = core.hold_for(LONG).unwrap();
    core.stop_durability(OperationError::Closed);
    assert!(!core.is_held(hold));
    core.write(Write::Set(set("k", "v"))).unwrap();
    assert_eq!(core.hold_for(LONG).err(), Some(OperationError::Closed));
    core.resume_durability();
    core.hold_for(LONG).unwrap();
}

#[test]
fn who_waits_too_long_under_a_hold_is_told_so() {
    let bench = leader(&["a", "b"]);
    let core = &bench.core;
    let mut wait = prepare(core, "k", "v");
    let now = bench.clock.monotonic();
    let hold = core.hold_for(Duration::from_secs(600)).unwrap();
    let progress = core.do_durability(now, 9);
    let overdue = progress.next_tick.unwrap();
    assert!(overdue < now.saturating_add(Duration::from_secs(600)));
    assert_eq!(answer(&mut wait), None);
    assert!(!core.do_durability(overdue, 9).has_more);
    assert_eq!(
        answer(&mut wait),
        Some(Err(OperationError::SyncWriteAmbiguous))
    );
    // Nothing was decided.
    core.let_go_of(hold);
    acknowledge(core, "b", 1);
    assert!(!core.do_durability(now, 9).has_more);
    assert_eq!(core.high_seqno(), Seqno(2));
}

/// Whoever feeds a vbucket that is to arrive, it is over for them; and who begins behind that shows.
#[test]
fn nothing_is_applied_to_what_stands_still() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    from_memory(core, epoch, &[mutation(1, "a")]);
    become_state(core, VbucketState::Pending);
    let still = core.stand_still().unwrap();
    let late = core.apply_item(epoch, mutation(2, "b"));
    assert_eq!(late, Err(OperationError::StaleStream));
    let alone = chain(&["a"]);
    core.begin_stream().unwrap();
    let fed = core.arrive(still, Seqno(1), &alone);
    assert!(
        matches!(fed, Err(OperationError::BadReplication(_))),
        "{fed:?}"
    );
    let still = core.stand_still().unwrap();
    core.arrive(still, Seqno(1), &alone).unwrap();
    assert_eq!(core.state(), VbucketState::Active);
}
