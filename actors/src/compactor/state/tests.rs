//! The machine by itself: merging, limits, retries, cancels, the end, and in any order that no waiter is forgotten.

mod any_order;
mod crashes;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use storage::StorageError;

const NOW: Duration = Duration::from_secs(10);

fn id(number: u16) -> VbucketId {
    VbucketId::new(number).unwrap()
}

fn machine(running_max: usize) -> CompactorState {
    CompactorState::new(CompactorLimits {
        running_max,
        waiters_max: 100,
        backoff: Backoff::DISK,
    })
}

fn purge(drop_deletes: bool, purge_before_s: u32) -> Purge {
    Purge {
        drop_deletes,
        purge_before_s,
    }
}

fn taken(state: &mut CompactorState, now: Duration) -> Assignment {
    match state.take(now) {
        Taken::Run(assignment) => assignment,
        other @ (Taken::Later(_) | Taken::Nothing) => panic!("{other:?}"),
    }
}

type Answer = (u64, Result<Compacted, CompactError>);

fn answers(state: &mut CompactorState) -> Vec<Answer> {
    let effects = state.take_effects().into_iter();
    let answers = effects.filter_map(|effect| match effect {
        Effect::Answer(waiter, answer) => Some((waiter.0, answer)),
        Effect::WakeWorkers => None,
    });
    answers.collect()
}

fn complete() -> RunEnd {
    RunEnd::Complete(Compacted::default())
}

fn broken() -> RunEnd {
    RunEnd::Failed {
        stage: CompactionStage::Merge,
        cause: StorageError::Closed.into(),
        published: None,
    }
}

fn ok(waiter: u64) -> Answer {
    (waiter, Ok(Compacted::default()))
}

fn aborted(waiter: u64, reason: AbortReason) -> Answer {
    (waiter, Err(CompactError::Aborted(reason)))
}

#[test]
fn requests_that_wait_are_one_run_and_every_waiter_is_answered() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(7), purge(false, 50));
    state.request(WaiterId(2), id(7), purge(true, 20));
    state.want(id(7), purge(false, 30));
    let run = taken(&mut state, NOW);
    // Nothing was read yet.
    state.request(WaiterId(3), id(7), purge(false, 40));
    assert_eq!(state.begun(run), Some(purge(true, 50).into()));
    assert_eq!(state.take(NOW), Taken::Nothing);
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(1), ok(2), ok(3)]);
    assert_eq!(state.take(NOW), Taken::Nothing);
    assert!(state.statuses().is_empty());
}

#[test]
fn only_the_newest_are_merged_when_nobody_wants_more() {
    let mut state = machine(4);
    state.want(id(7), Work::MergeNewest);
    state.want(id(7), Work::MergeNewest);
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(Work::MergeNewest));
    // It has begun: whoever asks now wants another.
    state.request(WaiterId(1), id(7), Purge::default());
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), []);
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(Purge::default().into()));
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(1)]);
    // In whatever order they come.
    for newest_comes_first in [true, false] {
        let wants = |state: &mut CompactorState| state.want(id(7), Work::MergeNewest);
        if newest_comes_first {
            wants(&mut state);
        }
        state.want(id(7), purge(false, 30));
        if !newest_comes_first {
            wants(&mut state);
        }
        let run = taken(&mut state, NOW);
        assert_eq!(state.begun(run), Some(purge(false, 30).into()));
        state.settle(run, complete(), NOW);
    }
    // One that failed is tried again as the engine wanted it.
    state.want(id(7), Work::MergeNewest);
    state.request(WaiterId(2), id(7), purge(true, 9));
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(purge(true, 9).into()));
    let at = state.note_failure(run, NOW, 0).expect("a retry");
    state.settle(run, broken(), NOW);
    let run = taken(&mut state, at);
    assert_eq!(state.begun(run), Some(Work::MergeNewest));
}

#[test]
fn a_request_while_one_runs_gets_one_more_run() {
    let mut state = machine(4);
    state.request(WaiterId(1), id(7), purge(false, 0));
    let run = taken(&mut state, NOW);
    assert!(state.begun(run).is_some());
    for waiter in 2..5 {
        state.request(WaiterId(waiter), id(7), purge(waiter == 3, 0));
    }
    // The engine looks again when that is over.
    state.want(id(7), purge(false, 0));
    assert_eq!(
        state.take(NOW),
        Taken::Nothing,
        "one run of a vbucket at a time"
    );
    assert_eq!(state.figures().pending, 2);
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(1)]);
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(purge(true, 0).into()));
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(2), ok(3), ok(4)]);
    assert_eq!(state.take(NOW), Taken::Nothing);
}

#[test]
fn mb_50941_all_complete_and_never_more_run_than_the_limit() {
    for limit in 1..5usize {
        let mut state = machine(limit);
        for number in 0..20 {
            state.request(WaiterId(u64::from(number)), id(number), Purge::default());
        }
        let (mut running, mut answered) = (Vec::new(), BTreeSet::new());
        while answered.len() < 20 {
            while let Taken::Run(run) = state.take(NOW) {
                running.push(run);
                assert!(running.len() <= limit);
            }
            assert_eq!(running.len(), limit.min(20 - answered.len()), "none sleeps");
            let run = running.remove(running.len() / 2);
            state.settle(run, complete(), NOW);
            answered.extend(answers(&mut state).into_iter().map(|(waiter, _)| waiter));
        }
        assert_eq!(answered.len(), 20);
    }
}

#[test]
fn the_limit_can_change_while_compactions_run() {
    let mut state = machine(3);
    for number in 0..6 {
        state.want(id(number), Purge::default());
    }
    let runs: Vec<_> = (0..3).map(|_| taken(&mut state, NOW)).collect();
    assert_eq!(state.set_limit(0), 1);
    state.settle(runs[0], complete(), NOW);
    state.settle(runs[1], complete(), NOW);
    assert_eq!(state.take(NOW), Taken::Nothing);
    state.settle(runs[2], complete(), NOW);
    taken(&mut state, NOW);
    assert_eq!(state.take(NOW), Taken::Nothing);
    state.set_limit(2);
    taken(&mut state, NOW);
}

#[test]
fn what_somebody_waits_for_comes_first_in_order() {
    let mut state = machine(9);
    state.want(id(1), Purge::default());
    state.request(WaiterId(1), id(5), Purge::default());
    state.request(WaiterId(2), id(3), Purge::default());
    let order: Vec<u16> = (0..3)
        .map(|_| taken(&mut state, NOW).vbucket.get())
        .collect();
    assert_eq!(order, [5, 3, 1]);
}

#[test]
fn the_engine_tries_again_later_each_time_and_whoever_asked_is_told() {
    let mut state = machine(1);
    state.want(id(2), Purge::default());
    state.request(WaiterId(1), id(2), Purge::default());
    let mut now = NOW;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let run = taken(&mut state, now);
        let at = state.note_failure(run, now, 0).expect("a retry");
        state.settle(run, broken(), now);
        assert_eq!(state.take(now), Taken::Later(at));
        waits.push(at.saturating_sub(now));
        now = at;
    }
    assert_eq!(
        answers(&mut state).len(),
        1,
        "told once, at the first failure"
    );
    assert!(
        waits.is_sorted() && waits[11] >= Duration::from_secs(5),
        "{waits:?}"
    );
    // An operator need not wait for that, and what he asked for is not repeated.
    state.request(WaiterId(2), id(2), Purge::default());
    let run = taken(&mut state, now);
    state.settle(run, complete(), now);
    assert_eq!(answers(&mut state), [ok(2)]);
    assert_eq!(state.take(now), Taken::Nothing, "it is well again");
    state.request(WaiterId(3), id(2), Purge::default());
    let run = taken(&mut state, now);
    assert_eq!(state.note_failure(run, now, 0), None);
    state.settle(run, broken(), now);
    let [(3, Err(CompactError::Failed { .. }))] = answers(&mut state)[..] else {
        panic!("not told");
    };
    assert_eq!(state.take(now), Taken::Nothing);
    assert_eq!(state.figures().failed, 13);
    assert_eq!(state.figures().aborted, 0);
}

#[test]
fn what_a_user_let_go_is_not_let_go_by_the_engine_that_tries_again() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(2), purge(true, 90));
    state.want(id(2), purge(false, 30));
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(purge(true, 90).into()));
    let at = state.note_failure(run, NOW, 0).expect("a retry");
    state.settle(run, broken(), NOW);
    let run = taken(&mut state, at);
    assert_eq!(state.begun(run), Some(purge(false, 30).into()));
}

#[test]
fn aborted_is_not_failed_and_is_not_repeated() {
    let mut state = machine(1);
    state.want(id(2), Purge::default());
    state.request(WaiterId(1), id(2), Purge::default());
    let run = taken(&mut state, NOW);
    state.settle(run, RunEnd::Aborted(AbortReason::RolledBack), NOW);
    assert_eq!(answers(&mut state), [aborted(1, AbortReason::RolledBack)]);
    assert_eq!(state.take(NOW), Taken::Nothing);
    let figures = state.figures();
    assert_eq!((figures.aborted, figures.failed), (1, 0));
}

#[test]
fn a_run_that_finds_another_at_work_waits_for_it() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(2), Purge::default());
    let run = taken(&mut state, NOW);
    state.settle(run, RunEnd::Aborted(AbortReason::Superseded), NOW);
    assert!(answers(&mut state).is_empty());
    let at = NOW + BUSY_REST;
    assert_eq!(state.take(NOW), Taken::Later(at));
    let run = taken(&mut state, at);
    state.settle(run, complete(), at);
    assert_eq!(answers(&mut state), [ok(1)]);
    assert_eq!(state.figures().aborted, 0);
}

#[test]
fn a_cancel_answers_who_waits_at_once_and_who_runs_at_its_next_step() {
    let mut state = machine(1);
    for (waiter, vbucket) in [(1, 1), (2, 2), (3, 3)] {
        state.request(WaiterId(waiter), id(vbucket), Purge::default());
    }
    let run = taken(&mut state, NOW);
    assert_eq!(state.cancel(Some(id(2)), NOW), 1);
    assert_eq!(answers(&mut state), [aborted(2, AbortReason::Cancelled)]);
    assert_eq!(state.must_abort(run), None);
    assert_eq!(state.cancel(None, NOW), 2);
    assert_eq!(answers(&mut state), [aborted(3, AbortReason::Cancelled)]);
    assert_eq!(state.cancel(None, NOW), 0, "that is told already");
    // Whoever asks now does not join what is given up.
    state.request(WaiterId(4), id(1), Purge::default());
    assert_eq!(state.must_abort(run), Some(AbortReason::Cancelled));
    assert_eq!(state.begun(run), None);
    state.settle(run, RunEnd::Aborted(AbortReason::Cancelled), NOW);
    assert_eq!(answers(&mut state), [aborted(1, AbortReason::Cancelled)]);
    let run = taken(&mut state, NOW);
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(4)]);
    // The engine does not begin at once what somebody gave up.
    state.want(id(2), Purge::default());
    assert_eq!(state.take(NOW), Taken::Later(NOW + CANCEL_REST));
}

#[test]
fn mb_49512_a_stop_answers_who_waits_and_ends_what_runs() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(1), Purge::default());
    state.request(WaiterId(2), id(2), Purge::default());
    state.want(id(3), Purge::default());
    let run = taken(&mut state, NOW);
    state.stop();
    assert_eq!(answers(&mut state), [aborted(2, AbortReason::ShuttingDown)]);
    assert_eq!(state.must_abort(run), Some(AbortReason::ShuttingDown));
    assert_eq!(state.take(NOW), Taken::Nothing);
    state.request(WaiterId(3), id(1), Purge::default());
    assert_eq!(answers(&mut state), [(3, Err(CompactError::Closed))]);
    // Its worker was dropped in order.
    state.settle(run, RunEnd::Interrupted, NOW);
    assert_eq!(answers(&mut state), [aborted(1, AbortReason::ShuttingDown)]);
    assert_eq!(state.figures().failed, 0);
    assert_eq!(state.figures().aborted, 1);
    state.close();
    assert!(answers(&mut state).is_empty());
}

#[test]
fn a_close_answers_whom_a_lost_worker_left() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(1), Purge::default());
    let run = taken(&mut state, NOW);
    state.close();
    assert_eq!(answers(&mut state), [(1, Err(CompactError::Closed))]);
    state.settle(run, complete(), NOW);
    assert!(answers(&mut state).is_empty());
}

#[test]
fn more_waiters_than_allowed_are_refused() {
    let mut state = machine(1);
    for waiter in 0..100 {
        state.request(WaiterId(waiter), id(1), Purge::default());
    }
    assert!(answers(&mut state).is_empty());
    state.request(WaiterId(100), id(2), Purge::default());
    let full = CompactError::TemporaryFailure(Busy::Queue);
    assert_eq!(answers(&mut state), [(100, Err(full))]);
    assert_eq!(state.figures().pending, 1);
}
